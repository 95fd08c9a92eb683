"""Convert one checkpoint file into another."""

from dataclasses import dataclass, field
from pathlib import Path

from clouds_mmseg.checkpoints.conversion import Conversion
from clouds_mmseg.checkpoints.convert import (
    complete,
    from_ours,
    teacher_may_lack,
    to_ours,
)
from clouds_mmseg.checkpoints.explain import (
    classes_of_config,
    count_classes,
    other_classes,
)
from clouds_mmseg.checkpoints.files import (
    count_tensors,
    read_content,
    read_state_dict,
    split_content,
)
from clouds_mmseg.checkpoints.layouts import OURS, TITLES, Layout, detect
from clouds_mmseg.checkpoints.strict import CheckpointMismatchError
from clouds_mmseg.checkpoints.wanted import deduce, of_config
from clouds_mmseg.checkpoints.writing import check_suffix, write_weights
from clouds_mmseg.utils.bank_manifest import sha256_of
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import UserError


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
