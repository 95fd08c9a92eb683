"""A work dir has one training, and its disk may fail."""

import errno
import logging

import pytest
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from clouds_mmseg.engine.portable_runner import warn_once_of_lost_lines
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.locks import ProcessLock
from clouds_mmseg_cli.command import main


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


@HOOKS.register_module()
class FullDisk(Hook):
    """Fail as a write does, whose error names no file."""

    def before_train(self, runner):
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_an_error_of_the_disk_names_the_work_dir(
    tmp_path, tiny_config, capsys
):
    work = tmp_path / 'work'
    words = ['train', str(tiny_config), '--work-dir', str(work)]
    hooks = "custom_hooks=[{'type': 'FullDisk'}]"
    with pytest.raises(SystemExit, match='1'):
        main([*words, '--cfg-options', hooks])
    told = capsys.readouterr().err
    assert f'error: {work}: No space left on device; make room' in told
    # The next one is not refused.
    assert not (work / 'training.lock').exists()


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
