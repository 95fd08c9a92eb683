"""Renaming of state dicts between projects, and the check of the result.

The third and fourth step of a conversion (read -> detect -> rename -> check
-> write): :func:`to_ours` and :func:`from_ours` rename with the tables of
:mod:`~clouds_mmseg.conversion.layouts` and account for every tensor in a
:class:`Conversion`; :meth:`Conversion.check` compares keys and shapes with a
spec of :mod:`~clouds_mmseg.conversion.target_spec`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from clouds_mmseg.conversion.layouts import (
    OURS,
    STEPS,
    TEACHER,
    TITLES,
    VOID,
    Layout,
    is_patch_merging,
    mmseg_to_swin_order,
    swin_to_mmseg_order,
)
from clouds_mmseg.conversion.plain_heads import (
    EOMT,
    PMT,
    add_original,
    is_differences,
    rename,
)
from clouds_mmseg.conversion.target_spec import clip_shapes, find_tower
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError

_COUNTER = '.num_batches_tracked'
_COUNTER_ABSENT = 'counts batches; changes no output'
_OUR_VOID = f'cls_embed.{VOID}'
# Class weights of the official loss, and the weight of "no object" in it.
_LOSS = 'criterion.empty_weight'
_NO_OBJECT = 0.1
_TEACHER_ABSENT = 'self-training copies it from the head when it begins'


@dataclass
class Conversion:
    """Result of a renaming, in which every tensor is accounted for.

    Attributes:
        weights: New key -> value.
        renamed: Old and new key of each tensor that the source provided.
        unused: Old key -> why the tensor was dropped.
        created: New key -> how the tensor was made without the source.
        absent: New key that the spec has and the result lacks -> why it may
            be absent.
        spec: New key -> shape, of all that the result should have.
    """

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    created: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    spec: dict[str, tuple] = field(default_factory=dict)

    def add(self, old: str, new: str, value: torch.Tensor) -> None:
        """Add a tensor of the source under its new key.

        Raises:
            UserError: Two tensors would get the same key.
        """
        if new in self.weights:
            first = next((a for a, b in self.renamed if b == new), new)
            raise UserError(f'both {first} and {old} are called {new} there.')
        self.weights[new] = value
        self.renamed.append((old, new))

    def check(
        self,
        spec: Mapping[str, tuple],
        source: str,
        target: str,
        optional: Mapping[str, str] | None = None,
    ) -> None:
        """Compare the weights with the spec of what they are for.

        Args:
            spec: Key -> shape.
            source: Where the weights come from, for the message.
            target: What they are for, for the message.
            optional: Key that may be absent -> why.

        Raises:
            CheckpointMismatchError: Keys or shapes differ.
        """
        optional = optional or {}
        self.spec = {key: tuple(shape) for key, shape in spec.items()}
        found = {key: tuple(v.shape) for key, v in self.weights.items()}
        missing = {}
        for key, shape in self.spec.items():
            if key in found:
                continue
            if key in optional:
                self.absent[key] = optional[key]
            elif key.endswith(_COUNTER):
                self.absent[key] = _COUNTER_ABSENT
            else:
                missing[key] = shape
        unexpected = {k: s for k, s in found.items() if k not in self.spec}
        shape_mismatches = {
            key: (shape, self.spec[key])
            for key, shape in found.items()
            if key in self.spec and shape != self.spec[key]
        }
        if missing or unexpected or shape_mismatches:
            raise CheckpointMismatchError.listing(
                source,
                target,
                missing=missing,
                unexpected=unexpected,
                shape_mismatches=shape_mismatches,
            )


def optional_teacher_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return the keys of a teacher, which a checkpoint may lack.

    Args:
        keys: Of one of our models.

    Returns:
        Key -> why it may be absent.
    """
    return {key: _TEACHER_ABSENT for key in keys if key.startswith('teacher.')}


def to_ours(
    weights: Mapping[str, torch.Tensor],
    layout: Layout,
    source: str = 'the file',
    *,
    tower: tuple[str, Mapping[str, torch.Tensor]] | None = None,
) -> Conversion:
    """Rename weights to our keys.

    Args:
        weights: Keys of the layout -> values.
        layout: As :func:`~clouds_mmseg.conversion.layouts.detect` found it.
        source: Where the weights come from, for messages.
        tower: Of a checkpoint that holds differences: the file of the
            original tower, and its weights.

    Returns:
        Not yet checked against any model.

    Raises:
        UserError: The tower is needed and not given, or the other way round.
        CheckpointMismatchError: A tensor has no key in ours, and there is
            no known reason to drop it.
    """
    result = Conversion()
    if layout.kind in (PMT, EOMT):
        return _plain_to_ours(weights, source, tower)
    if tower is not None:
        raise UserError(
            f'--tower is for differences of EoMT, and {source} is '
            f'{TITLES[layout.kind]}: leave it out'
        )
    if layout.kind == 'mmseg':
        for key, value in weights.items():
            result.add(key, key, value)
        return result
    table, legacy_table = layout.table(), layout.legacy_table()
    unexpected = {}
    for key, value in weights.items():
        reason = layout.drop_reason(key)
        new = table(key) or legacy_table(key)
        # The table renames the whole visual tower, with the layers that are
        # dropped, so the reason to drop comes first.
        if reason is not None:
            result.unused[key] = reason
        elif new is None:
            unexpected[key] = tuple(value.shape)
        else:
            if is_patch_merging(new):
                value = swin_to_mmseg_order(value)
            result.add(key, new, value)
    if unexpected:
        raise CheckpointMismatchError.listing(
            source,
            f'the names of {TITLES[layout.kind]}',
            missing={},
            unexpected=unexpected,
            shape_mismatches={},
        )
    if layout.teacher:
        _init_teacher(result, layout)
    return result


def _plain_to_ours(weights, source, tower):
    """Rename a checkpoint of PMT or EoMT."""
    result = Conversion()
    result.weights, result.renamed, result.unused = rename(weights, source)
    differences = is_differences(weights, source)
    if differences and tower is None:
        raise UserError(
            f'{source} holds differences to the original weights of its '
            'tower, for the sake of their licence: give those with --tower '
            '(DINOv3 of the same size, from timm or transformers)'
        )
    if tower is not None:
        if not differences:
            raise UserError(
                f'{source} holds whole weights, not differences: leave '
                '--tower out'
            )
        add_original(result.weights, tower[1], tower[0])
    return result


def _init_teacher(result, layout):
    """Add what our teacher stores and the official moving average does not."""
    result.weights[STEPS] = torch.tensor(1)
    result.created[STEPS] = 'one update: the moving average has begun'
    void = f'{OURS}{_OUR_VOID}'
    if layout.text and void in result.weights:
        ours = f'{TEACHER}{_OUR_VOID}'
        result.weights[ours] = result.weights[void].clone()
        result.created[ours] = f'a copy: there both heads share {VOID}'


def from_ours(
    weights: Mapping[str, torch.Tensor], layout: Layout, kind: str
) -> Conversion:
    """Rename our weights to the keys of a project in detectron2's layout.

    Args:
        weights: Our keys -> values, complete.
        layout: As :func:`~clouds_mmseg.conversion.layouts.detect` found it;
            its kind is ``mmseg``.
        kind: Target project: ``'clouds'``, ``'fcclip'`` or
            ``'mask2former'``.

    Returns:
        Without the tensors that our checkpoints do not store; see
        :func:`complete`.

    Raises:
        UserError: The project has no such backbone or classifier.
        CheckpointMismatchError: A tensor has no key in that project.
    """
    _check_destination(layout, kind)
    result = Conversion()
    table = layout.table().inverse()
    unexpected = {}
    for key, value in weights.items():
        new = table(key)
        if key == STEPS:
            result.unused[key] = 'counts updates; not saved there'
        elif key.startswith(TEACHER) and kind != 'clouds':
            result.unused[key] = f'{TITLES[kind]} has no second head'
        elif key == f'{TEACHER}{_OUR_VOID}':
            result.unused[key] = f'there both heads share {VOID}'
        elif new is None:
            unexpected[key] = tuple(value.shape)
        else:
            if is_patch_merging(key):
                value = mmseg_to_swin_order(value)
            result.add(key, new, value)
    if unexpected:
        raise CheckpointMismatchError.listing(
            'The checkpoint',
            f'the names of {TITLES[kind]}',
            missing={},
            unexpected=unexpected,
            shape_mismatches={},
        )
    return result


def complete(
    result: Conversion,
    layout: Layout,
    kind: str,
    fill: Mapping[str, torch.Tensor] | None = None,
    classes: int | None = None,
) -> None:
    """Add what the other project's checkpoints store and ours do not; check.

    That is the rest of the CLIP model, which is frozen there, the class
    weights of the loss, and an embedding that linear classifiers do not use.

    Args:
        result: Of :func:`from_ours`; completed and checked in place.
        layout: Of our weights.
        kind: Target project.
        fill: Weights of a checkpoint of that project, or of a CLIP model,
            that provide the rest.
        classes: Number of classes, where the weights do not tell.

    Raises:
        CheckpointMismatchError: A tensor of ``fill`` has another shape.
    """
    spec = {new: tuple(result.weights[new].shape) for _, new in result.renamed}
    optional = {}
    if layout.backbone == 'clip':
        visual = 'backbone.clip_model.visual.'
        tower = find_tower(
            {
                key.removeprefix(visual): shape
                for key, shape in spec.items()
                if key.startswith(visual)
            }
        )
        rest = {
            f'backbone.clip_model.{key}': shape
            for key, shape in clip_shapes(tower).items()
        }
        for key in rest.keys() - spec.keys():
            optional[key] = f'a part of CLIP {tower} that ours does not keep'
        spec = {**rest, **spec}
        if VOID not in spec:
            size = rest['backbone.clip_model.text_projection'][1]
            spec[VOID] = (1, size)
            optional[VOID] = 'not used by the linear classifier'
    fill = _add_clip_prefix(fill or {})
    bias = result.weights.get('sem_seg_head.predictor.class_embed.bias')
    if bias is not None:
        classes = len(bias) - 1
    elif _LOSS in fill:
        classes = len(fill[_LOSS]) - 1
    if classes is not None:
        spec[_LOSS] = (classes + 1,)
        result.weights[_LOSS] = torch.ones(classes + 1)
        result.weights[_LOSS][-1] = _NO_OBJECT
        result.created[_LOSS] = f'ones, and {_NO_OBJECT} for "no object"'
    for key, value in fill.items():
        if key in spec and (key in optional or key == _LOSS):
            result.weights[key] = value
            result.created[key] = 'from the file given with --fill-from'
    result.check(spec, 'The checkpoint', TITLES[kind], optional)


def _add_clip_prefix(weights):
    """Give the weights of a bare CLIP model the other projects' prefix."""
    if 'text_projection' in weights:
        return {f'backbone.clip_model.{k}': v for k, v in weights.items()}
    return weights


def _check_destination(layout, kind):
    """Refuse a project that has no such backbone or classifier."""
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
