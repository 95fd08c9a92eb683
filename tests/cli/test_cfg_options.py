import argparse
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clouds_mmseg_cli.cfg_options import (
    CfgOptions,
    format_value,
    parse_value,
)

SCALARS = (
    st.text()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    """Equal, and of equal types all the way down: 1 is not True."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(VALUES)
@example("it's")
@example(['a,b', "(c'", '"', '\\'])
@example({'a: b': ['}']})
def test_whatever_is_typed_as_a_literal_comes_back(value):
    assert same(parse_value(repr(value)), value)
    assert same(parse_value(format_value(value)), value)


@given(st.text(alphabet='abc []{}()\'",:=1.', max_size=12))
def test_any_text_is_a_value_or_one_clear_error(text):
    try:
        value = parse_value(text)
    except ValueError as error:
        assert 'do not match' in str(error)
        return
    assert same(parse_value(format_value(value)), value)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        # Blanks of a name stay.
        ('/disk/my data', '/disk/my data'),
        ('traffic light', 'traffic light'),
        ('[road, traffic light]', ['road', 'traffic light']),
        ("['traffic light', \"it's\"]", ['traffic light', "it's"]),
        ('  padded ', 'padded'),
        ("' padded '", ' padded '),
        # A quoted value is a string, commas and all.
        ("'1'", '1'),
        ('"a, b"', 'a, b'),
        ("'a' 'b'", "'a' 'b'"),
        ("it's", "it's"),
        ("rock'n'roll, soul", ["rock'n'roll", 'soul']),
        # What mmengine's DictAction reads.
        ('1', 1),
        ('-3', -3),
        ('1e-5', 1e-5),
        ('.5', 0.5),
        ('True', True),
        ('false', False),
        ('None', None),
        ('none', 'none'),
        ('0x10', '0x10'),
        ('1,2,3', [1, 2, 3]),
        ('[1,2,3]', [1, 2, 3]),
        ('a,b', ['a', 'b']),
        ('(1,2)', (1, 2)),
        ('(1)', (1,)),
        ('(1,)', (1,)),
        ('[]', []),
        ('()', ()),
        ('', ''),
        ('[(1,2),[a,b],c]', [(1, 2), ['a', 'b'], 'c']),
        ('lr=0.1', 'lr=0.1'),
        # What it loops on, or splits.
        ('[1],[2]', [[1], [2]]),
        ('f(a,b)', 'f(a,b)'),
        ('a[0]', 'a[0]'),
        ('{a: 1, b: [x, None]}', {'a': 1, 'b': ['x', None]}),
        ("{'type': 'SGD'}", {'type': 'SGD'}),
        ('{split}', '{split}'),
        ('{split}/images', '{split}/images'),
        ('http://host:80/a', 'http://host:80/a'),
    ],
)
def test_values(text, value):
    assert same(parse_value(text), value)


def test_infinity_is_a_number():
    assert parse_value('inf') == math.inf
    assert math.isnan(parse_value('nan'))


@pytest.mark.parametrize('text', ['[1,2', '(1,[2)', 'a(,b', '[1)'])
def test_brackets_that_do_not_match(text):
    with pytest.raises(ValueError, match='do not match; put quotes'):
        parse_value(text)


def parse(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args(words).cfg_options


def test_options_are_collected():
    assert parse(
        '--cfg-options', 'a.b=1', 'c=x=y', '--cfg-options', 'a.b=2'
    ) == {
        'a.b': 2,
        'c': 'x=y',
    }
    assert parse() is None


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('max_iters', "'max_iters' is not of the form KEY=VALUE"),
        ('=3', "'=3' is not of the form KEY=VALUE"),
        ('a..b=3', "'a..b=3' is not of the form KEY=VALUE"),
        ('a=[1', "a: the brackets of '[1' do not match"),
    ],
)
def test_a_wrong_word_is_one_line(word, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse('--cfg-options', word)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
