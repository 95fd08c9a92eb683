"""Checkpoints of PMT and EoMT: their names -> ours, and their sizes.

Both keep a ViT under ``encoder.backbone``, with the names of timm (DINOv2) or
nearly those of transformers (DINOv3, and the blocks of PMT's decoder), where
query, key and value are apart. PMT's released files lack the tower; EoMT's
released DINOv3 files hold differences to the original weights.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from clouds_mmseg.models.backbones.timm_tower import TIMMTower
from clouds_mmseg.models.plain_mask import EoMTHead, PMTHead
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
# What their networks normalise by: ImageNet's, as timm's DINOs.
_STATISTICS = {
    'encoder.pixel_mean': (0.485, 0.456, 0.406),
    'encoder.pixel_std': (0.229, 0.224, 0.225),
}
# transformers' names of an original tower -> those in these checkpoints.
_ORIGINAL = (('embeddings.', 'patch_embed.'), ('layer.', 'blocks.'))
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


def is_differences(weights: Mapping[str, Tensor], source: str) -> bool:
    """Tell whether a checkpoint holds differences to the original tower.

    The mean that the network normalises by tells: as a difference it is 0.

    Args:
        weights: Names of EoMT or PMT -> tensors.
        source: Where they come from, for messages.

    Raises:
        UserError: The network normalises by other statistics than ImageNet's,
            or the file does not say which.
    """
    found = {
        key.removeprefix(NETWORK): value for key, value in weights.items()
    }
    statistics = {
        name: found[name].flatten().float()
        for name in _STATISTICS
        if name in found
    }
    if not statistics:
        if any(key.startswith(f'{_TOWER}patch_embed.cls') for key in found):
            raise UserError(
                f'{source} lacks {NETWORK}encoder.pixel_mean, which tells '
                'whether its tower holds weights or differences to the '
                'original ones; give the whole file'
            )
        return False
    if not any(value.any() for value in statistics.values()):
        return True
    for name, value in statistics.items():
        wanted = torch.tensor(_STATISTICS[name])
        if value.shape != wanted.shape or (value - wanted).abs().max() > 1e-3:
            raise UserError(
                f'{source} normalises by {name}={value.tolist()}, and the '
                f'towers here by {wanted.tolist()}: it would predict '
                'something else'
            )
    return False


def add_original(
    renamed: dict[str, Tensor], original: Mapping[str, Tensor], source: str
) -> None:
    """Add the original weights of the tower to differences, in place.

    Args:
        renamed: Our names -> differences of the tower, and the head as it is
            except for the masks' probabilities, differences to 1.
        original: The tower, of timm or transformers.
        source: The file of ``original``, for messages.

    Raises:
        UserError: It is no such tower.
    """
    tower = _original_tower(original)
    differences = [k for k in renamed if k.startswith(_OUR_TOWER)]
    missing = []
    for key in differences:
        name = key.removeprefix(_OUR_TOWER)
        value = tower.get(name)
        if value is None and name.endswith(('attn.q_bias', 'attn.v_bias')):
            # timm leaves out biases that are zero.
            continue
        if value is None or value.shape != renamed[key].shape:
            missing.append(name)
            continue
        renamed[key] = renamed[key] + value.to(renamed[key].dtype)
    if missing:
        raise UserError(
            f'{source} is not the tower that the checkpoint holds '
            f'differences to: of {len(differences)} tensors {len(missing)} '
            f'are missing or of another shape ({", ".join(missing[:3])}, '
            '...); give the DINOv3 weights of this size, from timm or '
            'transformers'
        )
    renamed[PROBABILITIES] = renamed[PROBABILITIES] + 1


def _original_tower(original):
    """Return a tower of transformers or timm under timm's names."""
    named, parts = {}, {}
    for key, value in original.items():
        for theirs, ours in _ORIGINAL:
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
        separate = _SEPARATE.match(key)
        if separate:
            name = f'{separate[1]}.attn.qkv.weight'
            parts.setdefault(name, {})[separate[2]] = value
        else:
            named[to_timm(key)] = value
    for name, found in parts.items():
        if set(found) == set('qkv'):
            named[name] = torch.cat([found[part] for part in 'qkv'])
    return named


def shapes_of_model(
    weights: Mapping[str, Tensor], kind: str
) -> tuple[dict[str, tuple], str]:
    """Infer the model that renamed weights belong to, without storage.

    Args:
        weights: Our names -> tensors.
        kind: ``'pmt'`` or ``'eomt'``.

    Returns:
        Key -> shape of head and, if the weights have one, tower; and a
        description.

    Raises:
        UserError: A weight that every such model has is missing.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}

    def shape_of(key):
        if key not in shapes:
            raise UserError(
                f'{key} is missing: these are not the weights of '
                f'{"PMT" if kind == PMT else "EoMT"}'
            )
        return shapes[key]

    queries, channels = shape_of(f'{_HEAD}query_feat.weight')
    blocks = shape_of(PROBABILITIES)[0]
    steps = _count(shapes, f'{_HEAD}upscale.')
    arguments = dict(
        num_classes=shape_of(f'{_HEAD}cls_embed.bias')[0] - 1,
        num_queries=queries,
        num_blocks=blocks,
    )
    spec: dict[str, tuple] = {}
    title = f'{arguments["num_classes"]} classes'
    # A patch of 8 or 16 pixels, and one that the shapes do not tell.
    patch = 2 ** (steps + 2)
    with torch.device('meta'):
        if kind == EOMT or any(k.startswith(_OUR_TOWER) for k in shapes):
            tower, name = _tower_of(shapes, shape_of, kind, blocks)
            spec.update(_with_prefix('backbone.', tower))
            patch, title = tower.patch_size, f'{name}, {title}'
        if kind == PMT:
            levels = _count(shapes, f'{_HEAD}scales.')
            head = PMTHead(
                in_channels=[channels] * levels,
                strides=[patch] * levels,
                # Neither heads of attention nor residuals show in shapes.
                num_heads=1,
                ffn_channels=shape_of(f'{_HEAD}blocks.0.mlp.fc1.bias')[0],
                level_norm=f'{_HEAD}level_norms.0.weight' in shapes,
                projection=_projection_of(shapes),
                **arguments,
            )
        else:
            head = EoMTHead(
                in_channels=[channels], strides=[patch], **arguments
            )
    spec.update(_with_prefix(_HEAD, head))
    return spec, f'{type(head).__name__} ({title})'


def _tower_of(shapes, shape_of, kind, blocks):
    """Build the ViT with such shapes, of DINOv2 or DINOv3."""
    width, _, patch, _ = shape_of(f'{_OUR_TOWER}patch_embed.proj.weight')
    hidden = shape_of(f'{_OUR_TOWER}blocks.0.mlp.fc1.bias')[0]
    depth = _count(shapes, f'{_OUR_TOWER}blocks.')
    arguments = dict(
        embed_dim=width,
        depth=depth,
        mlp_ratio=hidden / width,
        num_heads=1,
        patch_size=patch,
        output='tokens',
        load_pretrained=False,
    )
    if kind == EOMT:
        arguments.update(frozen=False, open_blocks=blocks)
    else:
        arguments.update(norm=True)
    if f'{_OUR_TOWER}pos_embed' not in shapes:
        name, family = 'vit_small_patch16_dinov3_qkvb', 'DINOv3'
    else:
        family = 'DINOv2'
        registers = f'{_OUR_TOWER}reg_token' in shapes
        name = f'vit_small_patch14_{"reg4_" if registers else ""}dinov2'
        # Without registers the table has an entry of the class token.
        entries = shape_of(f'{_OUR_TOWER}pos_embed')[1] - (not registers)
        side = math.isqrt(entries)
        if side * side != entries:
            raise UserError(
                f'{_OUR_TOWER}pos_embed is of a grid that is not square, so '
                'that its sides do not show; give the model with --config'
            )
        arguments['img_size'] = side * patch
    tower = TIMMTower(name, **arguments)
    return tower, f'{family} of {depth} blocks, {width} channels'


def _count(shapes, prefix):
    """Count the modules of a list."""
    return len(
        {
            key.removeprefix(prefix).split('.')[0]
            for key in shapes
            if key.startswith(prefix)
        }
    )


def _projection_of(shapes):
    if f'{_HEAD}projections.0.0.weight' in shapes:
        return 'mlp'
    if f'{_HEAD}projections.0.weight' in shapes:
        return 'linear'
    return 'none'


def _with_prefix(prefix, module):
    return {
        prefix + key: tuple(value.shape)
        for key, value in module.state_dict().items()
    }
