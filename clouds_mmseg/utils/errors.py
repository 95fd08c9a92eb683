"""User-facing exceptions for mistakes in the input.

The tools print their message without a traceback; every other exception is a
bug and keeps it.
"""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake in the input: a path, an option, a file, a config value.

    The tools print its message without a traceback, so the message has to
    say on its own which argument or file is meant, which value was found,
    which rule it breaks and what to do. Constructors that a config calls
    raise it for their arguments, and transforms and losses for data that the
    config combines wrongly.
    """


class ConfigError(UserError):
    """A part of a config cannot be built with the values that it has."""


class DataError(UserError):
    """Data on disk is missing, damaged or not what its dataset expects.

    The message names the file or folder, what was found, the rule, and what
    to do.

    Args:
        finding: The message, or its part before the advice.
        advice: What to do; given once where a report lists many findings.
        kind: ``'damaged'``, ``'size'`` or ``'ids'``: the fault of a single
            file.
    """

    def __init__(
        self, finding: str, advice: str = '', *, kind: str = 'damaged'
    ):
        super().__init__(f'{finding} {advice}' if advice else finding)
        self.finding = finding
        self.kind = kind


class GenerationError(UserError):
    """Prompts or images cannot be generated as requested.

    The message names the argument or file, what was found, the rule, and
    what to do.
    """


class OutputLockedError(GenerationError):
    """Another process is writing the same share of a generated image set."""


def config_error(error: Exception) -> ConfigError | None:
    """Describe an error that a constructor raised for values of a config.

    Constructors of torch, timm or MMSegmentation raise whatever they like for
    an argument that they do not take. Where mmengine's registries called
    one, the argument came from the config, which has to change.

    Args:
        error: As caught, with its traceback.

    Returns:
        The error for the user, which names the part of the config; None if
        no part of a config was being built.
    """
    part = unknown = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        unknown = None
        if f'{os.sep}mmengine{os.sep}' not in frame.f_code.co_filename:
            continue
        name = frame.f_code.co_name
        if name in ('build_from_cfg', 'build_runner_from_cfg'):
            # The registry's own KeyError: it has no such type.
            unknown = error if isinstance(error, KeyError) else None
        if name == 'build_from_cfg':
            part = frame.f_locals.get('cfg')
        elif name == 'build_dataloader':
            part = frame.f_locals.get('dataloader')
    if unknown is not None:
        return ConfigError(unknown.args[0])
    if not isinstance(part, dict):
        return None
    return ConfigError(
        f'{_short(part)} of the config cannot be built: '
        f'{type(error).__name__}: {error}\n'
        '(CLOUDS_TRACEBACK=1 shows where)'
    )


# How torch begins what it says of a worker of a data loader that died.
_LOST_WORKER = 'DataLoader worker (pid'


def lost_worker_error(error: BaseException) -> UserError | None:
    """Explain that a worker process of a data loader was killed.

    Args:
        error: As caught.

    Returns:
        The error for the user; None for any other error.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith(
        _LOST_WORKER
    ):
        return None
    if 'Bus error' in text:
        why = (
            'shared memory ran out (df -h /dev/shm; docker run --shm-size=8g)'
        )
    else:
        why = (
            'most likely by the kernel, because memory ran out (dmesg | grep '
            '-i "killed process" shows it)'
        )
    return UserError(
        f'a worker process of a data loader died: {text.split(". ")[0]}; '
        f'{why}. Use fewer workers or smaller batches (--cfg-options '
        'train_dataloader.num_workers=1), or give the job more memory; a '
        'training continues from its newest checkpoint with --resume'
    )


# Errors of a disk -> what to do.
_DISK_ADVICE = {
    errno.ENOSPC: 'make room on its disk',
    errno.EDQUOT: 'make room: your quota is used up',
    errno.EROFS: 'write to another folder, or mount its disk for writing',
    errno.EIO: 'the disk or its connection fails (dmesg shows it)',
    errno.ESTALE: 'the network file system lost it',
}


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Let errors of the system that name no file, as of a write, name one.

    Args:
        path: The file, or the folder that is written to.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise about_file(error, path) from error.__cause__
        raise


def about_file(error: OSError, path: str | os.PathLike) -> OSError:
    """Return an error of the system that names a file, or one like it.

    Args:
        error: Changed if that is possible; as it is without an ``errno``.
        path: The file.
    """
    if error.errno is None:
        return error
    try:
        error.filename, error.filename2 = str(path), None
    except AttributeError:
        # Those of PyAV cannot be changed.
        return OSError(error.errno, error.strerror, str(path))
    return error


def disk_error(error: OSError) -> str:
    """Say what an error of the operating system means.

    Args:
        error: With an ``errno``.

    Returns:
        The file, as far as it is known, what happened, and what to do.
    """
    text = error.strerror or str(error)
    if isinstance(error.filename, (str, bytes, os.PathLike)):
        text = f'{os.fsdecode(error.filename)}: {text}'
    advice = _DISK_ADVICE.get(error.errno or 0)
    if advice is None:
        return text
    return (
        f'{text}; {advice}, then run the same command again: what is '
        'finished stays (a training continues with --resume)'
    )


def _short(part: dict) -> str:
    """Format a part of a config in one line."""
    values = [
        f'{key}={value!r}' if not isinstance(value, (dict, list)) else key
        for key, value in part.items()
        if key != 'type'
    ]
    return f'{part.get("type", "a data loader")}({", ".join(values)})'
