"""Fine-tuning from a checkpoint that fits in part.

Parts named by ``load_cfg.reinit`` keep their initial values; everything else
has to match.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import closest_names, near_names
from clouds_mmseg.weights.load import CheckpointMismatchError, has_prefix

# Layer or buffer with one row per class -> number of its further rows.
_CLASS_LAYERS = {
    'cls_embed': 1,
    'conv_seg': 0,
    'empty_weight': 1,
    'class_weight': 0,
}
_CLASS_ROWS = ('by_name', 'by_position', 'new')
_TEACHER = 'teacher'
_SHOWN = 30


@dataclass
class LoadOptions:
    """Options of ``load_cfg`` in a config.

    Attributes:
        reinit: Dotted names of parts that are reinitialised.
        allow_missing: Parts that the weights may lack.
        allow_unexpected: Parts that the model may lack.
        class_rows: ``'by_name'``: rows of classes with equal names are
            copied where a classifier is named in ``reinit``, and different
            names at the same index are an error. ``'new'``: no rows are
            copied. ``'by_position'``: names are not compared.
    """

    reinit: list[str] = field(default_factory=list)
    allow_missing: list[str] = field(default_factory=list)
    allow_unexpected: list[str] = field(default_factory=list)
    class_rows: str = 'by_name'

    @classmethod
    def of(cls, load_cfg: Mapping | None) -> 'LoadOptions':
        """Parse ``load_cfg``; a single name becomes a list.

        Raises:
            UserError: An unknown option or value.
        """
        given = dict(load_cfg or {})
        known = list(cls.__dataclass_fields__)
        for key, value in given.items():
            if key not in known:
                raise UserError(
                    f'load_cfg has no option {key!r}'
                    + near_names([key], known)
                )
            if key == 'class_rows':
                continue
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, (list, tuple)) or not all(
                isinstance(name, str) for name in names
            ):
                raise UserError(
                    f'load_cfg.{key} must be a list of names of parts of the '
                    f'model, got {value!r}; for example '
                    f'load_cfg.{key}="[decode_head.cls_embed]"'
                )
            given[key] = list(names)
        options = cls(**given)
        if options.class_rows not in _CLASS_ROWS:
            raise UserError(
                f'load_cfg.class_rows must be one of {", ".join(_CLASS_ROWS)}'
                f', got {options.class_rows!r}'
            )
        return options

    def fills(self, part: str) -> bool:
        """Return whether a checkpoint provides all weights of a part.

        Args:
            part: Dotted name, such as ``'backbone'``.

        Returns:
            False if the checkpoint may lack any of it, or some of it is
            reinitialised.
        """
        return not any(
            has_prefix(part, [name]) or has_prefix(name, [part])
            for name in [*self.allow_missing, *self.reinit]
        )


def load_options(
    load_cfg: Mapping | None, use: str, model: nn.Module
) -> LoadOptions:
    """Restrict ``load_cfg`` to what a use of the weights allows.

    Args:
        load_cfg: Of a config.
        use: ``'train'``; ``'resume'``: nothing may differ, because a run
            saves a complete checkpoint; ``'test'``: nothing is
            reinitialised, and only what the model declares optional may be
            missing, because scores of random weights would look like any
            others.
        model: May have ``optional_in_checkpoint``.

    Raises:
        UserError: See :meth:`LoadOptions.of`.
    """
    options = LoadOptions.of(load_cfg)
    if use == 'resume':
        return LoadOptions(class_rows=options.class_rows)
    if use == 'test':
        optional = getattr(model, 'optional_in_checkpoint', ())
        options.reinit = []
        options.allow_missing = [
            name
            for name in options.allow_missing
            if has_prefix(name.rstrip('.'), [p.rstrip('.') for p in optional])
        ]
    return options


def class_layer(key: str) -> tuple[str, int] | None:
    """Return the layer of a weight that has one row per class.

    Args:
        key: Whole name.

    Returns:
        The name of the layer, and the number of rows beside those of the
        classes ("no object"); None for any other weight.
    """
    name, _, last = key.rpartition('.')
    layer = name if last in ('weight', 'bias') else key
    extra = _CLASS_LAYERS.get(layer.rpartition('.')[2])
    return None if extra is None else (layer, extra)


def normalised_name(name: str) -> str:
    """Normalise a class name for comparison: case and separators."""
    return str(name).lower().replace('_', ' ').replace('-', ' ').strip()


def check_class_names(
    own: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    found: Sequence[str] | None,
    classes: Sequence[str] | None,
    options: LoadOptions,
    source: str,
) -> None:
    """Refuse classifier rows that were trained for other classes.

    The numbers of classes may agree by chance: every score would be wrong
    without an error. A classifier on text embeddings has no such rows.

    Args:
        own: ``state_dict()`` of the model.
        weights: Of the checkpoint.
        found: Classes of the checkpoint; None if it does not tell.
        classes: Classes of the dataset.
        options: Reinitialised parts are not compared.
        source: Where the weights come from.

    Raises:
        UserError: Names or order differ; the message lists the indices.
    """
    if not found or not classes or len(found) != len(classes):
        return
    pairs = [
        (index, one, other)
        for index, (one, other) in enumerate(zip(found, classes, strict=True))
        if normalised_name(one) != normalised_name(other)
    ]
    layers = sorted(
        {
            layer[0]
            for key, value in own.items()
            if (layer := class_layer(key))
            and key in weights
            and not has_prefix(key, options.reinit)
            and len(value) == len(classes) + layer[1]
        }
    )
    if not pairs or not layers or options.class_rows == 'by_position':
        return
    lines = [
        f'  {index}: {one} in the checkpoint, {other} in the data'
        for index, one, other in pairs[:_SHOWN]
    ]
    if len(pairs) > _SHOWN:
        lines.append(f'  and {len(pairs) - _SHOWN} more')
    raise UserError(
        f'the checkpoint {source} was trained for {len(found)} classes with '
        f'other names or in another order ({", ".join(layers)}):\n'
        + '\n'.join(lines)
        + '\nIf they are the same under other names: --cfg-options '
        'load_cfg.class_rows=by_position. To train for the new ones: '
        f'--cfg-options load_cfg.reinit="[{",".join(layers)}]", which keeps '
        'the rows of equal names. To test, use data labelled with its classes'
    )


def reinitialise_parts(
    own: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    options: LoadOptions,
    *,
    found: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Replace the weights of named parts by the model's initial values.

    Where a classifier itself is named (not the head that it belongs to),
    the rows of classes that both sides have by name are kept. Where a named
    part has a copy in a teacher, the teacher is reset as well: self-training
    copies the student again.

    Args:
        own: ``state_dict()`` of the model, initialised.
        weights: Of the checkpoint.
        options: Names of the parts.
        found: Classes of the checkpoint.
        classes: Classes of the dataset.

    Returns:
        Weights to load, unchanged in all that is not named; and log lines.

    Raises:
        UserError: A name that is in neither, or nothing would be loaded.
    """
    names = list(options.reinit)
    if not names:
        return dict(weights), []
    keys = {**own, **weights}
    for name in names:
        if not any(has_prefix(key, [name]) for key in keys):
            raise UserError(
                f'load_cfg.reinit names {name!r}, and neither model nor '
                f'checkpoint has such a part; {_near(name, keys)}'
            )
    lines = []
    copied = any(
        f'{_TEACHER}.module.{key}' in keys
        for key in keys
        if has_prefix(key, names)
    )
    if copied:
        names.append(_TEACHER)
        if any(has_prefix(key, [_TEACHER]) for key in own):
            lines.append(
                'the teacher begins anew: as a copy of the student, when '
                'self-training begins'
            )
    if all(has_prefix(key, names) for key in own):
        raise UserError(
            f'load_cfg.reinit={names} is the whole model: nothing would be '
            'loaded; name less, or leave load_from out'
        )
    result = {k: v for k, v in weights.items() if not has_prefix(k, names)}
    kept = len(result)
    rows = _Rows(found, classes, options)
    for key, value in own.items():
        if has_prefix(key, names):
            result[key] = rows.fill(key, value, weights.get(key))
    lines[:0] = [
        f'{kept} tensors are loaded, {len(result) - kept} begin anew: '
        + ', '.join(names),
        *rows.lines(),
    ]
    return result, lines


class _Rows:
    """Copying of classifier rows between classes of equal names."""

    def __init__(self, found, classes, options):
        self.named = options.reinit
        self.how = options.class_rows
        self.found, self.classes = found, classes
        self.layers = set()
        indices = {normalised_name(n): i for i, n in enumerate(found or [])}
        self.pairs = [
            (i, indices[normalised_name(name)])
            for i, name in enumerate(classes or [])
            if normalised_name(name) in indices
        ]
        if self.how == 'by_position':
            count = min(len(found or []), len(classes or []))
            self.pairs = [(i, i) for i in range(count)]

    def fill(self, key, value, old):
        """Return initial values, with the rows that are carried over."""
        layer = class_layer(key)
        # Learned rows are meaningless to reinitialised queries.
        if layer is None or not {layer[0], key} & set(self.named):
            return value
        self.layers.add(layer[0])
        if (
            self.how == 'new'
            or old is None
            or not self.found
            or not self.classes
            or old.shape[1:] != value.shape[1:]
            or len(old) != len(self.found) + layer[1]
            or len(value) != len(self.classes) + layer[1]
        ):
            return value
        value = value.clone()
        old = old.to(value)
        pairs = list(self.pairs)
        if layer[1]:
            pairs.append((-1, -1))
        ours, theirs = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T
        value[ours] = old[theirs]
        return value

    def lines(self):
        """Describe which classes were carried over."""
        if not self.layers:
            return []
        where = ', '.join(sorted(self.layers))
        if self.how == 'new':
            return [f'{where}: all classes begin anew, as class_rows=new says']
        if not self.found or not self.classes:
            side = 'data set' if self.found else 'checkpoint'
            return [
                f'{where}: all classes begin anew: the {side} does not name '
                'its classes'
            ]
        ours = [i for i, _ in self.pairs]
        theirs = [i for _, i in self.pairs]
        groups = {
            'carried over': [self.classes[i] for i in ours],
            'new': [c for i, c in enumerate(self.classes) if i not in ours],
            'left behind': [
                c for i, c in enumerate(self.found) if i not in theirs
            ],
        }
        return [f'classes of {where}:'] + [
            f'  {title} ({len(names)}): {", ".join(names) or "none"}'
            for title, names in groups.items()
        ]


def _near(name, keys):
    """Suggest parts with similar names."""
    parts = {}
    for key in keys:
        pieces = key.split('.')
        for depth in range(1, len(pieces) + 1):
            parts['.'.join(pieces[:depth])] = None
    name = name.strip('.')
    near = [p for p in parts if p.endswith('.' + name)][:3]
    near += closest_names(name, parts, most=3)
    if near:
        return f'near are: {", ".join(dict.fromkeys(near))}'
    return f'it has: {", ".join(p for p in parts if "." not in p)}'


def parts_that_differ(
    error: CheckpointMismatchError, keys: Iterable[str]
) -> list[str]:
    """Find the largest parts of a model in which no key matches.

    Args:
        error: The differences.
        keys: All keys of model and weights.

    Returns:
        At most eight dotted names that cover all differences. A classifier
        in which only the number of classes differs is named by itself, so
        that its rows can be carried over.
    """
    differing = {*error.missing, *error.unexpected, *error.shape_mismatches}
    # A batch norm counter matches in any case, so it is no evidence.
    keys = {*keys, *differing}
    fitting = {
        key
        for key in keys - differing
        if not key.endswith('.num_batches_tracked')
    }
    parents = set()
    for key in fitting:
        while key := key.rpartition('.')[0]:
            parents.add(key)
    groups = {}
    for key in sorted(differing):
        part = key
        while (up := part.rpartition('.')[0]) and up not in parents:
            part = up
        groups.setdefault(part, set()).add(key)
    names = []
    for part, members in groups.items():
        layers = {class_layer(key) for key in members}
        if None in layers:
            names.append(part)
        else:
            names += sorted(layer[0] for layer in layers if layer)
    while len(names) > 8:
        deepest = max(names, key=lambda name: name.count('.'))
        up = deepest.rpartition('.')[0] or deepest
        if up == deepest:
            break
        names = [n for n in names if not has_prefix(n, [up])] + [up]
    return names
