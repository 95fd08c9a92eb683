"""Finding and reading config files, with mistakes in them as one message.

Beside mmengine's reader because conversion, publishing, benchmark and the
tools read configs, and none of them should end in a traceback for a comma.
"""

import difflib
from pathlib import Path

import mmseg
from mmengine.config import Config

from clouds_mmseg.compat import IncompatibleStackError
from clouds_mmseg.utils.errors import UserError

ZOO = 'mmseg'
OWN = 'clouds_mmseg'
# Where MMEngine looks for the configs of a scope. In a checkout, this
# package's is a link to the top-level folder configs/.
CONFIGS = {
    ZOO: Path(mmseg.__file__).parent / '.mim' / 'configs',
    OWN: Path(__file__).resolve().parents[1] / '.mim' / 'configs',
}


def find_config(name: str | Path, option: str = '') -> Path:
    """Return the file of a config.

    Args:
        name: A path, or ``clouds_mmseg::folder/name.py`` or
            ``mmseg::folder/name.py`` for a config of the installed package;
            with these ``.py`` may be left out.
        option: By which it was given, for the message.

    Raises:
        UserError: There is no such config.
    """
    name = str(name)
    scope, colons, relative = name.partition('::')
    if colons:
        return _find_installed(f'{option} {name}'.strip(), scope, relative)
    if Path(name).is_file():
        return Path(name)
    said = f'there is no config {name}'
    if option:
        said = f'{option} {name}: there is no such file'
    # As the documentation writes it, away from a checkout.
    relative = name.removeprefix('configs/')
    if relative.endswith('.py') and (CONFIGS[OWN] / relative).is_file():
        said += f'; the installed package has {OWN}::{relative}'
    raise UserError(
        f'{said}; give a file, {OWN}::NAME for a config of the installed '
        f'package (as {OWN}::toycity/clouds.py), or {ZOO}::NAME for one of '
        "MMSegmentation's zoo"
    )


def _find_installed(name, scope, relative):
    if scope not in CONFIGS:
        raise UserError(
            f'{name}: there are configs of {OWN}:: and, from '
            f"MMSegmentation's zoo, of {ZOO}::, and none of {scope}::"
        )
    root = CONFIGS[scope]
    file = relative.removesuffix('.py') + '.py'
    if (root / file).is_file():
        return root / file
    known = [
        path.relative_to(root).as_posix()
        for path in root.glob('*/*.py')
        if path.parent.name != '_base_'
    ]
    near = difflib.get_close_matches(file, known, n=3, cutoff=0.4)
    raise UserError(
        f'{name}: the installed {scope} has no such config; near: '
        + (', '.join(f'{scope}::{n}' for n in near) or 'none')
    )


def read_file(path, **kwargs):
    """Read a config file; whatever it raises is a mistake in it.

    Args:
        path (str | Path): An existing file.
        **kwargs: Of ``Config.fromfile``.

    Returns:
        Config: The config.

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
