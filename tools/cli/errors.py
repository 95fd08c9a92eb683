"""Mistakes of the user as one message; defects with their traceback."""

import linecache
import os
import sys
import traceback
from contextlib import contextmanager

# Ended by Ctrl-C, as shells report it.
INTERRUPTED = 130


def _raised_on_purpose(error):
    """Whether this package raised an error by a ``raise`` statement."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno or 0)
    ours = tuple(
        os.path.join(folder, '')
        for name in ('clouds_mmseg', 'clouds_mmseg_cli')
        if name in sys.modules
        for folder in sys.modules[name].__path__
    )
    return last.filename.startswith(ours) and line.strip().startswith('raise ')


def _is_worded(error):
    """Whether the message of an error was written for the user."""
    # By name: their modules may not be imported yet, or fail to be.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {'UserError', 'IncompatibleStackError'}:
        return True
    # A registry has no such name: it stands in the config.
    said = str(error.args[0]) if error.args else ''
    if isinstance(error, KeyError) and ' registry. ' in said:
        return True
    return _raised_on_purpose(error)


def _is_mistake(error):
    """Whether the user can do something about an error."""
    # What the system refuses: no such file, no permission, no space left.
    if isinstance(error, OSError) and error.errno is not None:
        return True
    if isinstance(error, FileNotFoundError):
        return True
    return _is_worded(error) or _built_from(error) is not None


def _built_from(error) -> dict | None:
    """The part of a config that was being built when an error was raised.

    A constructor that fails was given values that it cannot take: whether it
    is this package's, the framework's or torch's, the config has to change.

    Returns:
        The innermost part with a type, or a data loader.
    """
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_name
        if f'{os.sep}mmengine{os.sep}' not in frame.f_code.co_filename:
            continue
        if name == 'build_from_cfg':
            found = frame.f_locals.get('cfg')
        elif name == 'build_dataloader':
            found = frame.f_locals.get('dataloader')
    return found if isinstance(found, dict) else None


def _short(part):
    """Write a part of a config in a line."""
    values = [
        f'{key}={value!r}' if not isinstance(value, (dict, list)) else key
        for key, value in part.items()
        if key != 'type'
    ]
    return f'{part.get("type", "a data loader")}({", ".join(values)})'


def _message(error):
    """Return what an error says, in words."""
    part = None if _is_worded(error) else _built_from(error)
    if part is not None:
        return (
            f'{_short(part)} of the config cannot be built: '
            f'{type(error).__name__}: {error}\n'
            '(CLOUDS_TRACEBACK=1 shows where)'
        )
    if isinstance(error, KeyError) and error.args:
        # str() of a KeyError is the repr of its message.
        return error.args[0]
    if (
        isinstance(error, OSError)
        and error.strerror
        and error.filename is not None
    ):
        return f'{error.filename}: {error.strerror}'
    return error


def _say(text):
    """Print to stderr, with the rank in a distributed run."""
    rank = os.environ.get('RANK')
    where = f' (process {rank})' if rank not in (None, '0') else ''
    print(f'error{where}: {text}', file=sys.stderr)


@contextmanager
def plain_errors():
    """Print mistakes of the user as one message and exit with status 1.

    Those are :class:`~clouds_mmseg.utils.errors.UserError`, what the
    operating system refuses (a missing file, no permission, a full disk),
    and whatever this package raises deliberately. Anything else is a defect
    and keeps its traceback. Ctrl-C ends with status 130 and the message of
    the ``KeyboardInterrupt``, if a tool gave it one.
    ``CLOUDS_TRACEBACK=1`` keeps every traceback.

    Raises:
        SystemExit: With status 1 or 130, after the message.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if os.environ.get('CLOUDS_TRACEBACK'):
            raise
        print(str(stop) or 'stopped by Ctrl-C', file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if os.environ.get('CLOUDS_TRACEBACK') or not _is_mistake(error):
            raise
        _say(_message(error))
        raise SystemExit(1) from None
