"""The plain formulation, which lies with the tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from clouds_mmseg.utils.errors import UserError

_NAME = 'clouds_mmseg_plain'


def load_reference(folder: Path) -> ModuleType:
    """Import the plain formulation from the repository.

    It is no part of the package: it is the reference of the tests, and is
    only here to be compared with.

    Args:
        folder: ``tests/reference`` of a checkout.

    Returns:
        The package in that folder.

    Raises:
        UserError: There is none.
    """
    init = folder / '__init__.py'
    if not init.is_file():
        raise UserError(
            f'--against plain measures the code in {folder}, which is not '
            'there: run tools/benchmark.py from a checkout of the '
            'repository, or leave the option out'
        )
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            _NAME, init, submodule_search_locations=[str(folder)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[_NAME]
