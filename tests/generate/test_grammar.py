import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.generate import prompts as grammar
from clouds_mmseg.generate.prompts import (
    THINGS,
    class_coverage,
    classes_in,
    coverage_lines,
    normalise,
    template_prompts,
)
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import GenerationError


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 2**40))
def test_prompts_are_different_and_a_prefix_of_longer_lists(a, b, seed):
    short, long = sorted((a, b))
    prompts, _ = template_prompts(long, seed=seed)
    assert len({normalise(p) for p in prompts}) == long
    assert template_prompts(short, seed=seed)[0] == prompts[:short]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40))
def test_ten_prompts_in_a_row_name_every_class(seed):
    prompts, _ = template_prompts(30, seed=seed)
    for start in range(20):
        counts = class_coverage(prompts[start : start + 10])
        assert all(counts.values()), counts


def test_seed_changes_the_prompts():
    assert template_prompts(5, seed=0) != template_prompts(5, seed=1)


def test_prompts_are_plausible_and_short():
    prompts, _ = template_prompts(500)
    assert not any('summer' in p and 'snow' in p for p in prompts)
    assert not any('night' in p and 'bright sun' in p for p in prompts)
    # CLIP's text encoder reads 75 tokens; a word is 1.3 of them or so.
    assert max(len(p.split()) for p in prompts) <= 58


@pytest.mark.parametrize('name', CLASSES)
def test_every_thing_is_recognised_as_its_class(name):
    for thing in THINGS[name]:
        assert name in classes_in(thing), thing


def test_an_exhausted_grammar_says_so(monkeypatch):
    for table in ('VIEWS', 'LOCATIONS', 'TIMES', 'SEASONS'):
        monkeypatch.setattr(grammar, table, getattr(grammar, table)[:1])
    monkeypatch.setattr(
        grammar, 'WEATHERS', {'clear weather': grammar.SEASONS}
    )
    monkeypatch.setattr(
        grammar,
        'THINGS',
        {name: things[:1] for name, things in THINGS.items()},
    )
    monkeypatch.setattr(grammar, 'CLASSES', CLASSES[:4])
    with pytest.raises(GenerationError, match='Ask for fewer'):
        template_prompts(1000)


def test_num_must_be_positive():
    with pytest.raises(GenerationError, match='--num must be 1 or more'):
        template_prompts(0)


def test_coverage_counts_words_not_parts_of_words():
    assert classes_in('a carpet, a busy postcard') == []
    assert classes_in('two buses, traffic  lights and lorries') == [
        'traffic light', 'bus',
    ]  # fmt: skip
    assert classes_in('Men ride BICYCLES') == ['person', 'bicycle']


def test_coverage_lines_name_what_is_missing():
    counts = class_coverage(['a road', 'a car on a road'])
    lines = coverage_lines(counts, 2)
    assert '100.0 %' in lines[0]
    assert lines[-1].startswith('no prompt names: sidewalk')
    full = class_coverage(template_prompts(20)[0])
    assert len(coverage_lines(full, 20)) == 19
