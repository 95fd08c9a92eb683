"""Four maps from a tower whose blocks all have one stride, as a plain ViT's.

Letters: N images, C channels, H and W of the image, h and w of the patch
grid, P the patch size, n prefix tokens (class token, registers).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from clouds_mmseg.utils.errors import UserError

STRIDES = (4, 8, 16, 32)
RESIZE = ('timm', 'bicubic')
# Fractions of the depth after which the four maps are taken: blocks 7, 11,
# 15 and 23 of 24 in Rein, SoMA and tqdm.
_DEPTHS = (8, 12, 16, 24)
# Of the tokens that PMT reads: blocks 5, 11, 17 and 23 of 24.
EVEN_DEPTHS = (6, 12, 18, 24)


def check_resize(resize: str) -> None:
    """Raise a ``UserError`` for a way of resizing that does not exist."""
    if resize not in RESIZE:
        raise UserError(
            "resize must be 'timm' (antialiased) or 'bicubic' (plain, as "
            f'Rein, SoMA and tqdm do), got {resize!r}'
        )


def choose_blocks(
    depth: int,
    blocks: Sequence[int] | None,
    default: Sequence[int] = _DEPTHS,
) -> list[int]:
    """Return the blocks behind which the four maps are taken.

    Args:
        depth: Number of blocks of the tower.
        blocks: Four indices from 0; None for ``default``, scaled to the
            depth.
        default: After how many of 24 blocks the maps are taken.

    Raises:
        UserError: They are not four, or a block does not exist.
    """
    if blocks is None:
        return [max(depth * part // 24 - 1, 0) for part in default]
    blocks = list(blocks)
    if len(blocks) != 4 or not all(
        isinstance(b, int) and not isinstance(b, bool) and 0 <= b < depth
        for b in blocks
    ):
        raise UserError(
            f'blocks must be four block numbers in [0, {depth - 1}], one for '
            f'each map, as the tower has {depth} blocks; got {blocks}'
        )
    return blocks


def fit_to_patches(image: Tensor, patch: int) -> Tensor:
    """Resize an image (N, 3, H, W) if the patch size does not divide it.

    Returns:
        (N, 3, h * P, w * P), with the nearest h and w.
    """
    sides = image.shape[-2:]
    if all(side % patch == 0 for side in sides):
        return image
    size = [max(1, round(side / patch)) * patch for side in sides]
    return F.interpolate(
        image, size=size, mode='bilinear', align_corners=False
    )


def resize_maps(
    maps: Sequence[Tensor], size: Sequence[int], patch: int
) -> list[Tensor]:
    """Resize four maps of one stride to the strides 4, 8, 16 and 32.

    With patches of 16 pixels these are the factors 4, 2, 1 and 1/2; a side
    that is odd is rounded down.

    Args:
        maps: Four maps (N, C, h, w).
        size: H and W of the image before :func:`fit_to_patches`.
        patch: P.

    Returns:
        Four maps (N, C, H / s, W / s), bilinear, corners not aligned.
    """
    grid = maps[0].shape[-2:]
    exact = tuple(size) == (grid[0] * patch, grid[1] * patch)
    resized = []
    for x, stride in zip(maps, STRIDES, strict=True):
        if exact and stride == patch:
            resized.append(x)
            continue
        # One pixel is left of an image that is narrower than the stride.
        target = [max(1, side // stride) for side in size]
        by_factor = exact and min(size) >= stride
        resized.append(
            F.interpolate(
                x,
                size=None if by_factor else target,
                scale_factor=patch / stride if by_factor else None,
                mode='bilinear',
                align_corners=False,
            )
        )
    return resized


def resize_table(
    table: Tensor,
    old: Sequence[int],
    new: Sequence[int],
    *,
    resize: str,
    as_at_run_time: bool = False,
) -> Tensor:
    """Resize a position table to another grid.

    Args:
        table: (1, n + h * w, C); the entries of the prefix are kept.
        old: Its h and w.
        new: The h and w that are wanted.
        resize: ``'timm'``: antialiased. ``'bicubic'``: without.
        as_at_run_time: For ``'bicubic'``: sample as DINOv2 and Rein do for
            an image of another size, with the scale factor (h + 0.1) / g
            instead of the size.

    Returns:
        (1, n + new h * new w, C) in the dtype of ``table``.
    """
    prefix = table.shape[1] - old[0] * old[1]
    if resize == 'timm':
        return resample_abs_pos_embed(
            table, list(new), list(old), num_prefix_tokens=prefix
        )
    grid = table[:, prefix:].unflatten(1, tuple(old)).permute(0, 3, 1, 2)
    factors = [(n + 0.1) / o for n, o in zip(new, old, strict=True)]
    grid = F.interpolate(
        grid.float(),
        size=None if as_at_run_time else tuple(new),
        scale_factor=factors if as_at_run_time else None,
        mode='bicubic',
        align_corners=False,
    ).to(table.dtype)
    return torch.cat([table[:, :prefix], grid.flatten(2).mT], dim=1)


def resize_kernel(kernel: Tensor, patch: Sequence[int], resize: str) -> Tensor:
    """Resize the kernel of the patch embedding.

    Args:
        kernel: (C, 3, P, P).
        patch: The height and width that are wanted.
        resize: ``'timm'``: with the pseudo-inverse of the resizing, which
            keeps the embedding of a resized patch. ``'bicubic'``: plain.

    Returns:
        (C, 3, *patch) float32.
    """
    if resize == 'timm':
        return resample_patch_embed(kernel, list(patch))
    return F.interpolate(
        kernel.float(), size=tuple(patch), mode='bicubic', align_corners=False
    )


def find_table(model: nn.Module) -> tuple[str, tuple[int, int]] | None:
    """Find the learned position table of a tower.

    Returns:
        The name of the parameter and its h and w, or None if the tower has
        none (rotary positions, convolutions).
    """
    grid = getattr(getattr(model, 'patch_embed', None), 'grid_size', None)
    if grid is not None and model._parameters.get('pos_embed') is not None:
        if model.pos_embed.dim() == 3:
            return 'pos_embed', tuple(grid)
    grid = getattr(model, 'grid_size', None)
    if model._parameters.get('positional_embedding') is not None and grid:
        return 'positional_embedding', tuple(grid)
    return None


def fit_state_dict(
    state_dict: dict[str, Tensor], model: nn.Module, resize: str
) -> dict[str, Tensor]:
    """Resize position table and patch kernel of weights to those of a model.

    Args:
        state_dict: Under the names of the model. Not changed.
        model: The tower that is to load them.
        resize: See :func:`resize_table` and :func:`resize_kernel`.

    Returns:
        The weights, with the two of other sizes replaced. What differs
        otherwise is left to strict loading.
    """
    state_dict = dict(state_dict)
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    for key, shape in own.items():
        value = state_dict.get(key)
        if (
            key.endswith('patch_embed.proj.weight')
            and value is not None
            and value.dim() == 4
            and value.shape[:2] == shape[:2]
            and value.shape[2:] != shape[2:]
        ):
            state_dict[key] = resize_kernel(value, shape[2:], resize)
    found = find_table(model)
    if found is None or found[0] not in state_dict:
        return state_dict
    name, grid = found
    table, shape = state_dict[name], own[name]
    if tuple(table.shape) == shape or table.dim() != len(shape):
        return state_dict
    if table.dim() == 2:
        table = table[None]
    prefix = shape[-2] - grid[0] * grid[1]
    patches = table.shape[1] - prefix
    side = int(max(patches, 0) ** 0.5)
    if side < 1 or side * side != patches or table.shape[-1] != shape[-1]:
        # Not this tower's: strict loading tells all that differs.
        return state_dict
    table = resize_table(table, (side, side), grid, resize=resize)
    state_dict[name] = table.reshape(shape)
    return state_dict


@contextmanager
def table_for_grid(
    model: nn.Module, grid: tuple[int, int], resize: str
) -> Iterator[None]:
    """Let a tower see its position table at the size of the image.

    timm resizes the table itself, with antialiasing, when the grid of the
    image is not that of the table. With ``resize='bicubic'`` it is given a
    table that fits already.

    Args:
        model: The tower.
        grid: h and w of the image.
        resize: ``'timm'`` leaves a tower of timm as it is.
    """
    found = find_table(model)
    by_itself = resize == 'timm' and hasattr(model, 'patch_embed')
    if found is None or by_itself:
        yield
        return
    name, old = found
    if grid == old and grid[0] == grid[1]:
        yield
        return
    parameter = model._parameters[name]
    table = parameter if parameter.dim() == 3 else parameter[None]
    if resize == 'timm' and grid == old:
        yield
        return
    table = resize_table(table, old, grid, resize=resize, as_at_run_time=True)
    patch_embed = getattr(model, 'patch_embed', None)
    model._parameters[name] = table if parameter.dim() == 3 else table[0]
    if patch_embed is not None:
        patch_embed.grid_size = grid
    try:
        yield
    finally:
        model._parameters[name] = parameter
        if patch_embed is not None:
            patch_embed.grid_size = old
