"""Checkpoints of PMT and EoMT: their names -> ours.

Both keep a ViT under ``encoder.backbone`` with the names of timm (DINOv2) or
nearly those of transformers (DINOv3, as are the blocks of PMT's decoder), where
query, key and value are apart. PMT's released files lack the tower; EoMT's
released DINOv3 files hold differences to the original weights.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError

PMT, EOMT = 'pmt', 'eomt'
NETWORK = 'network.'
_TOWER = 'encoder.backbone.'
_OUR_TOWER = 'backbone.model.'
_HEAD = 'decode_head.'
PROBABILITIES = f'{_HEAD}attn_mask_probs'

# Names of heads: PMT's below `decoder.`, EoMT's at the top.
_HEAD_NAMES = {
    'q': 'query_feat',
    'class_head': 'cls_embed',
    'mask_head': 'mask_embed',
    'upscale': 'upscale',
    'attn_mask_probs': 'attn_mask_probs',
    'decoder_norm': 'post_norm',
    'lateral_projections': 'projections',
    'scalers': 'scales',
    'blocks': 'blocks',
}
# transformers' names of a ViT and its blocks -> timm's.
_TRANSFORMERS = (
    ('patch_embed.cls_token', 'cls_token'),
    ('patch_embed.register_tokens', 'reg_token'),
    ('patch_embed.patch_embeddings.', 'patch_embed.proj.'),
    ('.attention.o_proj.', '.attn.proj.'),
    ('.attention.q_proj.bias', '.attn.q_bias'),
    ('.attention.v_proj.bias', '.attn.v_bias'),
    ('.layer_scale1.lambda1', '.gamma_1'),
    ('.layer_scale2.lambda1', '.gamma_2'),
    ('.mlp.up_proj.', '.mlp.fc1.'),
    ('.mlp.down_proj.', '.mlp.fc2.'),
)
_SEPARATE = re.compile(r'^(.*)\.attention\.([qkv])_proj\.weight$')
_DROPPED = {
    'encoder.pixel_mean': 'the config normalises: data_preprocessor',
    'encoder.pixel_std': 'the config normalises: data_preprocessor',
    'criterion.': 'a buffer of the loss, which the config describes',
}


def kind_of(keys: Iterable[str]) -> str | None:
    """Tell whether keys are those of PMT or EoMT, with or without prefix.

    Returns:
        ``'pmt'``, ``'eomt'`` or None.
    """
    names = {key.removeprefix(NETWORK) for key in keys}
    if {'decoder.q.weight', 'decoder.attn_mask_probs'} <= names:
        return PMT
    if {'q.weight', 'attn_mask_probs', 'class_head.weight'} <= names:
        return EOMT
    return None


def rename(
    weights: Mapping[str, Tensor], source: str, kind: str | None = None
) -> tuple[dict[str, Tensor], list[tuple[str, str]], dict[str, str]]:
    """Rename a checkpoint of PMT or EoMT.

    Args:
        weights: Names, with or without ``network.`` -> tensors.
        source: Where they come from, for messages.
        kind: ``'pmt'`` or ``'eomt'``; by default told by the names.

    Returns:
        Our names -> tensors; all pairs of an old and a new name; and the
        old names that are dropped -> why.

    Raises:
        CheckpointMismatchError: A tensor has no place.
        UserError: Two tensors would get one name, or query, key and value of
            a layer are incomplete.
    """
    kind = kind or kind_of(weights)
    renamed: dict[str, Tensor] = {}
    pairs: list[tuple[str, str]] = []
    dropped: dict[str, str] = {}
    unknown: dict[str, tuple] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        name = key.removeprefix(NETWORK)
        reason = next(
            (why for start, why in _DROPPED.items() if name.startswith(start)),
            None,
        )
        if reason is not None:
            dropped[key] = reason
            continue
        separate = _SEPARATE.match(name)
        if separate:
            name = f'{separate[1]}.attn.qkv.weight'
        new = _place(name, kind)
        if new is None:
            unknown[key] = tuple(value.shape)
            continue
        pairs.append((key, new))
        if separate:
            parts.setdefault(new, {})[separate[2]] = value
        elif new in renamed:
            raise UserError(f'{source} has two tensors for {new}')
        else:
            renamed[new] = value
    if unknown:
        raise CheckpointMismatchError.listing(
            source,
            f'the names of {"PMT" if kind == PMT else "EoMT"}',
            missing={},
            unexpected=unknown,
            shape_mismatches={},
        )
    for new, found in parts.items():
        if set(found) != set('qkv'):
            raise UserError(
                f'{source}: {new} needs the weights of query, key and value, '
                f'and there are only {sorted(found)}'
            )
        renamed[new] = torch.cat([found[part] for part in 'qkv'])
    return renamed, pairs, dropped


def _place(name, kind):
    """Return our name of a tensor of PMT or EoMT, or None."""
    if name.startswith(_TOWER):
        return _OUR_TOWER + to_timm(name.removeprefix(_TOWER))
    if kind == PMT:
        if name.startswith('bn.'):
            return f'{_HEAD}level_norms.{name.removeprefix("bn.")}'
        if not name.startswith('decoder.'):
            return None
        name = name.removeprefix('decoder.')
    first, dot, rest = name.partition('.')
    if first not in _HEAD_NAMES:
        return None
    return _HEAD + to_timm(_HEAD_NAMES[first] + dot + rest)


def to_timm(name: str) -> str:
    """Rename a tensor of a ViT of transformers to timm's name.

    Others, and timm's own, are kept.
    """
    for theirs, ours in _TRANSFORMERS:
        name = name.replace(theirs, ours)
    return name
