"""Publication of a trained checkpoint: weights and config in one file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from clouds_mmseg.conversion.convert_file import check_paths, read_with_meta
from clouds_mmseg.conversion.diagnose import classes_of, classes_of_config
from clouds_mmseg.utils.config_file import find_config, read_file
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import count_tensors, write_weights

_TEACHER = 'teacher.'
# Quoted absolute paths, which other machines do not have.
_PATHS = re.compile(r"""['"](/[^'"\n]{2,})['"]""")


@dataclass
class Published:
    """Outcome of :func:`publish`.

    Attributes:
        source: The checkpoint.
        target: File that was written.
        sha256: Of that file.
        tensors: Number of weights in it.
        dropped: Entry that was left out -> number of tensors in it.
        meta: Metadata beside the weights.
        paths: Absolute paths that its config names.
    """

    source: Path
    target: Path
    sha256: str
    tensors: int
    dropped: dict[str, int] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)


def publish(
    source: str | Path,
    target: str | Path,
    *,
    config: str | None = None,
    teacher: bool = True,
    trust: bool = False,
) -> Published:
    """Write the weights of a checkpoint with its config and classes.

    Args:
        source: A checkpoint of a training, or any weights.
        target: ``.pth`` or ``.safetensors``.
        config: Config to store instead of the one in the checkpoint.
        teacher: Whether to keep the moving average of self-training, which
            further self-training needs and a test does not.
        trust: Let a pickle run code.

    Raises:
        UserError: A file cannot be read or written.
    """
    source, target = check_paths(source, target)
    weights, meta, rest = read_with_meta(source, trust=trust)
    # Training state that only a resumed run needs.
    meta.pop('training', None)
    dropped = {key: count_tensors(value) for key, value in rest.items()}
    if not teacher:
        kept = {k: v for k, v in weights.items() if not k.startswith(_TEACHER)}
        dropped['teacher'] = len(weights) - len(kept)
        weights = kept
    if config is not None:
        _store_config(meta, config)
    meta['source'] = dict(file=source.name, sha256=sha256_of(source))
    sha256 = write_weights(target, weights, meta)
    paths = sorted(set(_PATHS.findall(str(meta.get('cfg', '')))))
    return Published(
        source, target, sha256, len(weights), dropped, meta, paths
    )


def _store_config(meta, path):
    """Put the text of a config and its classes into the metadata."""
    cfg = read_file(find_config(path, '--config'))
    meta['cfg'] = cfg.pretty_text
    found = classes_of_config(cfg.get('train_dataloader'))
    if found:
        meta['dataset_meta'] = found


def published_lines(done: Published) -> list[str]:
    """Describe what was published, as lines for a terminal."""
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
