"""Publication of a trained checkpoint: weights and config in one file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from clouds_mmseg.conversion.diagnose import classes_of, classes_of_config
from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import (
    check_suffix,
    count_tensors,
    read_content,
    split_content,
    write_weights,
)

_TEACHER = 'teacher.'
# Quoted text that begins like a path of one machine.
_PATHS = re.compile(r"""['"](/[^'"\n]{2,})['"]""")


@dataclass
class Published:
    """What was published.

    Attributes:
        source (Path): The checkpoint.
        target (Path): What was written.
        sha256 (str): Its hash.
        tensors (int): How many weights it has.
        dropped (dict[str, int]): What was left out -> tensors in it.
        meta (dict): What is in it beside the weights.
        paths (list[str]): Paths of this machine that its config names.
    """

    source: Path
    target: Path
    sha256: str
    tensors: int
    dropped: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    paths: list = field(default_factory=list)


def publish(source, target, *, config=None, teacher=True, trust=False):
    """Write the weights of a checkpoint with its config and classes.

    Args:
        source (str | Path): A checkpoint of a training, or any weights.
        target (str | Path): ``.pth`` or ``.safetensors``.
        config (str, optional): A config to keep inside in place of the one
            that the checkpoint has.
        teacher (bool): Whether the moving average of self-training stays.
            A test does not need it, going on with self-training does.
        trust (bool): Let a pickle run code.

    Returns:
        Published: What was done.

    Raises:
        UserError: A file cannot be read or written.
    """
    source = Path(source).expanduser()
    target = check_suffix(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f'{target} is the source; give another name.')
    content = read_content(source, trust=trust)
    weights, rest = split_content(content, source)
    meta = rest.pop('meta', None)
    meta = dict(meta) if isinstance(meta, dict) else {}
    # Images and parameters, which only a resumed training needs.
    meta.pop('training', None)
    dropped = {key: count_tensors(value) for key, value in rest.items()}
    if not teacher:
        kept = {k: v for k, v in weights.items() if not k.startswith(_TEACHER)}
        dropped['teacher'] = len(weights) - len(kept)
        weights = kept
    if config is not None:
        _take_config(meta, config)
    meta['source'] = dict(file=source.name, sha256=sha256_of(source))
    sha256 = write_weights(target, weights, meta)
    paths = sorted(set(_PATHS.findall(str(meta.get('cfg', '')))))
    return Published(
        source, target, sha256, len(weights), dropped, meta, paths
    )


def _take_config(meta, path):
    if not Path(path).is_file():
        raise UserError(f'--config {path}: there is no such file')
    cfg = read_file(path)
    meta['cfg'] = cfg.pretty_text
    found = classes_of_config(cfg.get('train_dataloader'))
    if found:
        meta['dataset_meta'] = found


def published_lines(done):
    """Describe what was published.

    Args:
        done (Published): As :func:`publish` returned it.

    Returns:
        list[str]: For a terminal.
    """
    sizes = [f.stat().st_size / 2**20 for f in (done.source, done.target)]
    classes = classes_of(done.meta)
    lines = [
        f'{done.source} ({sizes[0]:.1f} MiB) -> {done.target} '
        f'({sizes[1]:.1f} MiB)',
        f'  weights      {done.tensors} tensors',
        '  config       '
        + (
            f'{len(str(done.meta["cfg"]).splitlines())} lines'
            if done.meta.get('cfg')
            else 'none; give one with --config'
        ),
        f'  classes      {", ".join(classes) if classes else "not known"}',
    ]
    for key in ('iter', 'seed'):
        if done.meta.get(key) is not None:
            lines.append(f'  {key:<12} {done.meta[key]}')
    for key, tensors in done.dropped.items():
        lines.append(f'  left out     {key} ({tensors} tensors)')
    if done.paths:
        lines.append(
            '  its config names paths of this machine: '
            + ', '.join(done.paths[:5])
            + (', ...' if len(done.paths) > 5 else '')
        )
    lines.append(f'  sha256       {done.sha256}')
    return lines
