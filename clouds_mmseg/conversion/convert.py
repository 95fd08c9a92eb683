"""Renaming of weights between other projects and ours."""

from dataclasses import dataclass, field

import torch

from clouds_mmseg.conversion.layouts import (
    OURS,
    STEPS,
    TEACHER,
    TITLES,
    VOID,
    Layout,
    authors_order,
    is_merge,
    merge_order,
)
from clouds_mmseg.conversion.target_spec import clip_shapes, find_tower
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError

_COUNTER = '.num_batches_tracked'
_COUNTER_ABSENT = 'counts batches; changes no output'


@dataclass
class Conversion:
    """Weights under their new names, and what became of every tensor.

    Attributes:
        weights (dict[str, Tensor]): New name -> value.
        moved (list[tuple[str, str]]): Old and new name of what was taken
            from the source.
        unused (dict[str, str]): Old name -> why it was not taken.
        made (dict[str, str]): New name -> how it was made without the
            source.
        absent (dict[str, str]): New name that the result should have and
            has not -> why it may be absent.
        wanted (dict[str, tuple]): New name -> shape, of all that the result
            should have.
    """

    weights: dict = field(default_factory=dict)
    moved: list = field(default_factory=list)
    unused: dict = field(default_factory=dict)
    made: dict = field(default_factory=dict)
    absent: dict = field(default_factory=dict)
    wanted: dict = field(default_factory=dict)

    def take(self, old, new, value):
        """Note that a tensor of the source becomes one of the result.

        Raises:
            UserError: Another one became it already.
        """
        if new in self.weights:
            first = next((a for a, b in self.moved if b == new), new)
            raise UserError(f'both {first} and {old} are called {new} there.')
        self.weights[new] = value
        self.moved.append((old, new))

    def check(self, wanted, source, target, may_lack=()):
        """Compare with the names and shapes that the result should have.

        Args:
            wanted (dict[str, tuple]): Name -> shape.
            source (str): Where the weights come from, for the message.
            target (str): What they are for, for the message.
            may_lack (dict[str, str]): Name that may be absent -> why.

        Raises:
            CheckpointMismatchError: Names or shapes differ.
        """
        self.wanted = {key: tuple(shape) for key, shape in wanted.items()}
        found = {key: tuple(v.shape) for key, v in self.weights.items()}
        missing = {}
        for key, shape in self.wanted.items():
            if key in found:
                continue
            if key in may_lack:
                self.absent[key] = may_lack[key]
            elif key.endswith(_COUNTER):
                self.absent[key] = _COUNTER_ABSENT
            else:
                missing[key] = shape
        unexpected = {k: s for k, s in found.items() if k not in self.wanted}
        shape_mismatches = {
            key: (shape, self.wanted[key])
            for key, shape in found.items()
            if key in self.wanted and shape != self.wanted[key]
        }
        if missing or unexpected or shape_mismatches:
            raise CheckpointMismatchError.listing(
                source,
                target,
                missing=missing,
                unexpected=unexpected,
                shape_mismatches=shape_mismatches,
            )


_OUR_VOID = f'cls_embed.{VOID}'
# The share of "no object" in the official loss.
_NO_OBJECT = 0.1
_LOSS = 'criterion.empty_weight'
_TEACHER_ABSENT = 'self-training copies it from the head when it begins'


def to_ours(weights, layout: Layout, source='the file') -> Conversion:
    """Rename weights to ours.

    Args:
        weights (dict[str, Tensor]): In the layout.
        layout (Layout): As :func:`detect` found it.
        source (str): Where they come from, for messages.

    Returns:
        Conversion: Not yet compared with any model.

    Raises:
        CheckpointMismatchError: A tensor has no name in ours and there is
            no reason to leave it out.
    """
    result = Conversion()
    if layout.kind == 'mmseg':
        for key, value in weights.items():
            result.take(key, key, value)
        return result
    table, old_table = layout.table(), layout.old_table()
    strange = {}
    for key, value in weights.items():
        reason = layout.no_use(key)
        new = table(key) or old_table(key)
        # The table knows the visual tower as a whole, so reasons come first.
        if reason is not None:
            result.unused[key] = reason
        elif new is None:
            strange[key] = tuple(value.shape)
        else:
            if is_merge(new):
                value = merge_order(value)
            result.take(key, new, value)
    if strange:
        raise CheckpointMismatchError.listing(
            source,
            f'the names of {TITLES[layout.kind]}',
            missing={},
            unexpected=strange,
            shape_mismatches={},
        )
    if layout.teacher:
        _init_teacher(result, layout)
    return result


def _init_teacher(result, layout):
    """Complete the moving average of the head as ours keeps it."""
    result.weights[STEPS] = torch.tensor(1)
    result.made[STEPS] = 'one update: the moving average has begun'
    void = f'{OURS}{_OUR_VOID}'
    if layout.text and void in result.weights:
        ours = f'{TEACHER}{_OUR_VOID}'
        result.weights[ours] = result.weights[void].clone()
        result.made[ours] = f'a copy: there both heads share {VOID}'


def from_ours(weights, layout: Layout, kind) -> Conversion:
    """Rename our weights to those of a project in detectron2's layout.

    Args:
        weights (dict[str, Tensor]): Ours, complete.
        layout (Layout): As :func:`detect` found it; its kind is ``mmseg``.
        kind (str): ``'clouds'``, ``'fcclip'`` or ``'mask2former'``.

    Returns:
        Conversion: Without what ours does not have; see :func:`complete`.

    Raises:
        UserError: The project has no such backbone or classifier.
        CheckpointMismatchError: A tensor has no name there.
    """
    _check_destination(layout, kind)
    result = Conversion()
    table = layout.table().inverse()
    strange = {}
    for key, value in weights.items():
        new = table(key)
        if key == STEPS:
            result.unused[key] = 'counts updates; not saved there'
        elif key.startswith(TEACHER) and kind != 'clouds':
            result.unused[key] = f'{TITLES[kind]} has no second head'
        elif key == f'{TEACHER}{_OUR_VOID}':
            result.unused[key] = f'there both heads share {VOID}'
        elif new is None:
            strange[key] = tuple(value.shape)
        else:
            if is_merge(key):
                value = authors_order(value)
            result.take(key, new, value)
    if strange:
        raise CheckpointMismatchError.listing(
            'The checkpoint',
            f'the names of {TITLES[kind]}',
            missing={},
            unexpected=strange,
            shape_mismatches={},
        )
    return result


def complete(result, layout, kind, fill=None, classes=None):
    """Add what the other project's checkpoints have and ours do not.

    That is the rest of the CLIP model, which is frozen there, the weights
    of the loss, and an embedding that linear classifiers do not use.

    Args:
        result (Conversion): Of :func:`from_ours`; it is completed and
            checked in place.
        layout (Layout): Of our weights.
        kind (str): The project.
        fill (dict[str, Tensor], optional): Weights of a checkpoint of that
            project, or of a CLIP model, to take the rest from.
        classes (int, optional): Where the weights do not tell.

    Raises:
        CheckpointMismatchError: What is taken has another shape.
    """
    wanted = {new: tuple(result.weights[new].shape) for _, new in result.moved}
    may_lack = {}
    if layout.backbone == 'clip':
        visual = 'backbone.clip_model.visual.'
        tower = find_tower(
            {
                key.removeprefix(visual): shape
                for key, shape in wanted.items()
                if key.startswith(visual)
            }
        )
        rest = {
            f'backbone.clip_model.{key}': shape
            for key, shape in clip_shapes(tower).items()
        }
        for key in rest.keys() - wanted.keys():
            may_lack[key] = f'a part of CLIP {tower} that ours does not keep'
        wanted = {**rest, **wanted}
        if VOID not in wanted:
            size = rest['backbone.clip_model.text_projection'][1]
            wanted[VOID] = (1, size)
            may_lack[VOID] = 'not used by the linear classifier'
    fill = _as_theirs(fill or {})
    bias = result.weights.get('sem_seg_head.predictor.class_embed.bias')
    if bias is not None:
        classes = len(bias) - 1
    elif _LOSS in fill:
        classes = len(fill[_LOSS]) - 1
    if classes is not None:
        wanted[_LOSS] = (classes + 1,)
        result.weights[_LOSS] = torch.ones(classes + 1)
        result.weights[_LOSS][-1] = _NO_OBJECT
        result.made[_LOSS] = f'ones, and {_NO_OBJECT} for "no object"'
    for key, value in fill.items():
        if key in wanted and (key in may_lack or key == _LOSS):
            result.weights[key] = value
            result.made[key] = 'from the file given with --fill-from'
    result.check(wanted, 'The checkpoint', TITLES[kind], may_lack)


def _as_theirs(weights):
    """Put the weights of a CLIP model where the other projects have them."""
    if 'text_projection' in weights:
        return {f'backbone.clip_model.{k}': v for k, v in weights.items()}
    return weights


def _check_destination(layout, kind):
    backbones = dict(
        clouds=('clip', ''),
        fcclip=('clip', ''),
        mask2former=('resnet', 'swin', ''),
    )
    if layout.backbone not in backbones[kind]:
        has = 'CLIP' if kind != 'mask2former' else 'a ResNet or Swin'
        raise UserError(
            f'--to {kind}: {TITLES[kind]} has {has} as backbone, the '
            f'checkpoint has another one ({layout.backbone}).'
        )
    if kind == 'fcclip' and not layout.text:
        raise UserError(
            '--to fcclip: FC-CLIP compares with text, the checkpoint has a '
            'linear classifier; write it with --to clouds.'
        )
    if kind == 'mask2former' and layout.text:
        raise UserError(
            '--to mask2former: its classifier is linear, the checkpoint '
            'compares with text.'
        )


def teacher_may_lack(wanted):
    """Name what a model with a teacher may begin without.

    Args:
        wanted (Iterable[str]): Names of a model of ours.

    Returns:
        dict[str, str]: Name -> why it may be absent.
    """
    return {
        key: _TEACHER_ABSENT for key in wanted if key.startswith('teacher.')
    }
