"""Checkpoint layouts: parameter names of each project, and detection.

The second step of a conversion (read -> detect -> rename -> check -> write,
see :mod:`~clouds_mmseg.conversion.convert_file`): :func:`detect` recognises
the :class:`Layout` of a state dict by its keys, and the layout knows the
:class:`KeyTable` with which :mod:`~clouds_mmseg.conversion.convert` renames
them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from clouds_mmseg.conversion.plain_heads import kind_of
from clouds_mmseg.utils.errors import UserError

KINDS = (
    'clouds',
    'fcclip',
    'mask2former',
    'mmseg',
    'pmt',
    'eomt',
    'rein',
    'soma',
    'tqdm',
)
# Whose format can be written.
WRITTEN_KINDS = KINDS[:3]
# Converted by tower_checkpoints.py.
TOWER_KINDS = ('rein', 'soma', 'tqdm')
TITLES = dict(
    clouds='official CLOUDS',
    fcclip='FC-CLIP',
    mask2former='detectron2 Mask2Former',
    mmseg='ours or MMSegmentation',
    pmt='PMT',
    eomt='EoMT',
    rein='Rein',
    soma='SoMA',
    tqdm='tqdm',
)
# Key prefixes and keys of our models.
OURS = 'decode_head.'
TEACHER = 'teacher.module.decode_head.'
STEPS = 'teacher.steps'
VOID = 'void_embedding.weight'
# Key prefixes of the other projects.
_HEAD = 'sem_seg_head.'
_EMA = 'sem_seg_head_ema.'
_CLIP = 'backbone.clip_model.'

_TEXT_TOWER = (
    "CLIP's text tower: the config says where text embeddings come from"
)
# Key prefix -> why our models do not use the tensor.
_DROP_REASONS = {
    'criterion.': 'a buffer of the loss, which the config describes',
    'pixel_mean': 'the config normalises: data_preprocessor',
    'pixel_std': 'the config normalises: data_preprocessor',
    'sam.': 'SAM: the refiner of the config loads it',
    f'{_CLIP}visual.attnpool.': 'pools what the four maps are made of',
    f'{_CLIP}visual.head.': 'projects what the four maps are made of',
    f'{_CLIP}visual.trunk.head.': 'projects what the four maps are made of',
}
# The layers of timm's ViTs compute the three at once.
_SOMA_QUERY = re.compile(r'^backbone\.model\.blocks\.\d+\.attn\.q\.')
_VOID_UNUSED = 'a linear classifier compares nothing with it'


class KeyTable:
    """Renaming rules for the dotted prefixes of state dict keys.

    A rule matches a prefix of whole segments; ``{}`` stands for a number.
    The first rule that matches is applied, so a longer prefix has to come
    before a prefix of itself. That must hold on both sides, because
    :meth:`inverse` swaps them.

    Args:
        rules: Source prefix -> target prefix, with as many ``{}`` on both
            sides, in the same order.
    """

    def __init__(self, rules: Mapping[str, str]):
        self.rules = dict(rules)
        self._patterns = [
            (
                re.compile(
                    re.escape(source).replace(r'\{\}', r'(\d+)') + r'(?=\.|\Z)'
                ),
                target,
            )
            for source, target in self.rules.items()
        ]

    def __call__(self, key: str) -> str | None:
        """Rename one whole key; None if no rule matches."""
        for pattern, target in self._patterns:
            if match := pattern.match(key):
                return target.format(*match.groups()) + key[match.end() :]
        return None

    def inverse(self) -> 'KeyTable':
        """Return the table that renames targets to sources."""
        return KeyTable(
            {target: source for source, target in self.rules.items()}
        )

    def with_prefixes(self, source: str, target: str) -> 'KeyTable':
        """Return the table of a submodule for keys of the whole model.

        Args:
            source: Prefix of the source keys, with its dot.
            target: Prefix of the target keys, with its dot.
        """
        return KeyTable(
            {source + old: target + new for old, new in self.rules.items()}
        )

    def __or__(self, other: 'KeyTable') -> 'KeyTable':
        return KeyTable({**self.rules, **other.rules})


# Mask2Former in detectron2 -> our head.
HEAD = KeyTable(
    {
        # pixel decoder
        'pixel_decoder.input_proj.{}.0': 'pixel_decoder.input_convs.{}.conv',
        'pixel_decoder.input_proj.{}.1': 'pixel_decoder.input_convs.{}.gn',
        'pixel_decoder.adapter_1.norm': 'pixel_decoder.lateral_convs.0.gn',
        'pixel_decoder.adapter_1': 'pixel_decoder.lateral_convs.0.conv',
        'pixel_decoder.layer_1.norm': 'pixel_decoder.output_convs.0.gn',
        'pixel_decoder.layer_1': 'pixel_decoder.output_convs.0.conv',
        'pixel_decoder.mask_features': 'pixel_decoder.mask_feature',
        'pixel_decoder.transformer.level_embed': (
            'pixel_decoder.level_encoding.weight'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.self_attn': (
            'pixel_decoder.encoder.layers.{}.self_attn'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.linear1': (
            'pixel_decoder.encoder.layers.{}.ffn.layers.0.0'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.linear2': (
            'pixel_decoder.encoder.layers.{}.ffn.layers.1'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.norm1': (
            'pixel_decoder.encoder.layers.{}.norms.0'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.norm2': (
            'pixel_decoder.encoder.layers.{}.norms.1'
        ),
        # transformer decoder
        'predictor.transformer_cross_attention_layers.{}.multihead_attn': (
            'transformer_decoder.layers.{}.cross_attn.attn'
        ),
        'predictor.transformer_cross_attention_layers.{}.norm': (
            'transformer_decoder.layers.{}.norms.0'
        ),
        'predictor.transformer_self_attention_layers.{}.self_attn': (
            'transformer_decoder.layers.{}.self_attn.attn'
        ),
        'predictor.transformer_self_attention_layers.{}.norm': (
            'transformer_decoder.layers.{}.norms.1'
        ),
        'predictor.transformer_ffn_layers.{}.linear1': (
            'transformer_decoder.layers.{}.ffn.layers.0.0'
        ),
        'predictor.transformer_ffn_layers.{}.linear2': (
            'transformer_decoder.layers.{}.ffn.layers.1'
        ),
        'predictor.transformer_ffn_layers.{}.norm': (
            'transformer_decoder.layers.{}.norms.2'
        ),
        'predictor.decoder_norm': 'transformer_decoder.post_norm',
        # learned query and level embeddings
        'predictor.query_feat': 'query_feat',
        'predictor.query_embed': 'query_embed',
        'predictor.level_embed': 'level_embed',
        # predictions; ours also count the activations between the layers
        'predictor.mask_embed.layers.0': 'mask_embed.0',
        'predictor.mask_embed.layers.1': 'mask_embed.2',
        'predictor.mask_embed.layers.2': 'mask_embed.4',
        # text classifier
        'predictor._mask_pooling_proj': 'cls_embed.mask_pooling_proj',
        'predictor.class_embed.layers.0': 'cls_embed.embed.0',
        'predictor.class_embed.layers.1': 'cls_embed.embed.2',
        'predictor.class_embed.layers.2': 'cls_embed.embed.4',
        'predictor.logit_scale': 'cls_embed.logit_scale',
        # linear classifier
        'predictor.class_embed.weight': 'cls_embed.weight',
        'predictor.class_embed.bias': 'cls_embed.bias',
    }
)
# Keys of the first release of Mask2Former, renamed there since.
LEGACY_HEAD = KeyTable({'predictor.static_query': 'query_feat'})

# CLIPBackbone keeps only the visual tower.
CLIP = KeyTable({'clip_model.visual': 'visual'})


def _resnet():
    """detectron2's ResNet -> MMSegmentation's."""
    parts = {'stem.conv1.norm': 'bn1', 'stem.conv1': 'conv1'}
    for stage in range(1, 5):
        source, target = f'res{stage + 1}.{{}}', f'layer{stage}.{{}}'
        parts[f'{source}.shortcut.norm'] = f'{target}.downsample.1'
        parts[f'{source}.shortcut'] = f'{target}.downsample.0'
        for conv in range(1, 4):
            parts[f'{source}.conv{conv}.norm'] = f'{target}.bn{conv}'
            parts[f'{source}.conv{conv}'] = f'{target}.conv{conv}'
    return KeyTable(parts)


RESNET = _resnet()

# The original Swin Transformer, which Mask2Former uses -> MMSegmentation's.
# Patch merging also orders its channels differently: see
# swin_to_mmseg_order().
SWIN = KeyTable(
    {
        'patch_embed.proj': 'patch_embed.projection',
        'patch_embed.norm': 'patch_embed.norm',
        'absolute_pos_embed': 'absolute_pos_embed',
        'layers.{}.blocks.{}.attn': 'stages.{}.blocks.{}.attn.w_msa',
        'layers.{}.blocks.{}.mlp.fc1': 'stages.{}.blocks.{}.ffn.layers.0.0',
        'layers.{}.blocks.{}.mlp.fc2': 'stages.{}.blocks.{}.ffn.layers.1',
        'layers.{}.blocks.{}.norm1': 'stages.{}.blocks.{}.norm1',
        'layers.{}.blocks.{}.norm2': 'stages.{}.blocks.{}.norm2',
        'layers.{}.downsample': 'stages.{}.downsample',
        **{f'norm{stage}': f'norm{stage}' for stage in range(4)},
    }
)


def is_patch_merging(key: str) -> bool:
    """Tell whether a key of ours belongs to the patch merging of a Swin."""
    return key.startswith('backbone.stages.') and '.downsample.' in key


def swin_to_mmseg_order(value: torch.Tensor) -> torch.Tensor:
    """Reorder patch merging channels from the original Swin to mmseg.

    Four neighbours of C channels each are concatenated. The original Swin
    concatenates the neighbours column by column, each with all of its
    channels; ``nn.Unfold`` in MMSegmentation goes channel by channel, each
    with its four neighbours row by row.

    Args:
        value: (..., 4 C).

    Returns:
        (..., 4 C).
    """
    neighbours = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2)


def mmseg_to_swin_order(value: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`swin_to_mmseg_order`; (..., 4 C) -> (..., 4 C)."""
    neighbours = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return neighbours.transpose(-1, -2).flatten(-2)


@dataclass(frozen=True)
class Layout:
    """Project and architecture that the keys of a state dict reveal.

    Attributes:
        kind: One of ``KINDS``.
        text: Whether the classifier compares with text embeddings; else it
            is linear.
        teacher: Whether there is a second head, the moving average.
        backbone: ``'clip'``, ``'resnet'``, ``'swin'``, ``'other'`` (a ViT of
            PMT or EoMT too) or ``''`` for none.
    """

    kind: str
    text: bool
    teacher: bool
    backbone: str

    @property
    def title(self) -> str:
        """Description for reports."""
        words = [TITLES[self.kind]]
        if self.kind != 'mmseg' or self.text:
            words.append(f'{"text" if self.text else "linear"} classifier')
        if self.teacher:
            words.append('with the moving average of the head')
        return ', '.join(words)

    def table(self) -> KeyTable:
        """Return the renaming of a whole model, detectron2's keys -> ours."""
        table = HEAD.with_prefixes(_HEAD, OURS)
        table = table | HEAD.with_prefixes(_EMA, TEACHER)
        backbones = dict(clip=CLIP, resnet=RESNET, swin=SWIN)
        if self.backbone in backbones:
            backbone = backbones[self.backbone]
            table = table | backbone.with_prefixes('backbone.', 'backbone.')
        if self.text:
            table = table | KeyTable({VOID: f'{OURS}cls_embed.{VOID}'})
        return table

    def legacy_table(self) -> KeyTable:
        """Return the renaming of keys of older releases -> ours."""
        table = LEGACY_HEAD.with_prefixes(_HEAD, OURS)
        return table | LEGACY_HEAD.with_prefixes(_EMA, TEACHER)

    def drop_reason(self, key: str) -> str | None:
        """Return why a tensor in detectron2's layout is not converted.

        Args:
            key: Its whole name.

        Returns:
            The reason; None if the tensor is to be converted.
        """
        if key == VOID and not self.text:
            return _VOID_UNUSED
        for prefix, reason in _DROP_REASONS.items():
            if key.startswith(prefix):
                return reason
        if key.startswith(_CLIP) and not key.startswith(f'{_CLIP}visual.'):
            return _TEXT_TOWER
        return None


def detect(
    keys: Iterable[str], stated: str = 'auto', source: str = 'the file'
) -> Layout:
    """Detect the layout of a state dict from its keys.

    Args:
        keys: Names of all weights.
        stated: Kind that the user states, one of ``KINDS``, or ``'auto'``.
            Official CLOUDS with the text classifier and FC-CLIP have the
            same keys: between these two the statement decides.
        source: Where the weights come from, for messages.

    Raises:
        UserError: The layout is unknown, or not the stated one.
    """
    keys = list(keys)

    def any_key(prefix):
        return any(key.startswith(prefix) for key in keys)

    tower = _tower_kind(keys)
    if tower is not None:
        found, reasons = tower
        text = teacher = False
        backbone = 'other'
    elif any_key(OURS):
        found, reasons = 'mmseg', f'names begin with {OURS!r}'
        text = f'{OURS}cls_embed.logit_scale' in keys
        teacher = any_key(TEACHER)
        backbone = _backbone(any_key, 'visual.', 'layer1.', 'stages.')
    elif any_key(_HEAD + 'predictor.query_') or any_key(
        _HEAD + 'predictor.static_query'
    ):
        text = any_key(f'{_HEAD}predictor.logit_scale')
        teacher = any_key(_EMA)
        backbone = _backbone(any_key, 'clip_model.', 'res2.', 'layers.')
        if not any_key(_CLIP):
            found, reasons = 'mask2former', f'no names begin with {_CLIP!r}'
        elif teacher or not text:
            found, reasons = (
                'clouds',
                (
                    f'names begin with {_EMA!r}'
                    if teacher
                    else f'{_CLIP!r} is there and the classifier is linear'
                ),
            )
        else:
            found = 'clouds' if stated == 'clouds' else 'fcclip'
            reasons = f'{_CLIP!r} is there and the classifier compares text'
    elif kind := kind_of(keys):
        found, reasons = kind, 'it has its queries, classes and masks'
        text = teacher = False
        tower = any('encoder.backbone.' in key for key in keys)
        backbone = 'other' if tower else ''
    else:
        raise UserError(_unknown(any_key, keys, source))
    if stated not in ('auto', found):
        raise UserError(
            f'--from {stated} contradicts {source}, which looks like '
            f'{TITLES[found]} (--from {found}): {reasons}. Leave --from out '
            'or give another file.'
        )
    return Layout(found, text, teacher, backbone)


def _tower_kind(keys):
    """Return Rein, SoMA or tqdm and why, or None."""
    if 'contexts' in keys and any(k.startswith('reg_E0.') for k in keys):
        return 'tqdm', "there are 'contexts' and 'reg_E0'"
    if any(_SOMA_QUERY.match(key) for key in keys):
        return 'soma', 'the tower has query, key and value apart'
    adapted = any(key.startswith('backbone.reins.') for key in keys)
    if adapted and not any(k.startswith('backbone.model.') for k in keys):
        return 'rein', "there are 'backbone.reins' and no tower"
    return None


def _backbone(any_key, clip, resnet, swin):
    """Return the kind of the backbone, given the prefixes of each kind."""
    for kind, prefix in (('clip', clip), ('resnet', resnet)):
        if any_key(f'backbone.{prefix}'):
            return kind
    if any_key(f'backbone.{swin}') and any_key('backbone.patch_embed.'):
        return 'swin'
    return 'other' if any_key('backbone.') else ''


def _unknown(any_key, keys, source):
    """Return the message for keys of no known layout."""
    if any_key('visual.') or any_key('image_encoder.'):
        return (
            f'{source} is a foundation model, not a segmentor: CLIP towers '
            'and SAM are read as published, without conversion. Give a CLIP '
            'file as model.backbone.pretrained, a SAM file to the refiner.'
        )
    return (
        f'{source} is none of {", ".join(TITLES.values())}: its names begin '
        f'with {sorted(keys)[:3]}. Only heads of Mask2Former, PMT and EoMT '
        'are converted.'
    )
