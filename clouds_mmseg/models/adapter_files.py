"""What was trained, without the frozen tower: split, save and load it.

A tower of 300 million frozen weights is the same in every experiment; an
adapter has one to five million. A file of the trained part alone is only
right with the tower that it was trained on, so it says which that was and
holds statistics of its weights; loading compares both.
"""

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from clouds_mmseg.models.backbones.lora import LowRank
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import read_content, write_weights
from clouds_mmseg.weights.load import load_strictly

ADAPTER_FILE = 'adapter_model.safetensors'
# Relative difference of mean and deviation of a tensor that is rounding.
_TOLERANCE = 1e-3


def tower_keys(model: nn.Module) -> set[str]:
    """Return the keys of the ``state_dict`` that belong to a frozen tower.

    Args:
        model: A segmentor.

    Returns:
        Keys of its backbone that are neither trained nor added by an
        adapter; none if the backbone is trained.
    """
    backbone = model.backbone
    if not getattr(backbone, 'frozen', False):
        return set()
    adapter = getattr(backbone, 'adapter', None)
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    return {
        f'backbone.{key}'
        for key in backbone.state_dict()
        if key not in trained and not (adapter and adapter.adds(key))
    }


def split_state_dict(
    model: nn.Module, state_dict: dict[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the weights of a segmentor.

    Args:
        model: The segmentor.
        state_dict: Weights under its keys; by default its own.

    Returns:
        What is trained (head, adapter, teacher, buffers), and the frozen
        tower. Together they are ``state_dict``.
    """
    if state_dict is None:
        state_dict = model.state_dict()
    tower = tower_keys(model)
    return (
        {k: v for k, v in state_dict.items() if k not in tower},
        {k: v for k, v in state_dict.items() if k in tower},
    )


def describe_tower(model: nn.Module) -> dict[str, Any]:
    """Describe the frozen tower that a trained part belongs to.

    Returns:
        JSON values: ``name``; ``resize``, ``norm`` and ``indices`` (of the
        maps), ``adapter`` (its type) and its ``scaling``; and
        ``statistics``, mean and standard deviation of each tensor that the
        adapter leaves alone.
    """
    backbone = model.backbone
    changed = _decomposed(backbone)
    statistics, state_dict = {}, model.state_dict()
    for key in sorted(tower_keys(model)):
        value = state_dict[key]
        if key in changed or not value.is_floating_point():
            continue
        value = value.double()
        statistics[key] = [
            value.mean().item(),
            value.std(unbiased=False).item(),
        ]
    adapter = getattr(backbone, 'adapter', None)
    return dict(
        name=getattr(backbone, 'model_name', type(backbone).__name__),
        resize=getattr(backbone, 'resize', None),
        norm=getattr(backbone, 'norm', None),
        indices=getattr(backbone, 'indices', None),
        scaling=getattr(adapter, 'scaling', None),
        adapter=None if adapter is None else type(adapter).__name__,
        statistics=statistics,
    )


def save_trained(
    model: nn.Module, path: str | Path, meta: dict | None = None
) -> str:
    """Write what was trained of a segmentor, without its frozen tower.

    Args:
        model: The segmentor.
        path: The file; by custom ``adapter_model.safetensors``.
        meta: Further metadata, see :func:`~.weights.io.write_weights`.

    Returns:
        sha256 of the file.

    Raises:
        UserError: The backbone is trained, so that there is no such part.
    """
    if not tower_keys(model):
        raise UserError(
            'the backbone is trained as a whole, so that there is no part '
            'without it; save the checkpoint'
        )
    trained, _ = split_state_dict(model)
    meta = dict(meta or {}, tower=json.dumps(describe_tower(model)))
    return write_weights(path, trained, meta)


def load_trained(model: nn.Module, path: str | Path) -> None:
    """Load what :func:`save_trained` wrote into a model of the same tower.

    Args:
        model: The segmentor, built with the pretrained weights of its tower.
        path: The file.

    Raises:
        UserError: The file is not of :func:`save_trained`, or was trained on
            another tower.
        CheckpointMismatchError: Head or adapter are of another shape.
    """
    content = read_content(path)
    description = content.get('meta', {}).get('tower')
    if description is None:
        raise UserError(
            f'{path} does not say which tower it belongs to: it is no file '
            'of what was trained without its tower; give it as a checkpoint'
        )
    description = json.loads(description)
    _compare(describe_tower(model), description, path)
    weights = content['state_dict']
    starts = _take_back(model.backbone)
    try:
        load_strictly(
            model,
            weights,
            source=str(path),
            allow_missing=tower_keys(model),
        )
    finally:
        for weight, low in starts:
            weight.data.sub_(_start(low))
    print_log(
        f'loaded {len(weights)} tensors of {path} onto the tower '
        f'{description["name"]}',
        logger='current',
    )


def _compare(ours: dict, theirs: dict, path: str | Path) -> None:
    for key, what in (
        ('name', 'tower'),
        ('resize', 'resize'),
        ('norm', 'norm'),
        ('indices', 'blocks or stages'),
        ('adapter', 'type of adapter'),
        ('scaling', 'alpha / rank'),
    ):
        if ours[key] != theirs[key]:
            raise UserError(
                f'{path} was trained with the {what} {theirs[key]!r}, and '
                f'this model has {ours[key]!r}: give model.backbone the same'
            )
    found, wanted = ours['statistics'], theirs['statistics']
    different = sorted(set(found) ^ set(wanted)) or [
        key
        for key, values in wanted.items()
        if not all(
            abs(a - b) <= _TOLERANCE * max(abs(b), wanted[key][1], 1e-6)
            for a, b in zip(found[key], values, strict=True)
        )
    ]
    if different:
        raise UserError(
            f'{path} was trained on other weights of the tower '
            f'{theirs["name"]}: {different[0]} and {len(different) - 1} more '
            'tensors differ. Build the model with the pretrained weights '
            'that it was trained on (pretrained=True, weights=...)'
        )


def _decomposed(backbone: nn.Module) -> set[str]:
    """Return the keys of weights that an adapter has taken a part out of."""
    return {
        f'backbone.{name}'
        for name, _, low in _pairs(backbone)
        if hasattr(low, 'initial_A')
    }


def _pairs(backbone: nn.Module):
    """Yield name, weight and update of each adapted layer."""
    for name, module in backbone.named_modules():
        if not isinstance(module, LowRank):
            continue
        if hasattr(module, 'weight'):
            yield f'{name}.weight', module.weight, module
        else:
            # The projection inside of an attention.
            parent = name.rpartition('.')[0]
            weight = backbone.get_parameter(f'{parent}.in_proj_weight')
            yield f'{parent}.in_proj_weight', weight, module


def _start(low: LowRank) -> Tensor:
    return low.product(low.initial_A, low.initial_B)


@torch.no_grad()
def _take_back(backbone: nn.Module) -> list[tuple[Tensor, LowRank]]:
    """Restore the pretrained weights that SoMA took its start from."""
    pairs = [
        (weight, low)
        for _, weight, low in _pairs(backbone)
        if hasattr(low, 'initial_A')
    ]
    for weight, low in pairs:
        weight.data.add_(_start(low))
    return pairs
