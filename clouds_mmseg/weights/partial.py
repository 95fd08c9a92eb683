"""Fine-tuning from a checkpoint that fits in part: named parts start anew."""

import difflib
from dataclasses import dataclass, field

import torch

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import has_prefix

# A layer (or buffer) with one row a class -> how many rows more it has.
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
    """What ``load_cfg`` of a config allows.

    Attributes:
        reinit (list[str]): Dotted names of parts that begin anew.
        allow_missing (list[str]): Parts that the weights may lack.
        allow_unexpected (list[str]): Parts that the model may lack.
        class_rows (str): ``'by_name'``: rows of classes with equal names
            are carried over where a classifier is named in ``reinit``, and
            other names at equal places are an error. ``'new'``: none are
            carried over. ``'by_position'``: names are not compared.
    """

    reinit: list = field(default_factory=list)
    allow_missing: list = field(default_factory=list)
    allow_unexpected: list = field(default_factory=list)
    class_rows: str = 'by_name'

    @classmethod
    def of(cls, load_cfg):
        """Read ``load_cfg``.

        Args:
            load_cfg (dict | None): Of a config.

        Returns:
            LoadOptions: With lists for single names.

        Raises:
            UserError: An option or a value that there is not.
        """
        given = dict(load_cfg or {})
        known = list(cls.__dataclass_fields__)
        for key, value in given.items():
            if key not in known:
                raise UserError(
                    f'load_cfg has no option {key!r}; it has '
                    f'{", ".join(known)}'
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


def load_options(load_cfg, use, model):
    """Read what may differ when weights are loaded for a purpose.

    Args:
        load_cfg (dict | None): Of a config.
        use (str): ``'train'``; ``'resume'``: nothing may differ, for what a
            run saved itself is complete; ``'test'``: nothing may begin anew,
            and only what the model itself calls optional may be missing.
            Scores of random weights would look like any others.
        model (nn.Module): May have ``optional_in_checkpoint``.

    Returns:
        LoadOptions: What holds for that purpose.

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


def class_layer(key):
    """Tell whether a weight has one row a class.

    Args:
        key (str): Whole name.

    Returns:
        tuple[str, int] | None: The name of its layer, and how many rows it
        has beside those of the classes ("no object"); None for any other.
    """
    name, _, last = key.rpartition('.')
    layer = name if last in ('weight', 'bias') else key
    extra = _CLASS_LAYERS.get(layer.rpartition('.')[2])
    return None if extra is None else (layer, extra)


def plain_name(name):
    """Spell a class as it is compared: case and separators do not count."""
    return str(name).lower().replace('_', ' ').replace('-', ' ').strip()


def check_class_names(own, weights, found, classes, options, source):
    """Refuse rows that would stand for other classes than they learned.

    Their numbers may agree by chance: every score would be wrong, and
    nothing would say so. A head that compares with text has no such rows.

    Args:
        own (dict[str, Tensor]): ``state_dict()`` of the model.
        weights (dict[str, Tensor]): Of the checkpoint.
        found (list[str] | None): Its classes; None if it does not say.
        classes (Sequence[str] | None): Those of the data set.
        options (LoadOptions): Parts that begin anew are not compared.
        source (str): Where the weights come from.

    Raises:
        UserError: Names or order differ; the places are in the message.
    """
    if not found or not classes or len(found) != len(classes):
        return
    pairs = [
        (index, one, other)
        for index, (one, other) in enumerate(zip(found, classes, strict=True))
        if plain_name(one) != plain_name(other)
    ]
    layers = sorted(
        {
            class_layer(key)[0]
            for key, value in own.items()
            if class_layer(key)
            and key in weights
            and not has_prefix(key, options.reinit)
            and len(value) == len(classes) + class_layer(key)[1]
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


def begin_anew(own, weights, options, *, found=None, classes=None):
    """Put the first values of named parts in place of what was learned.

    Where a classifier itself is named (not the head that it belongs to),
    the rows of classes that both sides know by name are kept. Where a part
    is named that a teacher is a copy of, the teacher begins anew, too:
    as a copy of the student.

    Args:
        own (dict[str, Tensor]): ``state_dict()`` of the model, initialised.
        weights (dict[str, Tensor]): Of the checkpoint.
        options (LoadOptions): What begins anew.
        found (list[str] | None): Classes of the checkpoint.
        classes (Sequence[str] | None): Those of the data set.

    Returns:
        tuple[dict[str, Tensor], list[str]]: Weights to be loaded, strict in
        all that is not named; and lines that say what was done.

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
    """Rows of classes that both sides know by name."""

    def __init__(self, found, classes, options):
        self.named = options.reinit
        self.how = options.class_rows
        self.found, self.classes = found, classes
        self.layers = set()
        there = {plain_name(n): i for i, n in enumerate(found or [])}
        self.pairs = [
            (i, there[plain_name(name)])
            for i, name in enumerate(classes or [])
            if plain_name(name) in there
        ]
        if self.how == 'by_position':
            count = min(len(found or []), len(classes or []))
            self.pairs = [(i, i) for i in range(count)]

    def fill(self, key, value, old):
        """Return first values, with the rows that are carried over."""
        layer = class_layer(key)
        # A row says nothing to queries that begin anew as well.
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
        """Say what became of the classes."""
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
    """Name the parts that are spelled like a name."""
    parts = {}
    for key in keys:
        pieces = key.split('.')
        for depth in range(1, len(pieces) + 1):
            parts['.'.join(pieces[:depth])] = None
    name = name.strip('.')
    near = [p for p in parts if p.endswith('.' + name)][:3]
    near += difflib.get_close_matches(name, parts, n=3, cutoff=0.6)
    if near:
        return f'near are: {", ".join(dict.fromkeys(near))}'
    return f'it has: {", ".join(p for p in parts if "." not in p)}'


def parts_that_differ(error, keys):
    """Name the largest parts of a model in which nothing fits.

    Args:
        error (CheckpointMismatchError): What differs.
        keys (Iterable[str]): All names of model and weights.

    Returns:
        list[str]: At most eight dotted names that cover all differences. A
        classifier of which the number of classes alone differs is named by
        itself, so that its rows can be carried over.
    """
    differing = {*error.missing, *error.unexpected, *error.shape_mismatches}
    # A counter fits whatever it counts.
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
            names += sorted(layer for layer, _ in layers)
    while len(names) > 8:
        deepest = max(names, key=lambda name: name.count('.'))
        up = deepest.rpartition('.')[0] or deepest
        if up == deepest:
            break
        names = [n for n in names if not has_prefix(n, [up])] + [up]
    return names
