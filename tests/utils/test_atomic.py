import errno
import os
import signal
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.utils.atomic import (
    atomic_folder,
    atomic_path,
    create_file,
    leftovers,
    leftovers_below,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import naming


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


def killed_in(block, name='part'):
    """Fork a process that is killed inside of a block."""
    child = os.fork()
    if not child:
        place = block.__enter__()
        (place / name if place.is_dir() else place).write_text('half')
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_what_a_kill_left_is_written_anew(tmp_path):
    path = tmp_path / '3.png'
    killed_in(atomic_path(path))
    (left,) = leftovers(path)
    assert left.read_text() == 'half'
    with atomic_path(path) as temporary:
        assert temporary == left and temporary.read_text() == ''
        temporary.write_text('whole')
    assert path.read_text() == 'whole'
    assert os.listdir(tmp_path) == ['3.png']


def test_two_at_once_do_not_share_a_file(tmp_path):
    path = tmp_path / 'a.txt'
    with atomic_path(path) as first:
        first.write_text('first')
        with atomic_path(path) as second:
            assert second != first
            second.write_text('second')
        # Both live, and none of them is taken for a leftover.
        assert remove_abandoned(leftovers_below(tmp_path)) == []
        assert path.read_text() == 'second'
    assert path.read_text() == 'first'
    assert os.listdir(tmp_path) == ['a.txt']


def test_only_what_nobody_writes_is_removed(tmp_path):
    killed_in(atomic_path(tmp_path / 'deep/a.json'))
    (tmp_path / '.notes-20261126.txt').write_text('of the user')
    (left,) = leftovers_below(tmp_path)
    assert remove_abandoned([left, tmp_path / 'none']) == [left]
    assert os.listdir(tmp_path / 'deep') == []
    assert (tmp_path / '.notes-20261126.txt').is_file()


def test_a_file_of_another_process_stays(tmp_path):
    path = tmp_path / 'bank.json'
    assert create_file(path, b'early')
    assert not create_file(path, b'late')
    assert path.read_bytes() == b'early'
    assert os.listdir(tmp_path) == ['bank.json']


def test_a_kill_while_a_file_is_created_does_no_harm(tmp_path, monkeypatch):
    path = tmp_path / 'bank.json'
    unlink = Path.unlink
    # As if killed between the link and the removal of the other name.
    monkeypatch.setattr(Path, 'unlink', lambda *args, **kwargs: None)
    assert create_file(path, b'content')
    monkeypatch.setattr(Path, 'unlink', unlink)
    (left,) = leftovers(path)
    with atomic_path(tmp_path / 'bank.json') as temporary:
        assert path.read_bytes() == b'content'
        temporary.write_text('new')
    assert remove_abandoned([left]) == [left]
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['bank.json']


def test_errors_of_the_system_name_the_file(tmp_path):
    path = tmp_path / 'results.json'
    with pytest.raises(OSError) as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, 'No space left on device')
    assert caught.value.filename == str(path)


def test_a_file_that_cannot_be_created_is_named(tmp_path, monkeypatch):
    path = tmp_path / 'bank.json'
    failing = OSError(errno.EIO, 'Input/output error')
    monkeypatch.setattr(os, 'fsync', Mock(side_effect=failing))
    with pytest.raises(OSError) as caught:
        create_file(path, b'content')
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_a_link_whose_answer_was_lost_is_done(tmp_path, monkeypatch):
    real = os.link

    def lose_the_answer(source, target):
        real(source, target)
        # What the system answers to its own repetition of the call.
        raise FileExistsError(errno.EEXIST, 'File exists')

    monkeypatch.setattr(os, 'link', lose_the_answer)
    assert create_file(tmp_path / 'bank.json', b'early')
    assert not create_file(tmp_path / 'bank.json', b'late')
    assert (tmp_path / 'bank.json').read_bytes() == b'early'


def test_errors_that_cannot_be_changed_name_the_file_too(tmp_path):
    class Fixed(OSError):
        """Like those of PyAV."""

        filename = property(lambda self: None)

    for wrap in (atomic_path, naming):
        with pytest.raises(OSError) as caught, wrap(tmp_path / 'a.mp4'):
            raise Fixed(errno.ENOSPC, 'No space left on device')
        assert caught.value.filename == str(tmp_path / 'a.mp4')
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_a_rename_whose_answer_was_lost_is_done(tmp_path, monkeypatch, kind):
    real = os.replace

    def lose_the_answer(source, target):
        real(source, target)
        raise OSError(errno.ENOENT, 'No such file or directory')

    def fail(source, target):
        raise OSError(errno.EIO, 'Input/output error')

    make = atomic_path if kind == 'file' else atomic_folder
    for action in (lose_the_answer, fail):
        monkeypatch.setattr(os, 'replace', action)
        path = tmp_path / action.__name__
        try:
            with make(path) as place:
                place = place / 'x' if place.is_dir() else place
                place.write_text('1')
        except OSError as error:
            assert action is fail and error.errno == errno.EIO
        assert path.exists() == (action is lose_the_answer)
    assert os.listdir(tmp_path) == ['lose_the_answer']


def test_a_kill_between_two_renames_loses_no_folder(tmp_path):
    path = tmp_path / 'model'
    path.mkdir()
    (path / 'old').write_text('old')

    replace = os.replace

    def replace_and_die(source, target):
        replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        os.replace = replace_and_die
        with atomic_folder(path):
            pass
    os.waitpid(child, 0)
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as new:
        (new / 'new').write_text('new')
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ['model']
    assert os.listdir(path) == ['old']
    killed_in(atomic_folder(path))
    with atomic_folder(path) as new:
        (new / 'new').write_text('new')
    assert os.listdir(tmp_path) == ['model']
    assert os.listdir(path) == ['new']
