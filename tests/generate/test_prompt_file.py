import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.generate.prompts import (
    UniquePrompts,
    read_prompts,
    write_prompts,
)
from clouds_mmseg.utils.errors import GenerationError


def test_lines_keep_their_numbers(tmp_path):
    path = tmp_path / 'p.txt'
    path.write_bytes(b'\xef\xbb\xbf\r\n a  road \r\n\n\tcaf\xc3\xa9 street\n')
    assert read_prompts(path) == [(2, 'a road'), (4, 'caf\u00e9 street')]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b' \n\n\t\n', 'is empty'),
        (b'a road\na stra\xdfe\n', r'not UTF-8: line 2 has the byte 0xdf'),
        (b'a road\n\x00\x01\n', r'line 2 .* control character'),
    ],
)
def test_bad_content_is_one_error(tmp_path, content, message):
    path = tmp_path / 'p.txt'
    path.write_bytes(content)
    with pytest.raises(GenerationError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('name', ['missing.txt', '.'])
def test_unreadable_file(tmp_path, name):
    with pytest.raises(GenerationError, match='cannot be read'):
        read_prompts(tmp_path / name)


def test_write_and_read_back(tmp_path):
    path = tmp_path / 'deep' / 'p.txt'
    prompts = ['a wet road', 'a tram']
    beside = write_prompts(path, prompts, dict(backend='template', seed=3))
    assert [text for _, text in read_prompts(path)] == prompts
    how = json.loads(beside.read_text())
    assert beside.name == 'p.json'
    assert how['num'] == 2 and how['seed'] == 3
    assert how['coverage']['train'] == 1
    assert len(how['sha256']) == 64


def test_the_json_must_not_overwrite_the_prompts(tmp_path):
    with pytest.raises(GenerationError, match='another suffix'):
        write_prompts(tmp_path / 'p.json', ['a'], {})
    assert not list(tmp_path.iterdir())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text('aBb ,\u00df', max_size=4), max_size=9))
def test_unique_keeps_the_first_of_each(texts):
    unique = UniquePrompts()
    added = [text for text in texts if unique.add(text)]
    assert unique.prompts == added
    assert len(added) + unique.duplicates == len(texts)


def test_case_and_punctuation_do_not_make_a_prompt_new():
    unique = UniquePrompts()
    assert unique.add('A road, at night.')
    assert not unique.add('a ROAD at night')
    assert unique.duplicates == 1
