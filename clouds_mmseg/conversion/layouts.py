"""Parameter names of other projects' checkpoints, and their detection."""

import re
from dataclasses import dataclass

from clouds_mmseg.utils.errors import UserError


class KeyTable:
    """Parts of names here and what they are called there.

    A part matches the beginning of a name, whole segments only; ``{}``
    stands for a number. The first part that matches counts, so that longer
    ones have to come before their beginnings. That must hold for both
    columns: :meth:`inverse` is the same table read from right to left.

    Args:
        parts (Mapping[str, str]): Name here -> name there, with as many
            ``{}`` on both sides, in the same order.
    """

    def __init__(self, parts):
        self.parts = dict(parts)
        self._rules = [
            (
                re.compile(
                    re.escape(here).replace(r'\{\}', r'(\d+)') + r'(?=\.|\Z)'
                ),
                there,
            )
            for here, there in self.parts.items()
        ]

    def __call__(self, key):
        """Rename one key.

        Args:
            key (str): A whole name.

        Returns:
            str | None: What it is called there; None if it has no name.
        """
        for pattern, there in self._rules:
            if match := pattern.match(key):
                return there.format(*match.groups()) + key[match.end() :]
        return None

    def inverse(self):
        """Read the table from right to left.

        Returns:
            KeyTable: Name there -> name here.
        """
        return KeyTable({there: here for here, there in self.parts.items()})

    def under(self, here, there):
        """Put a prefix before both columns.

        Args:
            here (str): With its dot.
            there (str): With its dot.

        Returns:
            KeyTable: The table of a submodule's whole names.
        """
        return KeyTable(
            {here + old: there + new for old, new in self.parts.items()}
        )

    def __or__(self, other):
        return KeyTable({**self.parts, **other.parts})


# detectron2's name of a part -> ours.
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
        # what is learned for queries and levels
        'predictor.query_feat': 'query_feat',
        'predictor.query_embed': 'query_embed',
        'predictor.level_embed': 'level_embed',
        # predictions; three linear layers alternate with activations
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
# What the first release of Mask2Former called some of them.
OLD_HEAD = KeyTable({'predictor.static_query': 'query_feat'})


# CLIPBackbone keeps the visual tower alone.
CLIP = KeyTable({'clip_model.visual': 'visual'})


def _resnet():
    """detectron2's ResNet -> MMSegmentation's."""
    parts = {'stem.conv1.norm': 'bn1', 'stem.conv1': 'conv1'}
    for stage in range(1, 5):
        here, there = f'res{stage + 1}.{{}}', f'layer{stage}.{{}}'
        parts[f'{here}.shortcut.norm'] = f'{there}.downsample.1'
        parts[f'{here}.shortcut'] = f'{there}.downsample.0'
        for conv in range(1, 4):
            parts[f'{here}.conv{conv}.norm'] = f'{there}.bn{conv}'
            parts[f'{here}.conv{conv}'] = f'{there}.conv{conv}'
    return KeyTable(parts)


RESNET = _resnet()

# The Swin Transformer of its authors, which Mask2Former took over ->
# MMSegmentation's. The merging of patches also orders channels otherwise:
# see merge_order().
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


def is_merge(key):
    """Whether our name is one whose channels Swin's authors order otherwise.

    Args:
        key (str): Whole name in our layout.

    Returns:
        bool: True for the parts of a merging of patches.
    """
    return key.startswith('backbone.stages.') and '.downsample.' in key


def merge_order(value):
    """Order the channels of merged patches as MMSegmentation does.

    Four neighbours of C channels each become one vector: its authors put
    neighbour after neighbour, column by column; ``nn.Unfold`` puts channel
    after channel, each with its neighbours row by row.

    Args:
        value (Tensor): (..., 4 C).

    Returns:
        Tensor: (..., 4 C).
    """
    neighbours = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2)


def authors_order(value):
    """Undo :func:`merge_order`.

    Args:
        value (Tensor): (..., 4 C).

    Returns:
        Tensor: (..., 4 C).
    """
    neighbours = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return neighbours.transpose(-1, -2).flatten(-2)


KINDS = ('clouds', 'fcclip', 'mask2former', 'mmseg')
TITLES = dict(
    clouds='official CLOUDS',
    fcclip='FC-CLIP',
    mask2former='detectron2 Mask2Former',
    mmseg='ours or MMSegmentation',
)
OURS = 'decode_head.'
TEACHER = 'teacher.module.decode_head.'
STEPS = 'teacher.steps'
VOID = 'void_embedding.weight'
_HEAD = 'sem_seg_head.'
_EMA = 'sem_seg_head_ema.'
_CLIP = 'backbone.clip_model.'

_TEXT_TOWER = (
    "CLIP's text tower: the config says where text embeddings come from"
)
# Beginning of a name -> why ours has no use for it.
_NO_USE = {
    'criterion.': 'a buffer of the loss, which the config describes',
    'pixel_mean': 'the config normalises: data_preprocessor',
    'pixel_std': 'the config normalises: data_preprocessor',
    'sam.': 'SAM: the refiner of the config loads it',
    f'{_CLIP}visual.attnpool.': 'pools what the four maps are made of',
    f'{_CLIP}visual.head.': 'projects what the four maps are made of',
    f'{_CLIP}visual.trunk.head.': 'projects what the four maps are made of',
}
_VOID_UNUSED = 'a linear classifier compares nothing with it'


@dataclass(frozen=True)
class Layout:
    """What the names of some weights tell.

    Attributes:
        kind (str): One of ``KINDS``.
        text (bool): The classifier compares with text; else it is linear.
        teacher (bool): There is a second head, the moving average.
        backbone (str): ``'clip'``, ``'resnet'``, ``'swin'``, ``'other'`` or
            ``''`` for none.
    """

    kind: str
    text: bool
    teacher: bool
    backbone: str

    @property
    def title(self):
        """The layout in words."""
        words = [TITLES[self.kind]]
        if self.kind != 'mmseg' or self.text:
            words.append(f'{"text" if self.text else "linear"} classifier')
        if self.teacher:
            words.append('with the moving average of the head')
        return ', '.join(words)

    def table(self):
        """Names in detectron2's layout -> ours.

        Returns:
            KeyTable: Of whole models.
        """
        table = HEAD.under(_HEAD, OURS) | HEAD.under(_EMA, TEACHER)
        backbones = dict(clip=CLIP, resnet=RESNET, swin=SWIN)
        if self.backbone in backbones:
            backbone = backbones[self.backbone]
            table = table | backbone.under('backbone.', 'backbone.')
        if self.text:
            table = table | KeyTable({VOID: f'{OURS}cls_embed.{VOID}'})
        return table

    def old_table(self):
        """Names that were given up since -> ours."""
        return OLD_HEAD.under(_HEAD, OURS) | OLD_HEAD.under(_EMA, TEACHER)

    def no_use(self, key):
        """Say why ours has no use for a tensor in detectron2's layout.

        Args:
            key (str): Its whole name.

        Returns:
            str | None: The reason; None if there is none.
        """
        if key == VOID and not self.text:
            return _VOID_UNUSED
        for beginning, reason in _NO_USE.items():
            if key.startswith(beginning):
                return reason
        if key.startswith(_CLIP) and not key.startswith(f'{_CLIP}visual.'):
            return _TEXT_TOWER
        return None


def detect(keys, wanted='auto', source='the file'):
    """Find out whose names the weights have.

    Args:
        keys (Iterable[str]): Names of all weights.
        wanted (str): ``'auto'``, or one of ``KINDS`` that the user says it
            is. Official CLOUDS with the text classifier and FC-CLIP have
            the same names; whichever is said is believed.
        source (str): Where they come from, for messages.

    Returns:
        Layout: What they are.

    Raises:
        UserError: They are of no known kind, or not what the user says.
    """
    keys = list(keys)

    def some(beginning):
        return any(key.startswith(beginning) for key in keys)

    if some(OURS):
        found, reasons = 'mmseg', f'names begin with {OURS!r}'
        text = f'{OURS}cls_embed.logit_scale' in keys
        teacher = some(TEACHER)
        backbone = _backbone(some, 'visual.', 'layer1.', 'stages.')
    elif some(_HEAD + 'predictor.query_') or some(
        _HEAD + 'predictor.static_query'
    ):
        text = some(f'{_HEAD}predictor.logit_scale')
        teacher = some(_EMA)
        backbone = _backbone(some, 'clip_model.', 'res2.', 'layers.')
        if not some(_CLIP):
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
            found = 'clouds' if wanted == 'clouds' else 'fcclip'
            reasons = f'{_CLIP!r} is there and the classifier compares text'
    else:
        raise UserError(_unknown(some, keys, source))
    if wanted not in ('auto', found):
        raise UserError(
            f'--from {wanted} contradicts {source}, which looks like '
            f'{TITLES[found]} (--from {found}): {reasons}. Leave --from out '
            'or give another file.'
        )
    return Layout(found, text, teacher, backbone)


def _backbone(some, clip, resnet, swin):
    for kind, beginning in (('clip', clip), ('resnet', resnet)):
        if some(f'backbone.{beginning}'):
            return kind
    if some(f'backbone.{swin}') and some('backbone.patch_embed.'):
        return 'swin'
    return 'other' if some('backbone.') else ''


def _unknown(some, keys, source):
    if some('visual.') or some('image_encoder.'):
        return (
            f'{source} is a foundation model, not a segmentor: CLIP towers '
            'and SAM are read as published, without conversion. Give a CLIP '
            'file as model.backbone.pretrained, a SAM file to the refiner.'
        )
    return (
        f'{source} is none of {", ".join(TITLES.values())}: its names begin '
        f'with {sorted(keys)[:3]}. Only heads of Mask2Former are converted.'
    )
