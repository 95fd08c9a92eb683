"""Mistakes of the user as one message; defects with their traceback."""

import linecache
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

# Ended by Ctrl-C, as shells report it.
INTERRUPTED = 130
_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = tuple(
    f'{_ROOT / name}{os.sep}' for name in ('clouds_mmseg', 'clouds_mmseg_cli')
)


def _raised_on_purpose(error):
    """Whether this package raised an error by a ``raise`` statement."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno or 0)
    return last.filename.startswith(_PACKAGES) and line.strip().startswith(
        'raise '
    )


def _is_mistake(error):
    """Whether the user can do something about an error."""
    # What the system refuses: no such file, no permission, no space left.
    if isinstance(error, OSError) and error.errno is not None:
        return True
    if isinstance(error, FileNotFoundError):
        return True
    # By name: their modules may not be imported yet, or fail to be.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {'UserError', 'IncompatibleStackError'}:
        return True
    return _raised_on_purpose(error)


def _message(error):
    """Return what an error says, in words."""
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
    except BrokenPipeError:
        # The reader of a pipe (head, less) has what it wanted. Python would
        # complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get('CLOUDS_TRACEBACK') or not _is_mistake(error):
            raise
        _say(_message(error))
        raise SystemExit(1) from None
