"""Ask a CLIP tower which maps it makes, before any storage is spent."""

from dataclasses import dataclass

import torch
from torch import nn

from clouds_mmseg.models.clip_towers import build_visual
from clouds_mmseg.utils.errors import UserError

STRIDES = [4, 8, 16, 32]
# Not the image size of any tower: one that takes only its own size fails
# here, and not at the first crop.
_PROBE = (128, 160)


@dataclass(frozen=True)
class Pyramid:
    """What a tower offers.

    Attributes:
        indices (list[int]): Which of its intermediate maps to take.
        strides (list[int]): Their strides.
        channels (list[int]): Their widths.
        unused (list[str]): Names of the submodules and parameters that do
            not take part in making them, the outermost ones only.
    """

    indices: list[int]
    strides: list[int]
    channels: list[int]
    unused: list[str]


def probe_pyramid(model_name: str) -> Pyramid:
    """Run a tower without storage and read the shapes of its maps.

    Raises:
        UserError: If it makes no maps at strides 4, 8, 16 and 32, or takes
            images of one size only.
    """
    visual = build_visual(model_name, device='meta').eval()
    image = torch.zeros(1, 3, *_PROBE, device='meta')
    try:
        maps = visual.forward_intermediates(
            image, intermediates_only=True, output_fmt='NCHW'
        )['image_intermediates']
    except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
        raise _no_pyramid(
            model_name, 'it takes images of one size only'
        ) from error
    found = [_PROBE[0] // m.shape[-2] for m in maps]
    if not set(STRIDES) <= set(found):
        raise _no_pyramid(
            model_name, f'its maps have strides {sorted(set(found))}'
        )
    # A stem may have the stride of the first stage: the later map is meant.
    indices = [max(i for i, s in enumerate(found) if s == k) for k in STRIDES]
    chosen = [maps[i] for i in indices]
    sum(m.sum() for m in chosen).backward()
    return Pyramid(
        indices=indices,
        strides=list(STRIDES),
        channels=[m.shape[1] for m in chosen],
        unused=find_unused(visual),
    )


def remove_modules(module: nn.Module, names: list[str]) -> None:
    """Replace submodules by nothing, and parameters by None."""
    for name in names:
        parent, _, leaf = name.rpartition('.')
        parent = module.get_submodule(parent)
        is_module = isinstance(getattr(parent, leaf), nn.Module)
        setattr(parent, leaf, nn.Identity() if is_module else None)


def _no_pyramid(model_name, reason):
    return UserError(
        f'{model_name} has no feature pyramid at strides 4, 8, 16, 32: '
        f'{reason}. Towers that have one: the ConvNeXt family '
        '(convnext_base_w, convnext_large_d_320, ...) and the CLIP ResNets '
        '(RN50, RN101, RN50x4, ...).'
    )


def find_unused(module: nn.Module, prefix: str = '') -> list[str]:
    """Name the outermost parts of a module whose parameters got no gradient.

    Args:
        module (nn.Module): A module after a backward.
        prefix (str): What precedes the names.

    Returns:
        list[str]: Dotted names of submodules and of single parameters.
    """
    names = [
        prefix + name
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.grad is None
    ]
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and all(p.grad is None for p in parameters):
            names.append(prefix + name)
        else:
            names += find_unused(child, f'{prefix}{name}.')
    return names
