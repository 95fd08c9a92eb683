"""A cache in an S3-compatible store: what it keeps, and its failures."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.logging import MMLogger

from clouds_mmseg.refine import SuperpixelRefiner
from clouds_mmseg.utils import array_cache
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.remote import FsspecBackend, RemoteError

KIB = 1024


@pytest.fixture
def log(caplog):
    """mmengine's current logger passes nothing on unless it is the root's."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def entry(number):
    return np.full(KIB, number, np.uint8)


def key(number):
    return hash_text('entry', number)


def name(number):
    return ArrayCache.name(key(number))


def test_an_entry_comes_back_as_it_was(s3_folder, tmp_path, s3_requests):
    cache = ArrayCache(f'{s3_folder}/a/', 10_000)
    assert cache.get(key(0)) is None and cache.size(key(0)) is None
    array = np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3))
    del s3_requests[:]
    cache.put(key(0), array)
    again = ArrayCache(f'{s3_folder}/a', 10_000)
    assert again.folder == f'{s3_folder}/a'
    got = again.get(key(0))
    assert s3_requests == ['put_object', 'list_objects_v2', 'get_object']
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype
    # The file of a folder, under the same name.
    local = ArrayCache(tmp_path, 10_000)
    local.put(key(0), array)
    backend = fileio.get_file_backend(s3_folder)
    content = (tmp_path / name(0)).read_bytes()
    assert backend.get(f'{s3_folder}/a/{name(0)}') == content
    assert again.sizes() == local.sizes() == {name(0): len(content)}
    assert again.size(key(0)) == local.size(key(0)) == len(content)


def test_a_damaged_entry_reads_as_absent_and_is_replaced(s3_folder, log):
    cache = ArrayCache(s3_folder, 10_000)
    backend = fileio.get_file_backend(s3_folder)
    cache.put(key(0), entry(0))
    whole = backend.get(f'{s3_folder}/{name(0)}')
    flipped = whole[:700] + bytes([whole[700] ^ 1]) + whole[701:]
    for damaged in (whole[:500], flipped, b'', b'<!DOCTYPE html>' * 100):
        backend.put(damaged, f'{s3_folder}/{name(0)}')
        assert cache.get(key(0)) is None
        assert not cache.sizes()
        assert f'{s3_folder}/{name(0)} is damaged' in log.text
        log.clear()
        cache.put(key(0), entry(0))
        np.testing.assert_array_equal(cache.get(key(0)), entry(0))


def test_what_exceeds_the_bound_is_not_kept(s3_folder, log, s3_requests):
    ArrayCache(s3_folder, 10**6).put(key(0), entry(0))
    fileio.put(b'x' * 9000, f'{s3_folder}/notes.txt')
    cache = ArrayCache(s3_folder, 4 * (KIB + 200))
    # Another process's counts, and so do own ones; what is replaced does not.
    for number in (1, 2, 2, 2, 2, 3, 4, 5, 6):
        cache.put(key(number), entry(number))
    assert sorted(cache.sizes()) == sorted(map(name, range(4)))
    assert log.text.count('what is new is not kept') == 1
    np.testing.assert_array_equal(cache.get(key(0)), entry(0))
    # A full store is not asked again and again.
    del s3_requests[:]
    cache.put(key(7), entry(7))
    assert not s3_requests
    cache.put(key(8), np.zeros(10_000, np.uint8))
    assert 'too few for entries of' in log.text


def test_a_store_that_fails_is_reported_once(
    s3_folder, s3_account, monkeypatch, log
):
    cache = ArrayCache(s3_folder, 10_000)
    cache.put(key(0), entry(0))
    with monkeypatch.context() as patch:
        patch.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:9')
        s3_account()
        begun = time.monotonic()
        for number in range(50):
            assert cache.get(key(0)) is None
            cache.put(key(number), entry(number))
        # It is left alone for a while after the first.
        assert time.monotonic() - begun < 8
        assert log.text.count('WARNING') == 1
        assert f'Cannot read from the cache {s3_folder}; tra' in log.text
    s3_account()
    assert cache.get(key(0)) is None
    now = time.monotonic
    patch = monkeypatch.setattr
    patch(array_cache.time, 'monotonic', lambda: now() + 3600)
    np.testing.assert_array_equal(cache.get(key(0)), entry(0))
    cache.put(key(1), entry(1))
    assert cache.size(key(1))


def test_who_may_only_read_is_told_and_goes_on(s3_folder, monkeypatch, log):
    cache = ArrayCache(s3_folder, 10_000)

    def refuse(self, obj, filepath):
        raise RemoteError(f'{filepath}: access is denied')

    monkeypatch.setattr(FsspecBackend, 'put', refuse)
    refiner = SuperpixelRefiner(cache_dir=s3_folder)
    image = torch.zeros(3, 16, 32, dtype=torch.uint8)
    label = torch.zeros(16, 32, dtype=torch.int64)
    assert torch.equal(refiner(image, label), label)
    for number in range(2):
        cache.put(key(number), entry(number))
    assert log.text.count('Cannot write to the cache') == 2  # Of each cache.


def in_a_child(cache, result):
    cache.put(key(1), entry(1))
    result.put((cache.get(key(0)) == entry(0)).all())


def test_a_forked_process_uses_the_same_cache(s3_folder):
    cache = ArrayCache(s3_folder, 10_000)
    cache.put(key(0), entry(0))
    context = multiprocessing.get_context('fork')
    result = context.Queue()
    child = context.Process(target=in_a_child, args=(cache, result))
    child.start()
    assert result.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(cache.get(key(1)), entry(1))


def test_an_unknown_kind_of_address_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='ftp://a/b: a cache is a folder, or'):
        ArrayCache('ftp://a/b', 100)
    assert not list(tmp_path.iterdir())
