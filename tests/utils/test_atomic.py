import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.utils.atomic import atomic_path, leftovers


@settings(max_examples=20, deadline=None)
@given(content=st.binary(max_size=200))
def test_the_file_has_what_was_written(tmp_path_factory, content):
    path = tmp_path_factory.mktemp('a') / 'deep' / 'file.bin'
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == '.bin'
        assert not path.exists()
        temporary.write_bytes(content)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ['file.bin']


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / 'results.json'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text('half')
        raise ZeroDivisionError
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['results.json']


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_path(tmp_path / 'x') as temporary:
            temporary.write_text('1')
    finally:
        os.umask(old)
    mode = stat.S_IMODE((tmp_path / 'x').stat().st_mode)
    assert mode == 0o640


def test_leftovers_are_those_of_the_target_only(tmp_path):
    block = atomic_path(tmp_path / 'iter_10.pth')
    temporary = block.__enter__()
    # What else lies there must never be taken for a leftover.
    for name in ('iter_10.pth', '.iter_10.pth', '.iter_10-x.pth', '.bashrc'):
        (tmp_path / name).write_text('')
    assert leftovers(tmp_path / 'iter_*.pth') == [temporary]
    assert leftovers(tmp_path / 'iter_10.pth') == [temporary]
    assert leftovers(tmp_path / 'last_checkpoint') == []
    temporary.write_text('')
    block.__exit__(None, None, None)
    assert leftovers(tmp_path / 'iter_*.pth') == []
