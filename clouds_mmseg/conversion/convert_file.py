"""Conversion of a checkpoint file: read, detect, rename, check, write.

:func:`convert_file` runs the whole pipeline, and nothing is written unless
the check passes:

1. read: :mod:`clouds_mmseg.weights.io`;
2. detect the layout: :mod:`~clouds_mmseg.conversion.layouts`;
3. rename: :mod:`~clouds_mmseg.conversion.convert`;
4. check: :class:`~clouds_mmseg.conversion.convert.Conversion` against a spec
   of :mod:`~clouds_mmseg.conversion.target_spec`;
5. write: :mod:`clouds_mmseg.weights.io`.

:func:`report_lines` describes the outcome.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config

from clouds_mmseg.conversion.convert import (
    Conversion,
    complete,
    from_ours,
    optional_teacher_keys,
    to_ours,
)
from clouds_mmseg.conversion.diagnose import (
    classes_of_config,
    count_classes,
    other_classes,
)
from clouds_mmseg.conversion.layouts import (
    OURS,
    TITLES,
    TOWER_KINDS,
    Layout,
    detect,
)
from clouds_mmseg.conversion.plain_heads import EOMT, PMT, shapes_of_model
from clouds_mmseg.conversion.target_spec import (
    spec_from_config,
    spec_from_weights,
)
from clouds_mmseg.conversion.tower_checkpoints import (
    convert_tower_checkpoint,
)
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.frozen_backbone import META_KEY as BACKBONE_KEY
from clouds_mmseg.weights.frozen_backbone import (
    describe_left_out,
    restore_backbone,
)
from clouds_mmseg.weights.io import (
    check_suffix,
    count_tensors,
    read_content,
    read_state_dict,
    split_content,
    write_weights,
)
from clouds_mmseg.weights.load import CheckpointMismatchError

# Parts of a model in the report, longest prefix first.
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
# CLIP model of an official checkpoint -> suffix of its configs' names.
_CONFIG_SUFFIXES = {
    'convnext_large_d_320': '',
    'RN50': '_r50',
    'RN101': '_r101',
}


@dataclass
class Outcome:
    """A conversion that was written.

    Attributes:
        source: File that was read.
        target: File that was written.
        layout: Layout of the source.
        destination: ``'ours'`` or the project.
        conversion: Account of every tensor.
        model: Description of the model that the weights belong to.
        leftovers: Entry beside the weights -> number of tensors in it.
        sha256: Of the file that was written.
    """

    source: Path
    target: Path
    layout: Layout
    destination: str
    conversion: Conversion
    model: str
    leftovers: dict[str, int] = field(default_factory=dict)
    sha256: str = ''


def convert_file(
    source: str | Path,
    target: str | Path,
    *,
    kind: str = 'auto',
    destination: str = 'ours',
    config: str | None = None,
    fill_from: str | None = None,
    tower: str | None = None,
    trust: bool = False,
) -> Outcome:
    """Convert one checkpoint file into another.

    Args:
        source: A checkpoint of any of the projects, or ours.
        target: ``.pth`` or ``.safetensors``; for another project also
            ``.pkl``.
        kind: Kind of the source that the user states, see
            :func:`~clouds_mmseg.conversion.layouts.detect`.
        destination: ``'ours'``, or ``'clouds'``, ``'fcclip'``,
            ``'mask2former'`` for a source that is ours.
        config: Config of the model that the weights are for. By default the
            model is inferred from the weights.
        fill_from: File that provides the tensors which another project
            stores and ours does not.
        tower: File of the original tower, for a checkpoint that has none
            (Rein, adapter files of SoMA) or differences to it (EoMT).
        trust: Let a pickle run code.

    Raises:
        UserError: A file cannot be read or written, or the weights do not
            pass the check; nothing is written then.
    """
    source, target = check_paths(source, target, pickled=destination != 'ours')
    weights, meta, rest = read_with_meta(source, trust=trust)

    # Detect.
    layout = detect(weights, kind, str(source))

    # Rename and check.
    if destination == 'ours':
        result, model, cfg = _to_ours(
            weights, layout, str(source), config, meta, tower
        )
        if layout.kind == PMT and not layout.backbone and cfg is not None:
            meta[BACKBONE_KEY] = describe_left_out(cfg.model, str(source))
        if cfg is not None:
            meta['cfg'] = cfg.pretty_text
            meta['dataset_meta'] = classes_of_config(
                cfg.get('train_dataloader')
            ) or meta.get('dataset_meta')
    else:
        result, model = _from_ours(
            weights, layout, destination, str(source), config, fill_from, meta
        )

    # Write.
    if layout.kind != 'mmseg' and _is_cityscapes(result):
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


def check_paths(
    source: str | Path, target: str | Path, *, pickled: bool = False
) -> tuple[Path, Path]:
    """Return source and target of a file that is written anew.

    Args:
        source: May begin with ``~``.
        target: ``.pth`` or ``.safetensors``.
        pickled: ``.pkl`` may be written too.

    Raises:
        UserError: They are one file, or the target has another suffix.
    """
    source = Path(source).expanduser()
    target = check_suffix(target, pickled=pickled)
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f'{target} is the source; give another name.')
    return source, target


def read_with_meta(
    source: Path, *, trust: bool = False
) -> tuple[dict[str, torch.Tensor], dict, dict]:
    """Read weights, their metadata and what else a file has.

    Returns:
        The weights, with a frozen backbone that the file was written without;
        ``meta`` (empty where it is missing); and the rest.

    Raises:
        UserError: The file cannot be read.
    """
    weights, rest = split_content(read_content(source, trust=trust), source)
    meta = rest.pop('meta', None)
    meta = dict(meta) if isinstance(meta, dict) else {}
    weights = restore_backbone(weights, meta, str(source))
    meta.pop(BACKBONE_KEY, None)
    return weights, meta, rest


def _to_ours(
    weights: dict[str, torch.Tensor],
    layout: Layout,
    source: str,
    config: str | None,
    meta: dict,
    tower: str | None = None,
) -> tuple[Conversion, str, Config | None]:
    """Rename weights to our keys and check them against a model of ours."""
    if layout.kind in TOWER_KINDS:
        if BACKBONE_KEY in meta:
            raise UserError(
                f'{source} is ours already, written without its frozen '
                'tower: whatever reads checkpoints reads it as it is'
            )
        return convert_tower_checkpoint(
            weights, layout, source, config=config, tower=tower
        )
    original = None if tower is None else (tower, read_state_dict(tower))
    result = to_ours(weights, layout, source, tower=original)
    cfg = None
    without_tower = layout.kind == PMT and not layout.backbone
    if config is None and without_tower:
        raise UserError(
            f'{source} has no tower, as PMT publishes its decoder alone: name '
            'the config of its model with --config, which says where the '
            'weights of the tower come from'
        )
    if config is None and layout.kind in (PMT, EOMT):
        spec, model = shapes_of_model(result.weights, layout.kind)
    elif config is None:
        spec, model = spec_from_weights(
            result.weights,
            backbone=bool(layout.backbone),
            renamed=layout.kind != 'mmseg',
        )
    else:
        spec, model, cfg = spec_from_config(config, result.weights)
        if not any(key.startswith('teacher.') for key in spec):
            _drop_teacher(result)
    optional = {} if layout.teacher else optional_teacher_keys(spec)
    if without_tower:
        optional.update(
            (key, 'the frozen tower, built from its own weights')
            for key in spec
            if key.startswith('backbone.')
        )
    try:
        result.check(spec, source, model, optional)
    except CheckpointMismatchError as error:
        classes = cfg and other_classes(
            source, result.weights, meta, count_classes(spec), cfg
        )
        if classes:
            raise UserError(f'{classes}\n{error}') from None
        raise
    return result, model, cfg


def _drop_teacher(result):
    """Drop the teacher, which the model of the config does not have."""
    for old, new in list(result.renamed):
        if new.startswith('teacher.'):
            result.renamed.remove((old, new))
            result.unused[old] = 'the model of the config has no teacher'
    for key in [k for k in result.weights if k.startswith('teacher.')]:
        del result.weights[key]
        result.created.pop(key, None)


def _from_ours(
    weights: dict[str, torch.Tensor],
    layout: Layout,
    kind: str,
    source: str,
    config: str | None,
    fill_from: str | None,
    meta: dict,
) -> tuple[Conversion, str]:
    """Check weights of ours, rename them to a project's keys, check again."""
    if layout.kind != 'mmseg':
        raise UserError(
            f'--to {kind} converts checkpoints of ours, and {source} is '
            f'{TITLES[layout.kind]}; convert it to ours first (without --to).'
        )
    if config is None:
        spec, model = spec_from_weights(
            weights, backbone=bool(layout.backbone), renamed=True
        )
    else:
        spec, model, _ = spec_from_config(config, weights)
    optional = {} if layout.teacher else optional_teacher_keys(spec)
    Conversion(weights).check(spec, source, model, optional)
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
    """Tell whether a linear classifier has 19 classes and "no object"."""
    bias = result.weights.get(f'{OURS}cls_embed.bias')
    return bias is not None and len(bias) == len(CLASSES) + 1


def report_lines(outcome: Outcome, every: bool = False) -> list[str]:
    """Describe a conversion, as lines of a table under headings.

    Args:
        outcome: Of :func:`convert_file`.
        every: One line per tensor instead of one per part of the model.
    """
    result = outcome.conversion
    name = str if every else group_of
    lines = [f'{outcome.source}: {outcome.layout.title}']
    pairs = {}
    for old, new in result.renamed:
        pairs.setdefault((name(old), name(new)), []).append((old, new))
    rows = []
    for (old, new), members in pairs.items():
        if len(members) == 1:
            old, new = members[0]
        same = all(one == other for one, other in members)
        text = old if same else f'{old} -> {new}'
        rows.append((len(members), text))
    _table(lines, 'renamed', rows)
    _reasons(lines, 'dropped', result.unused, name)
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
    _reasons(lines, 'created', result.created, name)
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
        f'{filled} of {len(result.spec)} tensors of {what} '
        f'({outcome.model}) are filled.',
        f'{outcome.target}: {values / 1e6:.2f} M values, '
        f'{size / 2**20:.1f} MiB, sha256 {outcome.sha256}',
    ]
    return lines + _next_step(outcome)


def group_of(key: str) -> str:
    """Return the part of a model that a tensor is counted under.

    Args:
        key: Whole name.

    Returns:
        A prefix with ``*``, or the name itself.
    """
    for group in _GROUPS:
        if key.startswith(group + '.'):
            return f'{group}.*'
    first, dot, _ = key.partition('.')
    return f'{first}.*' if dot else first


def _next_step(outcome):
    """Name a config for a converted official checkpoint."""
    if outcome.layout.kind in TOWER_KINDS:
        return [_how_to_test(outcome)]
    clouds = outcome.layout.kind == 'clouds' and not outcome.layout.text
    clip_models = [
        name
        for name in _CONFIG_SUFFIXES
        if f'CLIPBackbone {name},' in outcome.model
    ]
    if not clouds or not clip_models or outcome.destination != 'ours':
        return []
    name = f'gta2cs{_CONFIG_SUFFIXES[clip_models[0]]}.py'
    if outcome.layout.teacher:
        return [
            f'It is for clouds_mmseg::clouds/{name} and its like. A test '
            'needs no moving average: for a test alone convert with --config '
            f'clouds_mmseg::warmup/{name}.'
        ]
    return [
        f'Test it: clouds test clouds_mmseg::warmup/{name} {outcome.target}'
    ]


def _how_to_test(outcome):
    """Name the command and the protocol of a checkpoint of Rein and others."""
    config = outcome.model.removeprefix('the model of ')
    protocol = 'rein' if outcome.layout.kind == 'rein' else 'soma'
    return (
        f'Test it: clouds test {config} {outcome.target} --protocol '
        f'{protocol} (the sizes that its numbers were published with, for '
        'crops of 512)'
    )


def _reasons(lines, title, reasons, name):
    """Add a table of tensors and reasons, grouped by part and reason."""
    groups = {}
    for key, reason in reasons.items():
        groups.setdefault((name(key), reason), []).append(key)
    rows = [
        (len(keys), f'{group if len(keys) > 1 else keys[0]}: {reason}')
        for (group, reason), keys in groups.items()
    ]
    _table(lines, title, rows)


def _table(lines, title, rows):
    """Add a heading with the total, and one line per (number, text)."""
    if rows:
        total = sum(number for number, _ in rows)
        lines.append(f'  {total:>6}  {title}')
        lines += [f'  {number:>6}    {text}' for number, text in rows]
