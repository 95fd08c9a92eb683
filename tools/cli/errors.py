"""User errors as one message, other errors with their traceback."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Exit status of shells after Ctrl-C.
INTERRUPTED = 130


def _is_ours(error: Exception) -> bool:
    """Return whether the package raised an error for the user."""
    # Only what is imported can have raised it.
    for module, name in (
        ('clouds_mmseg.utils.errors', 'UserError'),
        ('clouds_mmseg.compat', 'IncompatibleStackError'),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


def _user_error(error: Exception) -> Exception | None:
    """Return the error that the user is told; None for a bug."""
    if _is_ours(error):
        return error
    errors = sys.modules.get('clouds_mmseg.utils.errors')
    if errors is not None:
        found = errors.lost_worker_error(error) or errors.config_error(error)
        if found is not None:
            return found
    # Errors of the system: no such file, no permission, no space left.
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return error if isinstance(error, FileNotFoundError) else None


def _message(error: Exception) -> str:
    """Return the message of a user error."""
    errors = sys.modules.get('clouds_mmseg.utils.errors')
    if isinstance(error, OSError) and error.errno is not None and errors:
        return errors.disk_error(error)
    if (
        isinstance(error, OSError)
        and error.strerror
        and error.filename is not None
    ):
        return f'{error.filename}: {error.strerror}'
    text = str(error)
    # From a worker of a data loader, torch's message is the whole traceback,
    # which ends with the error itself.
    name = f'{type(error).__module__}.{type(error).__qualname__}: '
    if text.startswith('Caught ') and name in text:
        text = text.rpartition(name)[2].rstrip()
    return text


def _print_error(text):
    """Print to stderr, with the rank in a distributed run."""
    rank = os.environ.get('RANK')
    where = f' (process {rank})' if rank not in (None, '0') else ''
    print(f'error{where}: {text}', file=sys.stderr)


def _thread_error(failed):
    """Print an error of the system in a thread, such as TensorBoard's writer.

    The main thread has it at its next write.
    """
    told = isinstance(failed.exc_value, OSError)
    if not told or _wants_traceback():
        threading.__excepthook__(failed)
        return
    print(f'warning: {_message(failed.exc_value)}', file=sys.stderr)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print user errors as one message and exit with status 1.

    User errors are told by their type:
    :class:`~clouds_mmseg.utils.errors.UserError`, a constructor that fails
    with the values of a config
    (:func:`~clouds_mmseg.utils.errors.config_error`), and errors of the
    operating system (a missing file, no permission, a full disk). Anything
    else is a bug and keeps its traceback. Ctrl-C ends with status 130 and the
    message of the ``KeyboardInterrupt``, if a tool gave it one.
    ``CLOUDS_TRACEBACK=1`` keeps every traceback.

    Raises:
        SystemExit: With status 1 or 130, after the message.
    """
    before, threading.excepthook = threading.excepthook, _thread_error
    try:
        yield
    except KeyboardInterrupt as stop:
        if _wants_traceback():
            raise
        print(str(stop) or 'stopped by Ctrl-C', file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        told = _user_error(error)
        if _wants_traceback() or told is None:
            raise
        _print_error(_message(told))
        raise SystemExit(1) from None
    finally:
        threading.excepthook = before


def _wants_traceback():
    return os.environ.get('CLOUDS_TRACEBACK', '0') not in ('', '0')
