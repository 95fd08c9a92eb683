"""Which project's names the weights of a file have."""

from dataclasses import dataclass

from clouds_mmseg.checkpoints.backbone_keys import CLIP, RESNET, SWIN
from clouds_mmseg.checkpoints.detectron2_keys import HEAD, OLD_HEAD
from clouds_mmseg.checkpoints.key_table import KeyTable
from clouds_mmseg.utils.errors import UserError

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
