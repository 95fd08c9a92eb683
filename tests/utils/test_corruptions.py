import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds_mmseg.robustness.corruptions import (
    CATEGORIES,
    CORRUPTIONS,
    SEVERITIES,
    check_choice,
    domain_of,
    split_domain,
)
from clouds_mmseg.utils.errors import UserError


def test_names_are_those_of_the_benchmark():
    # Hendrycks and Dietterich 2019, section 3: 15 kinds in 4 categories.
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 15
    sizes = {name: len(kinds) for name, kinds in CATEGORIES.items()}
    assert sizes == dict(noise=3, blur=4, weather=4, digital=4)


@given(st.sampled_from(CORRUPTIONS), st.sampled_from(SEVERITIES))
def test_domains_come_apart_again(corruption, severity):
    domain = domain_of(corruption, severity)
    assert split_domain(domain) == (corruption, severity)


@pytest.mark.parametrize('name', ['clean', 'fog', 'fog_6', 'fog_03', '_1'])
def test_other_domains_are_no_corruptions(name):
    assert split_domain(name) is None


def test_categories_stand_for_their_corruptions():
    names, severities = check_choice(['fog', 'noise', 'shot_noise'], [3, 1])
    assert names == ('gaussian_noise', 'shot_noise', 'impulse_noise', 'fog')
    assert severities == (1, 3)
    assert check_choice() == (CORRUPTIONS, SEVERITIES)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((['fogg'], None), 'unknown corruptions: fogg; there are: gaussian'),
        ((None, [0, 6]), r'integers in 1..5, got \[0, 6\]'),
        (([], None), 'at least one corruption'),
    ],
)
def test_wrong_choices(arguments, message):
    with pytest.raises(UserError, match=message):
        check_choice(*arguments)
