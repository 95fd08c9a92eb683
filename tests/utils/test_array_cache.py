import logging
import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest

from clouds_mmseg.utils import locks
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_array, hash_file, hash_text

KIB = 1024


def entry(number):
    """An array of 1 KiB whose content tells its key."""
    return np.full(KIB, number % 256, np.uint8)


def key(number):
    return hash_text('entry', number)


def file_of(cache, key):
    return cache.folder / cache.name(key)


def used_bytes(folder):
    return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize(
    'array',
    [
        np.arange(6, dtype=np.float16).reshape(1, 2, 3),
        np.array([], np.int64),
        np.array(3.5),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
    ],
)
def test_an_array_comes_back_as_it_was(tmp_path, array):
    cache = ArrayCache(tmp_path, 10_000)
    assert cache.get(key(0)) is None
    cache.put(key(0), array)
    again = ArrayCache(tmp_path, 10_000).get(key(0))
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype and again.shape == array.shape


@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'other'])
def test_a_damaged_entry_reads_as_absent_and_is_replaced(tmp_path, damage):
    cache = ArrayCache(tmp_path, 100_000)
    cache.put(key(1), entry(1))
    path = file_of(cache, key(1))
    content = bytearray(path.read_bytes())
    if damage == 'cut':
        content = content[:500]
    elif damage == 'flip':
        content[700] ^= 1
    elif damage == 'empty':
        content = b''
    else:
        content = b'<!DOCTYPE html>' * 100
    path.write_bytes(content)
    assert cache.get(key(1)) is None
    assert not path.exists()
    cache.put(key(1), entry(1))
    np.testing.assert_array_equal(cache.get(key(1)), entry(1))


def test_the_bound_holds_and_what_was_used_last_stays(tmp_path, caplog):
    bound = 50 * KIB
    cache = ArrayCache(tmp_path, bound)
    cache.put(key(0), entry(0))
    now = time.time()
    # File times stand in for hours of training between the uses.
    os.utime(file_of(cache, key(0)), (now - 10_000, now - 10_000))
    for number in range(1, 120):
        cache.put(key(number), entry(number))
        stamp = now - 5_000 + number
        os.utime(file_of(cache, key(number)), (stamp, stamp))
        assert cache.get(key(0)) is not None
        assert used_bytes(tmp_path) <= bound
    present = [file_of(cache, key(n)).exists() for n in range(120)]
    assert sum(present) >= 30
    assert all(present[-25:]) and not any(present[1:70])
    assert caplog.text.count('raise the bound') == 1


def test_an_entry_beyond_the_bound_is_not_kept_and_said_once(tmp_path, caplog):
    cache = ArrayCache(tmp_path, 1000)
    for number in range(3):
        cache.put(key(number), entry(number))
        assert cache.get(key(number)) is None
    assert used_bytes(tmp_path) == 0
    assert caplog.text.count('too few for entries') == 1


def test_what_a_killed_process_left_is_swept(tmp_path):
    cache = ArrayCache(tmp_path, 100_000)
    cache.put(key(0), entry(0))
    folder = file_of(cache, key(0)).parent
    left, strange = folder / '.abc-partfile.arr', folder / 'notes.txt'
    for path in (left, strange):
        path.write_bytes(b'x')
    hours_ago = time.time() - 7200
    os.utime(strange, (hours_ago, hours_ago))
    with atomic_path(folder / 'abd.arr') as alive:
        ArrayCache(tmp_path, 100_000).put(key(1), entry(1))
        assert not left.exists() and alive.exists() and strange.exists()


def test_without_locks_it_is_swept_after_an_hour(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'fcntl', None)
    old, new = (tmp_path / f'.ab{x}-12345678.arr' for x in 'cd')
    for path in (old, new):
        path.write_bytes(b'x')
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    ArrayCache(tmp_path, 100_000).put(key(1), entry(1))
    assert not old.exists() and new.exists()


def churn(folder, start, failures):
    """Write and read under a bound that forces constant eviction."""
    try:
        cache = ArrayCache(folder, 60 * KIB)
        for step in range(200):
            number = (start + step * 7) % 90
            array = cache.get(key(number))
            if array is None:
                cache.put(key(number), entry(number))
            elif not np.array_equal(array, entry(number)):
                failures.put(f'{number} read as {array[:3]}')
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context('fork')
    failures = context.Queue()
    workers = [
        context.Process(target=churn, args=(tmp_path, start, failures))
        for start in (0, 3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert failures.empty()
    assert used_bytes(tmp_path) <= 60 * KIB
    assert not list(tmp_path.rglob('.*'))


def write_forever(folder):
    cache = ArrayCache(folder, 10**9)
    for number in range(10**9):
        cache.put(key(number), np.full(200_000, number % 256, np.uint8))


def test_a_kill_leaves_only_whole_entries(tmp_path):
    worker = multiprocessing.get_context('fork').Process(
        target=write_forever, args=(tmp_path,)
    )
    worker.start()
    cache = ArrayCache(tmp_path, 10**9)
    while not file_of(cache, key(20)).exists():
        time.sleep(0.01)
        assert worker.is_alive()
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    present = [n for n in range(1000) if file_of(cache, key(n)).exists()]
    for number in present:
        assert (cache.get(key(number)) == number % 256).all()
    assert len(present) > 20


def fill_the_disk(folder, result):
    """Write where the system refuses files above 2 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * KIB, 2 * KIB))
    cache = ArrayCache(folder, 10**6)
    cache.put(key(0), np.zeros(10 * KIB, np.uint8))
    cache.put(key(1), entry(1))
    result.put((cache.get(key(0)), cache.get(key(1)).tolist()))


def test_a_full_disk_costs_the_entry_alone(tmp_path):
    context = multiprocessing.get_context('fork')
    result = context.Queue()
    worker = context.Process(target=fill_the_disk, args=(tmp_path, result))
    worker.start()
    lost, kept = result.get(timeout=30)
    worker.join()
    assert lost is None and kept == entry(1).tolist()
    assert [p.name[0] for p in tmp_path.rglob('*.arr')] != ['.']


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    occupied = tmp_path / 'file'
    occupied.write_text('')
    with pytest.raises(UserError, match=f'{occupied}'):
        ArrayCache(occupied, 100)
    with pytest.raises(UserError, match='must be positive, got 0'):
        ArrayCache(tmp_path, 0)


def test_an_unreadable_entry_is_reported_once(tmp_path, caplog):
    cache = ArrayCache(tmp_path, 10_000)
    for number in range(2):
        # Nobody can read a folder as a file, root included.
        file_of(cache, key(number)).mkdir(parents=True)
        assert cache.get(key(number)) is None
    assert caplog.text.count('Cannot read') == 1


def test_digests_tell_contents_apart(tmp_path):
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    different = [
        image,
        image.reshape(4, 3),
        image.astype(np.int8),
        image[::-1],
        np.zeros_like(image),
    ]
    assert len({hash_array(a) for a in different}) == len(different)
    assert hash_array(image) == hash_array(np.asfortranarray(image))
    assert hash_text('a', 'bc') != hash_text('ab', 'c')
    assert hash_text(1, 'x') == hash_text('1', 'x')
    paths = [tmp_path / name for name in 'abc']
    for path, content in zip(paths, [b'x', b'x', b'y'], strict=True):
        path.write_bytes(content)
    first, second, third = map(hash_file, paths)
    assert first == second != third


@pytest.fixture(autouse=True)
def capture_warnings(caplog):
    """mmengine's current logger passes nothing on unless it is the root's."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield
    logger.removeHandler(caplog.handler)
