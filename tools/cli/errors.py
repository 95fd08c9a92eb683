"""User errors as one message, other errors with their traceback."""

import linecache
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# Exit status of shells after Ctrl-C.
INTERRUPTED = 130


def _raised_on_purpose(error):
    """Return whether the raising line is a ``raise`` of this package."""
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


def _has_user_message(error):
    """Return whether the message of an error is meant for the user."""
    # By name: their modules may not be imported, or fail to import.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {'UserError', 'IncompatibleStackError'}:
        return True
    # Registry lookup of an unknown name in the config.
    said = str(error.args[0]) if error.args else ''
    if isinstance(error, KeyError) and ' registry. ' in said:
        return True
    return _raised_on_purpose(error)


def _is_user_error(error):
    """Return whether an error is caused by the user's input."""
    # Errors of the system: no such file, no permission, no space left.
    if isinstance(error, OSError) and error.errno is not None:
        return True
    if isinstance(error, FileNotFoundError):
        return True
    return _has_user_message(error) or _built_from(error) is not None


def _built_from(error) -> dict | None:
    """Return the part of a config whose construction raised an error.

    A constructor of this package, the framework or torch that fails has
    invalid arguments: the config has to change.

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
    """Format a part of a config in one line."""
    values = [
        f'{key}={value!r}' if not isinstance(value, (dict, list)) else key
        for key, value in part.items()
        if key != 'type'
    ]
    return f'{part.get("type", "a data loader")}({", ".join(values)})'


def _message(error):
    """Return the message of an error for the user."""
    part = None if _has_user_message(error) else _built_from(error)
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


def _print_error(text):
    """Print to stderr, with the rank in a distributed run."""
    rank = os.environ.get('RANK')
    where = f' (process {rank})' if rank not in (None, '0') else ''
    print(f'error{where}: {text}', file=sys.stderr)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print user errors as one message and exit with status 1.

    User errors are :class:`~clouds_mmseg.utils.errors.UserError`, errors of
    the operating system (a missing file, no permission, a full disk), and
    errors that this package raises deliberately. Anything else is a bug and
    keeps its traceback. Ctrl-C ends with status 130 and the message of
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
        if os.environ.get('CLOUDS_TRACEBACK') or not _is_user_error(error):
            raise
        _print_error(_message(error))
        raise SystemExit(1) from None
