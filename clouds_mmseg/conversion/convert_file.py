"""Conversion of one checkpoint file into another, with a report."""

from dataclasses import dataclass, field
from pathlib import Path

from clouds_mmseg.conversion.convert import (
    Conversion,
    complete,
    from_ours,
    teacher_may_lack,
    to_ours,
)
from clouds_mmseg.conversion.diagnose import (
    classes_of_config,
    count_classes,
    other_classes,
)
from clouds_mmseg.conversion.layouts import OURS, TITLES, Layout, detect
from clouds_mmseg.conversion.target_spec import deduce, of_config
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import (
    check_suffix,
    count_tensors,
    read_content,
    read_state_dict,
    split_content,
    write_weights,
)
from clouds_mmseg.weights.load import CheckpointMismatchError


@dataclass
class Outcome:
    """A conversion that was written, and what there is to say about it.

    Attributes:
        source (Path): What was read.
        target (Path): What was written.
        layout (Layout): What the source is.
        destination (str): ``'ours'`` or the project.
        conversion (Conversion): What became of every tensor.
        model (str): The model whose weights they are, in words.
        leftovers (dict[str, int]): What lay beside the weights -> how many
            tensors are in it.
        sha256 (str): Hash of what was written.
    """

    source: Path
    target: Path
    layout: Layout
    destination: str
    conversion: Conversion
    model: str
    leftovers: dict = field(default_factory=dict)
    sha256: str = ''


def convert_file(
    source,
    target,
    *,
    kind='auto',
    destination='ours',
    config=None,
    fill_from=None,
    trust=False,
):
    """Convert one checkpoint file into another.

    Args:
        source (str | Path): A checkpoint of any of the projects, or ours.
        target (str | Path): ``.pth`` or ``.safetensors``; for another
            project also ``.pkl``.
        kind (str): What the source is: see :func:`detect`.
        destination (str): ``'ours'``, or ``'clouds'``, ``'fcclip'``,
            ``'mask2former'`` for a source that is ours.
        config (str, optional): A config whose model the weights are for. By
            default the model is deduced from the weights.
        fill_from (str, optional): A file to take from what another project
            has and ours has not.
        trust (bool): Let a pickle run code.

    Returns:
        Outcome: What was done. Nothing is written if anything is wrong.

    Raises:
        UserError: A file cannot be read or written, or the weights are not
            what they should be.
    """
    source = Path(source).expanduser()
    target = check_suffix(target, pickled=destination != 'ours')
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f'{target} is the source; give another name.')
    content = read_content(source, trust=trust)
    weights, rest = split_content(content, source)
    layout = detect(weights, kind, str(source))
    meta = rest.pop('meta', None)
    meta = dict(meta) if isinstance(meta, dict) else {}
    if destination == 'ours':
        result, model, cfg = _to_ours(
            weights, layout, str(source), config, meta
        )
        if cfg is not None:
            meta['cfg'] = cfg.pretty_text
            meta['dataset_meta'] = classes_of_config(
                cfg.get('train_dataloader')
            ) or meta.get('dataset_meta')
    else:
        result, model = _from_ours(
            weights, layout, destination, str(source), config, fill_from, meta
        )
    if layout.kind == 'clouds' and _is_cityscapes(result):
        meta.setdefault(
            'dataset_meta', dict(classes=list(CLASSES), palette=PALETTE)
        )
    meta['source'] = dict(
        file=source.name, sha256=sha256_of(source), kind=layout.kind
    )
    sha256 = write_weights(
        target,
        result.weights,
        meta,
        wrapper='state_dict' if destination == 'ours' else 'model',
    )
    leftovers = {key: count_tensors(value) for key, value in rest.items()}
    return Outcome(
        source,
        target,
        layout,
        destination,
        result,
        model,
        leftovers,
        sha256,
    )


def _to_ours(weights, layout, source, config, meta):
    result = to_ours(weights, layout, source)
    cfg = None
    if config is None:
        wanted, model = deduce(
            result.weights,
            backbone=bool(layout.backbone),
            renamed=layout.kind != 'mmseg',
        )
    else:
        wanted, model, cfg = of_config(config, result.weights)
        if not any(key.startswith('teacher.') for key in wanted):
            _leave_teacher(result)
    may_lack = {} if layout.teacher else teacher_may_lack(wanted)
    try:
        result.check(wanted, source, model, may_lack)
    except CheckpointMismatchError as error:
        classes = cfg and other_classes(
            source, result.weights, meta, count_classes(wanted), cfg
        )
        if classes:
            raise UserError(f'{classes}\n{error}') from None
        raise
    return result, model, cfg


def _leave_teacher(result):
    """Leave out the teacher where the model of the config has none."""
    for old, new in list(result.moved):
        if new.startswith('teacher.'):
            result.moved.remove((old, new))
            result.unused[old] = 'the model of the config has no teacher'
    for key in [k for k in result.weights if k.startswith('teacher.')]:
        del result.weights[key]
        result.made.pop(key, None)


def _from_ours(weights, layout, kind, source, config, fill_from, meta):
    if layout.kind != 'mmseg':
        raise UserError(
            f'--to {kind} converts checkpoints of ours, and {source} is '
            f'{TITLES[layout.kind]}; convert it to ours first (without --to).'
        )
    if config is None:
        wanted, model = deduce(
            weights, backbone=bool(layout.backbone), renamed=True
        )
    else:
        wanted, model, _ = of_config(config, weights)
    may_lack = {} if layout.teacher else teacher_may_lack(wanted)
    Conversion(weights).check(wanted, source, model, may_lack)
    result = from_ours(weights, layout, kind)
    classes = (meta.get('dataset_meta') or {}).get('classes')
    complete(
        result,
        layout,
        kind,
        fill=read_state_dict(fill_from) if fill_from else None,
        classes=None if classes is None else len(classes),
    )
    return result, model


def _is_cityscapes(result):
    bias = result.weights.get(f'{OURS}cls_embed.bias')
    return bias is not None and len(bias) == len(CLASSES) + 1


# What tensors are counted under, longest first.
_GROUPS = (
    'backbone.clip_model.visual',
    'backbone.clip_model',
    'sem_seg_head.pixel_decoder',
    'sem_seg_head.predictor',
    'sem_seg_head_ema',
    'teacher.module.decode_head',
    'decode_head.pixel_decoder',
    'decode_head.transformer_decoder',
    'backbone.visual',
)
# Tower of an official checkpoint -> what the names of its configs end with.
_CONFIGS = {'convnext_large_d_320': '', 'RN50': '_r50', 'RN101': '_r101'}


def group_of(key):
    """Name the part of a model that a tensor is counted under.

    Args:
        key (str): Whole name.

    Returns:
        str: A prefix with ``*``, or the name itself.
    """
    for group in _GROUPS:
        if key.startswith(group + '.'):
            return f'{group}.*'
    first, dot, _ = key.partition('.')
    return f'{first}.*' if dot else first


def report_lines(outcome, every=False):
    """Describe a conversion.

    Args:
        outcome (Outcome): What was done.
        every (bool): A line for each tensor, not for each part.

    Returns:
        list[str]: Lines of a table, under headings.
    """
    result = outcome.conversion
    name = str if every else group_of
    lines = [f'{outcome.source}: {outcome.layout.title}']
    pairs = {}
    for old, new in result.moved:
        pairs.setdefault((name(old), name(new)), []).append((old, new))
    rows = []
    for (old, new), members in pairs.items():
        if len(members) == 1:
            old, new = members[0]
        same = all(one == other for one, other in members)
        text = old if same else f'{old} -> {new}'
        rows.append((len(members), text))
    _table(lines, 'taken', rows)
    _reasons(lines, 'not taken', result.unused, name)
    left = {
        key: 'training state' if tensors else 'no weights'
        for key, tensors in outcome.leftovers.items()
    }
    if left:
        _table(
            lines,
            'left out, beside the weights',
            [(outcome.leftovers[k], f'{k}: {why}') for k, why in left.items()],
        )
    _reasons(lines, 'made', result.made, name)
    _reasons(lines, 'absent', result.absent, name)
    filled = len(result.weights)
    values = sum(value.numel() for value in result.weights.values())
    size = outcome.target.stat().st_size
    what = (
        'the model'
        if outcome.destination == 'ours'
        else TITLES[outcome.destination]
    )
    lines += [
        f'{filled} of {len(result.wanted)} tensors of {what} '
        f'({outcome.model}) are filled.',
        f'{outcome.target}: {values / 1e6:.2f} M values, '
        f'{size / 2**20:.1f} MiB, sha256 {outcome.sha256}',
    ]
    return lines + _next_step(outcome)


def _next_step(outcome):
    """Name a config for what was an official checkpoint."""
    clouds = outcome.layout.kind == 'clouds' and not outcome.layout.text
    tower = next(
        (t for t in _CONFIGS if f'CLIPBackbone {t},' in outcome.model), None
    )
    if not clouds or tower is None or outcome.destination != 'ours':
        return []
    name = f'gta2cs{_CONFIGS[tower]}.py'
    if outcome.layout.teacher:
        return [
            f'It is for configs/clouds/{name} and its like. A test needs no '
            'moving average: for a test alone convert with --config '
            f'configs/warmup/{name}.'
        ]
    return [
        f'Test it: python tools/test.py configs/warmup/{name} {outcome.target}'
    ]


def _reasons(lines, title, reasons, name):
    """Add a table of what has a reason, grouped by both."""
    groups = {}
    for key, reason in reasons.items():
        groups.setdefault((name(key), reason), []).append(key)
    rows = [
        (len(keys), f'{group if len(keys) > 1 else keys[0]}: {reason}')
        for (group, reason), keys in groups.items()
    ]
    _table(lines, title, rows)


def _table(lines, title, rows):
    if rows:
        total = sum(number for number, _ in rows)
        lines.append(f'  {total:>6}  {title}')
        lines += [f'  {number:>6}    {text}' for number, text in rows]
