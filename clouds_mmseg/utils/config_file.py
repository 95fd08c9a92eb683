"""Reading of config files, with mistakes in them as one message.

Beside mmengine's reader because conversion, publishing, benchmark and the
tools read configs, and none of them should end in a traceback for a comma.
"""

from pathlib import Path
from typing import Any

from mmengine.config import Config

from clouds_mmseg.compat import IncompatibleStackError
from clouds_mmseg.utils.errors import UserError


def read_file(path: str | Path, **kwargs: Any) -> Config:
    """Read a config file; whatever it raises is a mistake in it.

    Args:
        path: An existing file.
        **kwargs: Of ``Config.fromfile``.

    Returns:
        The config.

    Raises:
        UserError: It is no Python, imports what is not installed, has a
            ``_base_`` that does not exist, or fails in another way.
    """
    try:
        return Config.fromfile(path, **kwargs)
    except (UserError, IncompatibleStackError):
        raise
    except FileNotFoundError as error:
        said = f'{error}; correct _base_ (relative to the config itself)'
    except SyntaxError as error:
        # The file itself, or a temporary copy of it under another name.
        line = f'line {error.lineno}: ' if error.lineno else ''
        said = f'{line}{error.msg}'
    except Exception as error:
        said = error.args[0] if error.args else ''
        said = f'{type(error).__name__}: {said}'
    raise UserError(f'the config {path} cannot be read: {said}')
