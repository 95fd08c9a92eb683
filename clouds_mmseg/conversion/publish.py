"""Publication of a trained checkpoint: weights and config in one file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from clouds_mmseg.conversion.convert_file import check_paths, read_with_meta
from clouds_mmseg.conversion.diagnose import classes_of, classes_of_config
from clouds_mmseg.utils.config_file import (
    find_config,
    parse_config_text,
    read_file,
)
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.frozen_backbone import META_KEY, split_backbone
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
        size: Of the file, bytes.
        dropped: Entry that was left out -> number of tensors in it.
        meta: Metadata beside the weights.
        paths: Absolute paths that its config names.
    """

    source: Path
    target: Path
    sha256: str
    tensors: int
    size: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)


def publish(
    source: str | Path,
    target: str | Path,
    *,
    config: str | None = None,
    teacher: bool = True,
    backbone: bool = True,
    trust: bool = False,
) -> Published:
    """Write the weights of a checkpoint with its config and classes.

    Args:
        source: A checkpoint of a training, or any weights.
        target: ``.pth`` or ``.safetensors``.
        config: Config to store instead of the one in the checkpoint.
        teacher: Whether to keep the moving average of self-training, which
            further self-training needs and a test does not.
        backbone: Whether to keep a frozen backbone, which can be had from
            its pretrained file
            (:func:`~clouds_mmseg.weights.frozen_backbone.split_backbone`).
        trust: Let a pickle run code.

    Raises:
        UserError: A file cannot be read or written, or the backbone cannot be
            left out.
    """
    source, target = check_paths(source, target)
    weights, meta, dropped = read_for_publishing(
        source, config=config, teacher=teacher, backbone=backbone, trust=trust
    )
    return write_published(source, target, weights, meta, dropped)


def read_for_publishing(
    source: Path,
    *,
    config: str | None = None,
    teacher: bool = True,
    backbone: bool = True,
    trust: bool = False,
) -> tuple[dict[str, torch.Tensor], dict, dict[str, int]]:
    """Read what is published of a checkpoint; see :func:`publish`.

    Returns:
        Weights and metadata; and entry that is left out -> number of tensors.
    """
    weights, meta, rest = read_with_meta(source, trust=trust)
    # Training state that only a resumed run needs.
    meta.pop('training', None)
    if 'ema_state_dict' in rest:
        meta.setdefault('weights', 'moving average of the weights (EMAHook)')
    dropped = {key: count_tensors(value) for key, value in rest.items()}
    if not teacher:
        kept = {k: v for k, v in weights.items() if not k.startswith(_TEACHER)}
        dropped['teacher'] = len(weights) - len(kept)
        weights = kept
    if config is not None:
        _store_config(meta, config)
    if not backbone:
        cfg = parse_config_text(meta.get('cfg')) or {}
        weights, meta[META_KEY] = split_backbone(
            weights, cfg.get('model'), str(source)
        )
        dropped['frozen backbone'] = meta[META_KEY]['tensors']
    earlier = meta.get('source')
    meta['source'] = dict(file=source.name, sha256=sha256_of(source))
    if isinstance(earlier, dict) and 'kind' not in earlier:
        # A published file is published again: its weights were tested under
        # the hash of the checkpoint that it was made of.
        first = earlier.get('published_from') or earlier.get('sha256')
        meta['source']['published_from'] = first
    return weights, meta, dropped


def write_published(
    source: Path,
    target: Path,
    weights: dict[str, torch.Tensor],
    meta: dict,
    dropped: dict[str, int],
) -> Published:
    """Write what :func:`read_for_publishing` returned."""
    sha256 = write_weights(target, weights, meta)
    return Published(
        source,
        target,
        sha256,
        len(weights),
        target.stat().st_size,
        dropped,
        meta,
        sorted(set(_PATHS.findall(str(meta.get('cfg', ''))))),
    )


def _store_config(meta, path):
    """Put the text of a config and its classes into the metadata."""
    cfg = read_file(find_config(path, '--config'))
    meta['cfg'] = cfg.pretty_text
    found = classes_of_config(cfg.get('train_dataloader'))
    if found:
        meta['dataset_meta'] = found


def published_lines(
    done: Published, target: str | Path | None = None
) -> list[str]:
    """Describe what was published, as lines for a terminal.

    Args:
        done: The outcome.
        target: Where the file is now, if not where it was written.
    """
    sizes = [n / 2**20 for n in (done.source.stat().st_size, done.size)]
    classes = classes_of(done.meta)
    lines = [
        f'{done.source} ({sizes[0]:.1f} MiB) -> {target or done.target} '
        f'({sizes[1]:.1f} MiB)',
        f'  weights      {done.tensors} tensors'
        + (f', {done.meta["weights"]}' if done.meta.get('weights') else ''),
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
