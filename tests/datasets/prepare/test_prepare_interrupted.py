"""Disks that fill up, and runs that are killed."""

import multiprocessing
import os
import resource
import signal

import pytest
from PIL import Image
from prepare_fake import open_gta5, write_archives
from prepare_fakes import MAKERS

from clouds_mmseg.data_tools.prepare import write as place
from clouds_mmseg.data_tools.prepare.run import Options, prepare_dataset
from clouds_mmseg.datasets import DataError
from clouds_mmseg.utils.atomic import leftovers

ONE = Options(workers=1)


def _full_disk(src, out, queue):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    try:
        prepare_dataset('gta5', src, out, ONE)
    except DataError as error:
        queue.put(str(error))


def _killed(src, out, after):
    made = iter(range(after))
    encode = place.encode_label

    def encode_or_die(label):
        if next(made, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(label)

    place.encode_label = encode_or_die
    prepare_dataset('gta5', src, out, ONE)


def test_a_disk_that_fills_up(tmp_path):
    """A limit of file sizes fails in the same call as a full disk."""
    src = write_archives(tmp_path / 'src', MAKERS['gta5']())
    out = tmp_path / 'out'
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()
    child = context.Process(target=_full_disk, args=(src, out, queue))
    child.start()
    child.join()
    text = queue.get()
    assert f'the disk of {out} is full' in text and 'continues' in text
    # What is there is whole, and nothing half-written is left.
    assert not leftovers(out / 'images/*.png')
    assert all(Image.open(p).load() for p in out.rglob('*.png'))
    with pytest.raises(DataError, match='was interrupted'):
        open_gta5(out)
    prepare_dataset('gta5', src, out, ONE)
    assert len(list(open_gta5(out))) == 3


def test_a_killed_run_is_continued(tmp_path):
    src = write_archives(tmp_path / 'src', MAKERS['gta5']())
    out = tmp_path / 'out'
    context = multiprocessing.get_context('fork')
    child = context.Process(target=_killed, args=(src, out, 1))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    there = {p: p.stat().st_mtime_ns for p in out.rglob('*.png')}
    assert 0 < len(there) < 6
    with pytest.raises(DataError, match='was interrupted'):
        open_gta5(out)
    result = prepare_dataset('gta5', src, out, ONE)
    assert (result.created, result.existing) == (6 - len(there), len(there))
    assert all(p.stat().st_mtime_ns == t for p, t in there.items())
    assert len(list(open_gta5(out))) == 3


def test_a_disk_that_is_too_small_is_known_before(tmp_path, monkeypatch):
    zips = write_archives(tmp_path / 'zips', MAKERS['gta5']())
    usage = type('Usage', (), dict(free=10))
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
    with pytest.raises(DataError, match='GB are free there'):
        prepare_dataset('gta5', zips, tmp_path / 'out', ONE)
    assert not (tmp_path / 'out').exists()
