"""Names of towers and adapters in other projects' files -> those of timm.

SoMA keeps query, key and value of a ViT apart, timm in one layer; Rein's
ConvNeXt has the names of mmpretrain.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from clouds_mmseg.utils.errors import UserError

_SEPARATE = re.compile(r'^(.*\battn\.)([qkv])\.(.+)$')
_CONVNEXT = (
    (re.compile(r'^downsample_layers\.0\.(\d)\.'), r'stem.\1.'),
    (
        re.compile(r'^downsample_layers\.(\d)\.(\d)\.'),
        r'stages.\1.downsample.\2.',
    ),
    (re.compile(r'^stages\.(\d)\.(\d+)\.'), r'stages.\1.blocks.\2.'),
    (re.compile(r'\.depthwise_conv\.'), '.conv_dw.'),
    (re.compile(r'\.pointwise_conv([12])\.'), r'.mlp.fc\1.'),
)


def fuse_qkv(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join ``attn.q``, ``attn.k`` and ``attn.v`` to timm's ``attn.qkv``.

    Weights, biases and low-rank updates (``lora_A``, ``lora_B``) are all
    joined along their first axis: the update of a layer with three groups of
    rows is the three updates, see :class:`~.lora.LowRank`.

    Args:
        state_dict: Names, with any prefix, -> tensors.

    Returns:
        The same with timm's names.

    Raises:
        UserError: One of the three is missing.
    """
    joined: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        match = _SEPARATE.match(key)
        if match is None:
            joined[key] = value
            continue
        start, name, rest = match.groups()
        parts.setdefault(f'{start}qkv.{rest}', {})[name] = value
    for key, found in parts.items():
        missing = {'q', 'k', 'v'} - set(found)
        if missing:
            raise UserError(
                f'{key}: the weights have {sorted(found)} of query, key and '
                f'value, and {sorted(missing)} not'
            )
        joined[key] = torch.cat([found[name] for name in 'qkv'])
    return joined


def convnext_to_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of mmpretrain's ConvNeXt to timm's names.

    Args:
        state_dict: Names without prefix -> tensors. Others are kept.
    """
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in _CONVNEXT:
            key = pattern.sub(replacement, key)
        renamed[key] = value
    return renamed
