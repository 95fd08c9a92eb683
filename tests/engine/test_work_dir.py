"""A work dir has one training, and its disk may fail."""

import errno
import logging
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from clouds_mmseg.engine.portable_runner import warn_once_of_lost_lines
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.locks import ProcessLock


def test_a_second_training_is_refused(tmp_path, build, trained):
    # Nothing of it stays.
    assert not (trained / 'training.lock').exists()
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'tiny.py').write_text('of the first')
    first = ProcessLock(work / 'training.lock')
    assert first.acquire(wait=False)
    first.note('process 7 on node3')
    with pytest.raises(UserError, match=r'\(process 7 on node3\).*--work-dir'):
        build(work).train()
    assert (work / 'tiny.py').read_text() == 'of the first'
    first.release()


class FullDisk(Hook):
    """Fail as a write does, whose error names no file."""

    def before_train(self, runner):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_an_error_of_the_disk_names_the_log(build):
    runner = build()
    runner.register_hook(FullDisk())
    with pytest.raises(OSError) as caught:
        runner.train()
    assert caught.value.filename == runner.log_dir
    # The next one is not refused.
    assert not (Path(runner.work_dir) / 'training.lock').exists()


def test_lost_lines_of_a_log_are_told_once(capsys):
    logger = logging.Logger('lines')
    logger.addHandler(logging.FileHandler('/dev/full'))
    warn_once_of_lost_lines(logger)
    logger.info('one')
    logger.info('two')
    told = capsys.readouterr().err
    assert told == (
        'warning: lines of the log are lost: /dev/full: No space left on '
        'device\n'
    )
    # Mistakes of the package are no faults of the disk.
    logger.info('%d', 'three')
    assert 'TypeError' in capsys.readouterr().err
