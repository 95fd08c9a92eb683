"""Files and leases of shared work, in a folder and in an object store."""

import time
import uuid

import pytest

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.work_files import work_files


@pytest.fixture(params=['folder', 'store'])
def root(request, tmp_path):
    if request.param == 'folder':
        return str(tmp_path / 'work')
    return request.getfixturevalue('s3_folder')


@pytest.fixture
def files(root):
    files = work_files(root, 1.0)
    files.prepare()
    files.prepare('00001')
    return files


def take(files, *names):
    return files.take('00001', names, files.names('00001'))


def test_a_file_is_created_once(files):
    assert files.create('00001/a.json', b'1')
    assert not files.create('00001/a.json', b'2')
    assert files.read('00001/a.json') == b'1'
    assert files.exists('00001/a.json') and not files.exists('00001/b.json')
    assert set(files.names('00001')) == {'a.json'} and not files.names('00002')
    with pytest.raises(FileNotFoundError):
        files.read('00001/b.json')


def test_files_are_removed(files):
    for name in 'abc':
        files.create(f'00001/{name}', b'')
    files.remove('00001', ['a', 'never there'])
    assert set(files.names('00001')) == {'b', 'c'}
    files.remove_folder('00001')
    assert not files.names('00001')
    files.remove_folder('00001')


def test_a_lease_has_one_holder(root, files):
    other = work_files(root, 1.0)
    held = [take(f, '0', '1') for f in (files, other)]
    assert {one.name for one in held} == {'0', '1'}
    assert not any(one.again for one in held)
    assert take(files, '0', '1') is None
    held[0].release()
    again = take(other, '0', '1')
    assert again.name == held[0].name and not again.again
    for one in (held[1], again):
        one.release()
    assert not files.names('00001')


def test_a_lease_that_is_renewed_stays(root, files):
    held = take(files, '0')
    other = work_files(root, 1.0)
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        assert take(other, '0') is None
        time.sleep(0.1)
    held.release()


def test_a_lease_in_a_store_that_is_not_renewed_is_taken_over(s3_folder):
    mine, late = work_files(s3_folder, 1.0), work_files(s3_folder, 1.0)
    # Two processes that are gone: of the second the first lease is left too.
    for generation in (1, 2):
        mine.create(f'00001/0.{generation}.lease', b'')
    begun = time.monotonic()
    assert take(late, '0') is None
    while (held := take(mine, '0')) is None:
        time.sleep(0.1)
    assert held.again and time.monotonic() - begun > 1
    assert '0.3.lease' in mine.names('00001')
    # For another one, which saw the old lease for long enough, too late.
    assert take(late, '0') is None
    held.release()


def test_a_lease_that_others_have_removed_is_not_written_again(s3_folder):
    files = work_files(s3_folder, 1.0)
    held = take(files, '0')
    files.remove_folder('00001')
    time.sleep(0.8)
    assert not files.names('00001')
    held.release()


def test_a_store_without_conditional_writes_is_refused(s3_folder, monkeypatch):
    import s3fs

    real = s3fs.S3FileSystem.pipe_file

    def overwrite(self, path, value, mode='overwrite'):
        return real(self, path, value)

    monkeypatch.setattr(s3fs.S3FileSystem, 'pipe_file', overwrite)
    files = work_files(s3_folder, 1.0)
    with pytest.raises(UserError, match='conditional writes'):
        files.prepare()
    assert not files.names()
    with pytest.raises(UserError, match=r'memory://a.*cannot share'):
        work_files('memory://a', 1.0).prepare()


def test_a_bucket_that_does_not_exist_is_named(s3_account):
    address = f's3://none-{uuid.uuid4().hex}/work'
    with pytest.raises(UserError, match='there is no such bucket'):
        work_files(address, 1.0).prepare()
