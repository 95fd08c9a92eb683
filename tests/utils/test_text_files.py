import pytest

from clouds_mmseg.datasets.folder import read_names
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import inner_path, read_json, read_lines

LINES = [(1, 'a b'), (3, 'c')]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_lines_in_every_spelling(tmp_path, encoding, end):
    path = tmp_path / 'list.txt'
    path.write_bytes(end.join(['a b  ', '\t', ' c', '']).encode(encoding))
    assert read_lines(path, 'the list') == LINES


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'a\nstra\xdfe', r'the list .*list\.txt is not UTF-8: line 2'),
        (b'a\n\x00b', r'line 2 of the list .*list\.txt .*control'),
    ],
)
def test_what_is_no_text(tmp_path, content, message):
    path = tmp_path / 'list.txt'
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_lines(path, 'the list')


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match='the list .*gone.* cannot be read'):
        read_lines(tmp_path / 'gone', 'the list')


def test_json(tmp_path):
    path = tmp_path / 'names.json'
    path.write_bytes('{"road": 0,\r\n"car": 1}\n'.encode('utf-8-sig'))
    assert read_json(path, 'the table') == dict(road=0, car=1)
    assert read_names(str(path)) == dict(road=(0,), car=(1,))
    path.write_text('{"road": 0,\n"car" 1}')
    with pytest.raises(UserError, match='no JSON: line 2, column 7'):
        read_json(path, 'the table')
    path.write_text('{"road": 0, "road": 1}')
    with pytest.raises(UserError, match="has 'road' twice"):
        read_json(path, 'the table')


@pytest.mark.parametrize(
    'text', ['[' * 100_000, '{"a":' * 100_000, f'{{"a": {"9" * 5000}}}']
)
def test_json_beyond_pythons_limits_is_one_error(tmp_path, text):
    path = tmp_path / 'x.json'
    path.write_text(text)
    with pytest.raises(UserError, match=r'the list .*x\.json is no JSON'):
        read_json(path, 'the list')


@pytest.mark.parametrize(
    'name',
    [
        '../x',
        'a/../../x',
        '/etc/passwd',
        'C:\\x',
        'c:x',
        's3://a/x',
        'a\\..\\x',
        '',
        'a\0',
        3,
    ],  # fmt: skip
)
def test_names_that_lead_out(name):
    with pytest.raises(ValueError, match='leads out|is no name|control'):
        inner_path(name)
    for fine in ('a/b..c.png', 'Shot at 9:41\u202fPM.png'):
        assert inner_path(fine) == fine
