"""Check the installed stack once, at import, and repair what can be.

MMSegmentation's ecosystem exists in several generations under the same
import names. A wrong mixture fails far from its cause (a missing compiled
op, a config that cannot be found), so it is refused here in one line.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from importlib import metadata

# Import name -> the distribution that provides it, the half-open range of
# versions that the package was tested with.
_FRAMEWORK = {
    'mmengine': ('onedl-mmengine', '0.10.12', '0.11'),
    'mmcv': ('onedl-mmcv', '2.3.6', '2.4'),
    'mmseg': ('onedl-mmsegmentation', '1.4.2', '1.5'),
}
# The original distributions install the same import names and shadow them.
_ORIGINALS = {
    'mmengine': ('mmengine', 'mmengine-lite'),
    'mmcv': ('mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmseg': ('mmsegmentation',),
}
_TORCH = ('2.6', '2.15')


class IncompatibleStackError(ImportError):
    """An installed package is missing or of a version that cannot work."""


def _version(distribution):
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _key(version):
    """(major, minor, patch) of a version string, local part dropped."""
    numbers = re.findall(r'\d+', version.split('+')[0])[:3]
    return tuple(int(n) for n in numbers) + (0,) * (3 - len(numbers))


def _refuse(package, found, needed, command):
    raise IncompatibleStackError(
        f'clouds_mmseg cannot run here: {package} {found} is installed, '
        f'needed is {needed}; fix it with: {command}'
        if found
        else f'clouds_mmseg cannot run here: {package} is not installed, '
        f'needed is {needed}; fix it with: {command}'
    )


def check_torch(torch: str | None, torchvision: str | None) -> None:
    """Refuse a torch / torchvision pair that was not built together.

    Args:
        torch: Version of torch, None where it is missing.
        torchvision: Version of torchvision.

    Raises:
        IncompatibleStackError: A package is missing, torch is outside the
            tested range, or torchvision belongs to another torch. Since
            torch 2.0, torchvision 0.(N + 15) is the release for torch 2.N.
    """
    low, high = _TORCH
    needed = f'torch >={low},<{high}'
    command = 'uv pip install "torch==2.14.*" "torchvision==0.29.*"'
    if torch is None or not _key(low) <= _key(torch) < _key(high):
        _refuse('torch', torch, needed, command)
    mate = f'0.{_key(torch)[1] + 15}'
    if torchvision is None or _key(torchvision)[:2] != _key(mate)[:2]:
        _refuse(
            'torchvision',
            torchvision,
            f'torchvision {mate} (the release for torch {torch})',
            # With the torch that is there: clusters install their own.
            f'uv pip install "torch=={torch}" "torchvision=={mate}.*"',
        )


def check_framework(versions: Callable[[str], str | None]) -> None:
    """Refuse another generation of the OpenMMLab packages.

    Args:
        versions: Distribution name ->
            installed version, None where it is missing.

    Raises:
        IncompatibleStackError: A package is missing, outside the tested
            range, or shadowed by the original distribution.
    """
    for module, (distribution, low, high) in _FRAMEWORK.items():
        needed = f'{distribution} >={low},<{high}'
        command = f'uv pip install "{distribution}>={low},<{high}"'
        for original in _ORIGINALS[module]:
            if versions(original) is not None:
                _refuse(
                    original,
                    versions(original),
                    f'{needed} in its place (both provide `{module}`)',
                    f'uv pip uninstall {original} {distribution} && '
                    + command,
                )
        found = versions(distribution)
        if found is None or not _key(low) <= _key(found) < _key(high):
            _refuse(distribution, found, needed, command)


def check_stack() -> None:
    """Check torch, torchvision and the OpenMMLab packages by metadata.

    Nothing is imported: a wrong pair of torch and torchvision would
    already fail inside the import with a message about C++ symbols.
    """
    check_torch(_version('torch'), _version('torchvision'))
    check_framework(_version)


def prepare_framework() -> None:
    """Make ``mmseg::`` and ``clouds_mmseg::`` configs inheritable.

    MMEngine looks a config scope up in a table of distribution names,
    which knows the original names only.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE['mmseg'] = _FRAMEWORK['mmseg'][0]
    MODULE2PACKAGE['clouds_mmseg'] = 'clouds_mmseg'
    # mmseg prints that its makers' data service is not installed, twice.
    with contextlib.redirect_stdout(io.StringIO()):
        import mmseg.datasets  # noqa: F401
    # The pure-Python mmcv wheel warns about an op that is not used here.
    warnings.filterwarnings(
        'ignore', message='Fail to import ``MultiScaleDeformableAttention``'
    )
