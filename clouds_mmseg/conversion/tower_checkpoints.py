"""Released checkpoints of Rein, SoMA and tqdm as checkpoints of ours.

They differ from the layouts of :mod:`~clouds_mmseg.conversion.layouts` in
what they leave out: Rein's files and SoMA's adapter files have no frozen
tower, which is read from a file of its own and resized as these projects do.
The result is always a whole checkpoint of a config's model.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from timm.layers import RotaryEmbeddingCat
from torch import Tensor, nn

from clouds_mmseg.conversion.convert import Conversion
from clouds_mmseg.conversion.layouts import TITLES, KeyTable, Layout
from clouds_mmseg.conversion.target_spec import (
    add_prefix,
    shapes_of,
    strip_prefix,
)
from clouds_mmseg.conversion.tower_keys import fuse_qkv
from clouds_mmseg.models.backbones.single_scale import fit_state_dict
from clouds_mmseg.utils.config_file import find_config, read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import read_state_dict
from clouds_mmseg.weights.load import (
    CheckpointMismatchError,
    without_pretrained_init,
)

# Kind -> benchmark-independent part of the names of its configs.
CONFIG_SUFFIXES = dict(rein='dinov2l', soma='dinov2l', tqdm='eva02l')
_TOWER = 'backbone.model.'
_TABLE = f'{_TOWER}pos_embed'
# Sides of the position tables that the published configs have, in patches.
_BENCHMARKS = {32: 'gta2cs', 64: 'cs2acdc', 36: 'gta2cs'}
_UNUSED = {
    'mask_token': 'of the pretraining of DINOv2',
    'norm': 'the maps are taken before the final norm',
}
_ROPE = 'rotary positions, which are computed from the sizes'
_EVA = {
    'blocks.{}.attn.inner_attn_ln': 'blocks.{}.attn.norm',
    'blocks.{}.attn.q_bias': 'blocks.{}.attn.q_proj.bias',
    'blocks.{}.attn.v_bias': 'blocks.{}.attn.v_proj.bias',
    'blocks.{}.mlp.w1': 'blocks.{}.mlp.fc1_g',
    'blocks.{}.mlp.w2': 'blocks.{}.mlp.fc1_x',
    'blocks.{}.mlp.ffn_ln': 'blocks.{}.mlp.norm',
    'blocks.{}.mlp.w3': 'blocks.{}.mlp.fc2',
}
_ENCODER = 'decode_head.pixel_decoder.encoder.layers.{}'
_DECODER = 'decode_head.transformer_decoder.layers.{}'
TQDM = KeyTable(
    {
        'contexts': 'decode_head.text.contexts',
        'gamma': 'decode_head.text.gamma',
        'text_encoder': 'decode_head.text.encoder',
        'context_decoder': 'decode_head.text.context_decoder',
        'backbone.fpn1': 'backbone.fpn1',
        'backbone.fpn2': 'backbone.fpn2',
        **{f'backbone.{a}': f'{_TOWER}{b}' for a, b in _EVA.items()},
        'backbone': 'backbone.model',
        **{f'reg_E0.{a}': f'backbone.initial.{b}' for a, b in _EVA.items()},
        'reg_E0': 'backbone.initial',
        # Attentions and feed-forward layers are numbered in mmcv 1.
        f'{_ENCODER}.attentions.0': f'{_ENCODER}.self_attn',
        f'{_ENCODER}.attentions.1': f'{_ENCODER}.text_attn',
        f'{_ENCODER}.ffns.0': f'{_ENCODER}.ffn',
        f'{_DECODER}.attentions.0': f'{_DECODER}.cross_attn',
        f'{_DECODER}.attentions.1': f'{_DECODER}.self_attn',
        f'{_DECODER}.ffns.0': f'{_DECODER}.ffn',
        'decode_head': 'decode_head',
    }
)


def convert_tower_checkpoint(
    weights: Mapping[str, Tensor],
    layout: Layout,
    source: str,
    *,
    config: str | None = None,
    tower: str | Mapping[str, Tensor] | None = None,
) -> tuple[Conversion, str, Config]:
    """Convert a released checkpoint, completely.

    Args:
        weights: Its weights.
        layout: Of kind ``'rein'``, ``'soma'`` or ``'tqdm'``.
        source: Where they come from, for messages.
        config: Config of the model that they are for; by default the
            published one that the position table tells.
        tower: File of the pretrained tower, or its weights, for a
            checkpoint without.

    Returns:
        The checked conversion, a description of the model, and the config.

    Raises:
        UserError: ``config`` or ``tower`` are missing or too much, or the
            config resizes otherwise than the project does.
        CheckpointMismatchError: Something in the checkpoint has no place, or
            the model lacks something.
    """
    whole = layout.kind == 'tqdm' or _TABLE in weights
    if whole and tower is not None:
        raise UserError(
            f'--tower {tower}: {source} has its tower, which nothing '
            'else may replace; leave the option out'
        )
    path = config or _published_config(weights, layout, source)
    cfg = read_file(find_config(path, '--config'))
    _check_config(cfg.model.backbone, layout, path)
    backbone, spec = build_spec(cfg)
    if layout.kind == 'tqdm':
        result = rename_tqdm(weights, source)
    else:
        result = _join(weights, layout, backbone, source=source, tower=tower)
    for key, shape in spec.items():
        if key.rpartition('.')[2] in ('initial_A', 'initial_B'):
            # Nothing was taken out of the weights of a released file.
            result.weights[key] = torch.zeros(shape)
            result.created[key] = 'zeros: the frozen weights are whole'
    result.check(spec, source, f'the model of {path}')
    return result, f'the model of {path}', cfg


def _published_config(weights, layout, source):
    """Return the config that was published with a position table."""
    names = f'clouds_mmseg::{layout.kind}/{{}}_{CONFIG_SUFFIXES[layout.kind]}'
    table = weights.get(_TABLE, weights.get('backbone.pos_embed'))
    side = None if table is None else round((table.shape[1] - 1) ** 0.5)
    if side not in _BENCHMARKS:
        raise UserError(
            f'{source} does not say for which size of images its tower is: '
            f'give --config {names.format("gta2cs")}.py (crops of 512) or '
            f'{names.format("cs2acdc")}.py (1024), or a config of yours'
        )
    return names.format(_BENCHMARKS[side])


def build_spec(
    cfg: Config,
) -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    """Build backbone and head of a config without storage.

    Args:
        cfg: The config.

    Returns:
        The backbone, on the meta device, and key -> shape of backbone and
        head. A teacher is left out: self-training copies it when it begins.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = without_pretrained_init(copy.deepcopy(cfg.model))
    with torch.device('meta'):
        backbone = MODELS.build(model['backbone'])
        head = ConfigDict(model['decode_head'])
        head.setdefault('in_channels', backbone.channels)
        head = MODELS.build(head)
    spec = add_prefix('backbone.', shapes_of(backbone))
    spec.update(add_prefix('decode_head.', shapes_of(head)))
    return backbone, spec


def _check_config(cfg, layout, path):
    """Refuse a config whose model would get other features silently."""
    title = TITLES[layout.kind]
    if cfg.type not in ('TIMMTower', 'TIMMCLIPTower'):
        raise UserError(
            f'--config {path}: its backbone is {cfg.type}, and the '
            'checkpoint is of a TIMMTower or TIMMCLIPTower'
        )
    resize = cfg.get('resize', 'timm')
    if resize != 'bicubic':
        raise UserError(
            f'--config {path}: model.backbone.resize={resize!r}, '
            f'and {title} resizes position table and patch kernel without '
            'antialiasing: its checkpoints are only right with resize='
            "'bicubic'"
        )
    if cfg.get('norm'):
        raise UserError(
            f'--config {path}: model.backbone.norm=True, and {title} takes '
            'the maps before the final norm: leave norm out'
        )
    adapter = (cfg.get('adapter') or {}).get('type')
    wanted = dict(rein='Rein', soma='SoMA', tqdm=None)[layout.kind]
    if adapter != wanted:
        raise UserError(
            f'--config {path}: model.backbone.adapter is {adapter}, and the '
            f'checkpoint is of {title}, which has {wanted or "none"}'
        )


def rename_tqdm(weights: Mapping[str, Tensor], source: str) -> Conversion:
    """Rename tqdm's weights to our keys.

    Args:
        weights: A whole checkpoint of tqdm.
        source: Where they come from, for messages.

    Returns:
        Not yet checked against a model.

    Raises:
        CheckpointMismatchError: A key is not tqdm's.
        UserError: The stored rotary positions are not those that this code
            computes.
    """
    result, unexpected = Conversion(), {}
    for key, value in weights.items():
        if re.match(r'(backbone|reg_E0)\.(.*\.)?rope\.freqs_(cos|sin)$', key):
            _check_rope(key, value, source)
            result.unused[key] = _ROPE
        elif re.match(r'reg_E0\.fpn[12]\.', key):
            result.unused[key] = (
                'a pyramid of the frozen copy, which makes no maps'
            )
        elif (new := TQDM(key)) is None:
            unexpected[key] = tuple(value.shape)
        else:
            result.add(key, new, value)
    if unexpected:
        raise CheckpointMismatchError.listing(
            source,
            f'the names of {TITLES["tqdm"]}',
            missing={},
            unexpected=unexpected,
            shape_mismatches={},
        )
    return result


def _check_rope(key, value, source):
    """Compare a stored table of rotary positions with the computed one."""
    if value.is_meta:
        return
    side = round(len(value) ** 0.5)
    if value.dim() == 2 and side * side == len(value):
        # As for the pretraining: a grid of 16 stands for any.
        rope = RotaryEmbeddingCat(
            value.shape[1],
            in_pixels=False,
            feat_shape=[side, side],
            ref_feat_shape=[16, 16],
        )
        sin, cos = rope.get_embed().chunk(2, dim=-1)
        expected = cos if key.endswith('cos') else sin
        if torch.allclose(value.float(), expected, atol=1e-5):
            return
    raise UserError(
        f'{source}: {key} {tuple(value.shape)} are other rotary positions '
        'than those of EVA02-CLIP, and this code would compute others: the '
        'model cannot be converted'
    )


def _join(weights, layout, backbone, *, source, tower):
    """Join an adapter and a head with the tower that they belong to."""
    result = Conversion()
    own = strip_prefix(_TOWER, weights)
    frozen: dict[str, Tensor] = {}
    if _TABLE not in weights:
        if tower is None:
            raise UserError(
                f'{source} has no tower, which was frozen: give the file of '
                'its pretrained weights with --tower, '
                'dinov2_vitl14_pretrain.pth of DINOv2 (without registers) or '
                "timm's vit_large_patch14_dinov2.lvd142m"
            )
        name, state = 'the pretrained tower', tower
        if not isinstance(tower, Mapping):
            name = Path(tower).name
            state = read_state_dict(tower)
        frozen = _fit_tower(state, name, backbone)
        for key in frozen:
            result.created[f'{_TOWER}{key}'] = f'the frozen tower, of {name}'
    expected = backbone.model.state_dict()
    kept = {}
    for key, value in own.items():
        reason = _reason(key, expected)
        if reason is None:
            kept[key] = value
        else:
            result.unused[f'{_TOWER}{key}'] = reason
    fused = fuse_qkv(kept)
    for key, value in {**frozen, **fused}.items():
        result.weights[f'{_TOWER}{key}'] = value
    for key in fused:
        # What the adapter's file has replaces what the tower's has: SoMA's
        # scripts cut out and put back every bias of the backbone.
        result.created.pop(f'{_TOWER}{key}', None)
    for key in kept:
        new = re.sub(r'\.attn\.[qkv]\.', '.attn.qkv.', key)
        result.renamed.append((f'{_TOWER}{key}', f'{_TOWER}{new}'))
    for key, value in weights.items():
        if not key.startswith(_TOWER):
            result.add(key, key, value)
    return result


def _reason(key, expected):
    """Return why a tensor of a tower is dropped; None if it is not."""
    first = key.partition('.')[0]
    if first in _UNUSED and not any(
        k == first or k.startswith(f'{first}.') for k in expected
    ):
        return _UNUSED[first]
    return None


def _fit_tower(
    state: Mapping[str, Tensor], name: str, backbone: nn.Module
) -> dict[str, Tensor]:
    """Resize a pretrained tower to the one of a backbone.

    Args:
        state: Of the original release, of timm, or of the conversion scripts
            of Rein and SoMA.
        name: Of its file, for messages.
        backbone: On the meta device, with its adapter.

    Returns:
        Name in the tower -> value, without what the adapter adds.

    Raises:
        CheckpointMismatchError: It is another tower.
    """
    for prefix in ('backbone.model.', 'backbone.', 'model.'):
        if any(key.startswith(prefix) for key in state):
            state = strip_prefix(prefix, state)
            break
    model = backbone.model
    added = set(backbone.adapter_keys_of_tower())
    expected = {
        k: tuple(v.shape)
        for k, v in model.state_dict().items()
        if k not in added
    }
    state = {
        k: v
        for k, v in fuse_qkv(state).items()
        if _reason(k, expected) is None
    }
    state = fit_state_dict(state, model, backbone.resize)
    check = Conversion(weights=state)
    check.check(expected, name, f'the tower {backbone.model_name}')
    return state
