"""Work that processes share through a folder."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from clouds_mmseg.utils.remote import list_below
from clouds_mmseg.utils.shared_work import (
    ChunksLost,
    SharedWork,
    SharedWorkError,
    split,
)
from clouds_mmseg.utils.work_files import work_files


def job(folder, chunks=4, lease=1.0, **arguments):
    return SharedWork(folder, 'test', arguments, chunks=chunks, lease=lease)


def finished(results):
    def finish(found):
        results.append(found)

    return finish


@pytest.mark.parametrize('items', [0, 1, 999, 1001, 24_966])
@pytest.mark.parametrize('multiple', [1, 3])
def test_chunks_cover_all_items_once(items, multiple):
    chunks = split(items, multiple)
    assert [i for chunk in chunks for i in chunk] == list(range(items))
    assert len(chunks) <= 1000
    assert all(chunk.start % multiple == 0 for chunk in chunks)


def test_one_process_does_all_and_finishes_once(tmp_path):
    ends = []
    share = job(tmp_path).run(lambda chunk: chunk.number**2, finished(ends))
    assert ends == [[0, 1, 4, 9]]
    assert share.done == 4 and share.finished and not share.lost
    left = [p.name for p in tmp_path.rglob('*') if p.is_file()]
    assert sorted(left) == ['finished.json', 'job-00001.json']


def test_a_finished_job_can_be_done_again_with_other_arguments(tmp_path):
    ends = []
    for seed in (1, 1, 2):
        work = job(tmp_path, seed=seed)
        work.run(lambda chunk: chunk.number, finished(ends))
    assert len(ends) == 3
    files = sorted((tmp_path / '.work/test').iterdir())
    assert [f.name for f in files] == ['00003', 'job-00003.json']


def test_processes_that_were_started_otherwise_are_refused(tmp_path):
    job(tmp_path, seed=1)
    job(tmp_path, seed=1)
    with pytest.raises(SharedWorkError, match='seed: there 1, here 2'):
        job(tmp_path, seed=2)
    with pytest.raises(SharedWorkError, match='lease: there 1.0, here 2.0'):
        job(tmp_path, seed=1, lease=2)
    file = tmp_path / '.work/test/job-00001.json'
    changed = json.loads(file.read_text())
    changed['versions']['clouds_mmseg'] = '0.0.1'
    file.write_text(json.dumps(changed))
    with pytest.raises(SharedWorkError, match=r'clouds_mmseg: there "0\.0\.1'):
        job(tmp_path, seed=1)
    file.write_text('{')
    with pytest.raises(SharedWorkError, match='damaged.*delete'):
        job(tmp_path, seed=1)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SharedWorkError, match=r'file.*\.work.*written'):
        job(tmp_path / 'file')


def test_an_error_leaves_the_chunk_to_others(tmp_path):
    def fail(chunk):
        raise ValueError('full')

    with pytest.raises(ValueError, match='full'):
        job(tmp_path).run(fail, finished([]))
    ends = []
    job(tmp_path).run(lambda chunk: chunk.number, finished(ends))
    assert ends == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    'call, suffix', [('write', 'lease'), ('fsync', 'json')]
)
def test_what_a_disk_refuses_is_named_and_left_to_others(
    tmp_path, monkeypatch, call, suffix
):
    mine = job(tmp_path)
    full = OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, call, Mock(side_effect=full))
    with pytest.raises(OSError, match='No space') as caught:
        mine.run(lambda chunk: chunk.number, finished([]))
    assert caught.value.filename == f'{mine.folder}/000000.{suffix}'
    monkeypatch.undo()
    ends = []
    share = job(tmp_path).run(lambda chunk: chunk.number, finished(ends))
    assert ends == [[0, 1, 2, 3]] and share.done == 4


def test_what_cannot_be_removed_ends_no_work(tmp_path, monkeypatch):
    ends = []
    mine = job(tmp_path)
    monkeypatch.setattr(os, 'unlink', Mock(side_effect=OSError(errno.EIO, '')))
    share = mine.run(lambda chunk: chunk.number, finished(ends))
    assert ends == [[0, 1, 2, 3]] and share.finished


def test_what_a_killed_process_left_of_a_job_is_removed(tmp_path):
    mine = job(tmp_path)
    left = tmp_path / '.work/test/.job-00001-abcd1234.json'
    left.write_text('')
    mine.run(lambda chunk: None, finished([]))
    assert not left.exists()


def test_an_error_in_finishing_leaves_it_to_others(tmp_path):
    def fail(found):
        raise ValueError('full')

    with pytest.raises(ValueError, match='full'):
        job(tmp_path).run(lambda chunk: None, fail)
    ends = []
    share = job(tmp_path).run(lambda chunk: None, finished(ends))
    assert len(ends) == 1 and share.done == 0 and share.finished


def _run(folder, name, seconds, number, place=None):
    def work(chunk):
        (folder / f'{name}-{chunk.number}').write_text(str(chunk.begun))
        time.sleep(seconds)
        return name

    def finish(found):
        with open(folder / 'ends', 'a') as stream:
            stream.write(json.dumps(found) + '\n')

    share = job(place or folder, number).run(work, finish)
    (folder / f'{name}.json').write_text(json.dumps(vars(share)))


def start(*args):
    fork = multiprocessing.get_context('fork')
    process = fork.Process(target=_run, args=args)
    process.start()
    return process


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


@pytest.fixture(params=['folder', 'store'])
def place(request, tmp_path):
    if request.param == 'folder':
        return str(tmp_path)
    return request.getfixturevalue('s3_folder')


@pytest.mark.parametrize('kind', [signal.SIGKILL, signal.SIGSTOP])
def test_chunks_of_a_process_that_stops_are_taken_over(tmp_path, place, kind):
    slow = start(tmp_path, 'slow', 0.5, 3, place)
    while not (begun := [path.name for path in tmp_path.glob('slow-*')]):
        time.sleep(0.01)
    os.kill(slow.pid, kind)
    try:
        _run(tmp_path, 'quick', 0, 3, place)
        quick = json.loads((tmp_path / 'quick.json').read_text())
        assert quick['done'] == 3 and quick['taken_over'] == 1
        for path in tmp_path.glob('quick-*'):
            same = path.name.replace('quick', 'slow') in begun
            assert path.read_text() == str(same)
    finally:
        os.kill(slow.pid, signal.SIGCONT)
        slow.join()
    assert (tmp_path / 'ends').read_text() == '["quick", "quick", "quick"]\n'
    if kind == signal.SIGSTOP:
        late = json.loads((tmp_path / 'slow.json').read_text())
        assert late['lost'] == 1 and late['done'] == 0
    files = work_files(f'{place}/.work/test', 1.0)
    assert set(files.names('00001')) == {'finished.json'}
    assert files.exists('job-00001.json')
    assert len(files.names()) == 2


def test_jobs_in_a_store_follow_one_another(s3_folder):
    ends = []
    for seed in (1, 1, 2):
        work = job(s3_folder, seed=seed)
        work.run(lambda chunk: chunk.number**2, finished(ends))
    assert ends == [[0, 1, 4, 9]] * 3
    left = list_below(f'{s3_folder}/.work/test')
    assert sorted(left) == ['00003/finished.json', 'job-00003.json']
    job(s3_folder, seed=3)
    with pytest.raises(SharedWorkError, match=r's3://.*\n.*there 3, here 4'):
        job(s3_folder, seed=4)


def test_a_process_that_is_late_leaves_nothing_in_a_store(
    s3_folder, monkeypatch
):
    """The job ends while it writes that its chunk is done."""
    mine = job(s3_folder, 1)
    create = mine.files.create

    def end_before(name, content):
        if name.endswith('000000.json'):
            create('00001/finished.json', b'{"result": 7}')
        return create(name, content)

    monkeypatch.setattr(mine.files, 'create', end_before)
    share = mine.run(lambda chunk: None, finished([]))
    assert (share.result, share.done, share.lost) == (7, 0, 1)
    left = list_below(f'{s3_folder}/.work/test')
    assert sorted(left) == ['00001/finished.json', 'job-00001.json']


@pytest.mark.parametrize('hours', [-1, 1])
def test_a_lease_that_is_renewed_is_left_alone(tmp_path, hours, monkeypatch):
    """Also where the clock of this machine is wrong."""
    slow = start(tmp_path, 'slow', 1.4, 1)
    wait_for(tmp_path / 'slow-0')
    real = time.time
    monkeypatch.setattr(time, 'time', lambda: real() + 3600 * hours)
    _run(tmp_path, 'quick', 0, 1)
    slow.join()
    assert not (tmp_path / 'quick-0').exists()
    assert (tmp_path / 'ends').read_text() == '["slow"]\n'


def test_a_lease_of_which_nothing_was_written_is_removed(tmp_path):
    """A process was killed between creating the file and writing it."""
    work = job(tmp_path)
    (Path(work.folder) / '000002.lease').touch()
    begun = time.monotonic()
    share = work.run(lambda chunk: None, finished([]))
    assert share.done == 4 and time.monotonic() - begun > 1


def test_an_error_of_a_process_that_lost_its_chunk_is_no_error(tmp_path):
    mine = job(tmp_path, 1)

    def work(chunk):
        # Meanwhile another process has done the chunk.
        other = Path(mine.folder) / '000000.json'
        other.write_text('"other"')
        raise FileNotFoundError('a temporary file is gone')

    ends = []
    share = mine.run(work, finished(ends))
    assert ends == [['other']] and share.lost == 1 and share.done == 0


@pytest.mark.parametrize('forgotten', [False, True])
@pytest.mark.parametrize('calls', [1, 2, 3])
def test_a_process_that_is_late_with_a_file_has_no_error(
    tmp_path, monkeypatch, calls, forgotten
):
    """The job ends while it writes that chunk 1, 2 or the whole is done."""
    mine = job(tmp_path, 2)
    real = os.link

    def end_before(*args):
        nonlocal calls
        calls -= 1
        if not calls:
            # What the process that ends the job does to the files of others.
            (Path(mine.folder) / 'finished.json').write_text('{"result": 7}')
            for path in list(Path(mine.folder).iterdir()):
                if path.name != 'finished.json':
                    path.unlink()
            if forgotten:
                job(tmp_path, 2, seed=2)
        return real(*args)

    monkeypatch.setattr(os, 'link', end_before)
    if forgotten:
        with pytest.raises(SharedWorkError, match='long ago'):
            mine.run(lambda chunk: None, finished([]))
        return
    before = calls
    share = mine.run(lambda chunk: None, finished([]))
    assert share.result == 7 and not share.finished
    assert (share.done, share.lost) == [(0, 1), (1, 1), (2, 0)][before - 1]


def test_an_error_in_finishing_what_others_have_finished_is_none(tmp_path):
    mine = job(tmp_path, 1)

    def finish(found):
        (Path(mine.folder) / 'finished.json').write_text('{"result": 7}')
        raise FileNotFoundError('the results of the chunks are gone')

    share = mine.run(lambda chunk: None, finish)
    assert share.result == 7 and not share.finished


def test_a_job_that_was_forgotten_is_over(tmp_path):
    old = job(tmp_path, seed=1)
    job(tmp_path, seed=1).run(lambda chunk: None, finished([]))
    job(tmp_path, seed=2)
    assert not Path(old.folder).exists()
    with pytest.raises(SharedWorkError, match='long ago'):
        old.run(lambda chunk: pytest.fail('work'), finished([]))


def test_chunks_whose_results_are_gone_are_done_again(tmp_path):
    done, ends = [], []

    def finish(found):
        ends.append(found)
        if len(ends) == 1:
            raise ChunksLost([2, 1, 2])

    def work(chunk):
        done.append(chunk.number)
        return len(done)

    job(tmp_path).run(work, finish)
    assert done == [0, 1, 2, 3, 1, 2]
    assert ends == [[1, 2, 3, 4], [1, 5, 6, 4]]

    def never(found):
        raise ChunksLost([1])

    with pytest.raises(SharedWorkError, match='done again'):
        job(tmp_path).run(work, never)


def test_all_processes_get_the_result(tmp_path):
    """Also one that comes after the others have done everything."""
    works = [job(tmp_path), job(tmp_path)]
    shares = [w.run(lambda chunk: 2, sum) for w in works]
    assert [share.result for share in shares] == [8, 8]
    assert [share.finished for share in shares] == [True, False]
