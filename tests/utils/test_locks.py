"""Locks between processes."""

import errno
import multiprocessing
import os
import runpy
import signal
import sys
import threading

import pytest

from clouds_mmseg.utils import locks
from clouds_mmseg.utils.locks import ProcessLock


def _hold(path, ready):
    lock = ProcessLock(path)
    assert lock.acquire(wait=True)
    ready.set()
    signal.pause()


@pytest.fixture
def held(tmp_path):
    """Path of a lock, and the process that holds it."""
    context = multiprocessing.get_context('fork')
    ready = context.Event()
    path = tmp_path / 'a.lock'
    process = context.Process(target=_hold, args=(path, ready))
    process.start()
    assert ready.wait(30)
    yield path, process
    process.kill()
    process.join()


def test_one_process_has_it(held):
    path, _ = held
    assert not ProcessLock(path).acquire(wait=False)


def test_the_lock_of_a_killed_process_is_free(held):
    path, process = held
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert path.exists()
    lock = ProcessLock(path)
    assert lock.acquire(wait=False)
    lock.release(remove=True)
    assert not path.exists()
    lock.release()


def test_a_process_that_waits_gets_it_next(held):
    path, process = held
    timer = threading.Timer(0.2, process.kill)
    timer.start()
    lock = ProcessLock(path)
    assert lock.acquire(wait=True)
    assert timer.finished.is_set()
    lock.release()


def _hold_with_a_child(path, ready):
    lock = ProcessLock(path)
    assert lock.acquire(wait=False)
    # As the workers of a data loader, which outlive a kill by seconds.
    if os.fork():
        ready.set()
    signal.pause()


def test_a_child_does_not_hold_it(tmp_path):
    context = multiprocessing.get_context('fork')
    ready, path = context.Event(), tmp_path / 'a.lock'
    process = context.Process(target=_hold_with_a_child, args=(path, ready))
    process.start()
    assert ready.wait(30)
    children = f'/proc/{process.pid}/task/{process.pid}/children'
    with open(children) as stream:
        child = int(stream.read())
    try:
        process.kill()
        process.join()
        assert ProcessLock(path).acquire(wait=False)
    finally:
        os.kill(child, signal.SIGKILL)


def test_who_holds_it_is_noted(held):
    path, _ = held
    lock = ProcessLock(path)
    assert not lock.acquire(wait=False) and lock.read_note() == ''
    other = ProcessLock(path.with_name('b.lock'))
    assert other.acquire(wait=False)
    other.note('process 1')
    assert ProcessLock(other.path).read_note() == 'process 1'
    other.release(remove=True)
    assert other.read_note() == ''


@pytest.mark.parametrize('code', [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_checks_nothing(
    tmp_path, monkeypatch, code
):
    import fcntl

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    lock = ProcessLock(tmp_path / 'a.lock')
    assert lock.acquire(wait=True)
    lock.release(remove=True)


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError):
        ProcessLock(tmp_path / 'file' / 'a.lock').acquire(wait=False)


@pytest.mark.filterwarnings('ignore:only soft file lock')
def test_locks_work_without_fcntl(tmp_path, monkeypatch):
    """As on Windows; see test_mmseg_api.py for the import of the package."""
    monkeypatch.setitem(sys.modules, 'fcntl', None)
    for name in list(sys.modules):
        if name.partition('.')[0] == 'filelock':
            monkeypatch.delitem(sys.modules, name)
    copy = runpy.run_path(locks.__file__)
    assert copy['fcntl'] is None
    path = tmp_path / 'a.lock'
    first, second = (copy['ProcessLock'](path) for _ in range(2))
    assert first.acquire(wait=False) and not second.acquire(wait=False)
    first.release()
    assert second.acquire(wait=False)
    second.release()
