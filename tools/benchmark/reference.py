"""The reference implementation, which is part of the tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from clouds_mmseg.utils.errors import UserError

_NAME = 'clouds_mmseg_reference'


def load_reference(folder: Path) -> ModuleType:
    """Import the reference implementation from the repository.

    It is part of the tests, not of the package.

    Args:
        folder: ``tests/reference`` of a checkout.

    Returns:
        The package in that folder.

    Raises:
        UserError: The folder does not contain it.
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
