"""Prediction of files and folders into a folder of results."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from clouds_mmseg.generate.image_bank import shard_from_environment
from clouds_mmseg.predict.prediction import KINDS
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError

SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'),
    *('.ppm', '.pgm', '.avif'),
)


@dataclass
class Summary:
    """Outcome of :func:`predict_files`.

    Attributes:
        written: Number of images that were predicted.
        existing: Number of those whose results were there already.
        failed: Image -> why it could not be read.
    """

    written: int = 0
    existing: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def find_images(inputs: Iterable[str | Path]) -> list[tuple[Path, Path]]:
    """Find the images that files, folders and patterns name.

    Args:
        inputs: Files, folders, which are searched with their sub-folders for
            images, and patterns such as ``'street/*.jpg'``.

    Returns:
        Pairs of an image and the relative path of its results without suffix:
        below a folder, the path there; else the name of the file.

    Raises:
        UserError: An input does not exist or holds no image, or two images
            would have the same results.
    """
    found: dict[Path, Path] = {}
    for name in inputs:
        for image, relative in _images_of(str(name)):
            other = found.setdefault(relative, image)
            if other.resolve() != image.resolve():
                raise UserError(
                    f'{other} and {image} would both be written to '
                    f'{relative}.png; predict them into two folders'
                )
    return [(image, relative) for relative, image in found.items()]


def _images_of(name):
    path = Path(name).expanduser()
    if path.is_dir():
        images = sorted(
            p
            for p in path.rglob('*')
            if p.suffix.lower() in SUFFIXES and not p.name.startswith('.')
        )
        if not images:
            raise UserError(
                f'the folder {name} holds no image ({", ".join(SUFFIXES)})'
            )
        return [(p, p.relative_to(path).with_suffix('')) for p in images]
    if path.is_file():
        return [(path, Path(path.stem))]
    matches = [Path(match) for match in sorted(glob.glob(str(path)))]
    matches = [match for match in matches if match.is_file()]
    if not matches:
        raise UserError(f'{name} is no file, no folder, and matches no file')
    return [(match, Path(match.stem)) for match in matches]


def predict_files(
    segmenter: Segmenter,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    kinds: Sequence[str] = ('labels', 'overlay'),
    batch_size: int = 1,
) -> Summary:
    """Predict images and write the results.

    ``out/KIND/PATH.png`` are the results of an image. Images whose results
    exist are left out, so that the same call continues a stopped one. An
    image that cannot be read is listed in the summary and in
    ``out/failed.txt``; the others are predicted. Processes started by
    ``torchrun`` or ``srun`` share the images.

    Args:
        segmenter: The model.
        inputs: See :func:`find_images`.
        out: Output folder.
        kinds: See :meth:`Prediction.save`.
        batch_size: Images that are read and predicted together.

    Raises:
        UserError: An argument is wrong, or the folder cannot be written.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f'{kind!r} is no kind of result; there are {", ".join(KINDS)}'
            )
    if batch_size < 1:
        raise UserError(f'batch_size must be at least 1, got {batch_size}')
    root = Path(out).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'the output folder {out} cannot be made: {error.strerror}'
        ) from error
    if not os.access(root, os.W_OK):
        raise UserError(f'the output folder {out} cannot be written')
    shard = shard_from_environment()
    images = find_images(inputs)[shard.rank :: shard.world]
    summary = Summary()
    waiting = []
    for image, relative in images:
        targets = {k: root / k / f'{relative}{KINDS[k]}' for k in kinds}
        if all(path.is_file() for path in targets.values()):
            summary.existing += 1
        else:
            waiting.append((image, targets))
    bar = tqdm(total=len(waiting), desc='predict', unit='img', disable=None)
    with bar:
        for first in range(0, len(waiting), batch_size):
            part = waiting[first : first + batch_size]
            _predict_part(segmenter, part, kinds, summary)
            bar.update(len(part))
    if summary.failed:
        alone = shard.world == 1
        name = 'failed.txt' if alone else f'failed_{shard.rank}.txt'
        lines = (f'{path}: {why}' for path, why in summary.failed.items())
        (root / name).write_text('\n'.join(lines) + '\n')
    return summary


def _predict_part(segmenter, part, kinds, summary):
    """Predict a batch; image by image if one of them cannot be read."""
    try:
        found = segmenter(
            [image for image, _ in part],
            confidence='confidence' in kinds,
            batch_size=len(part),
        )
    except ImageFileError as error:
        if len(part) == 1:
            summary.failed[str(part[0][0])] = str(error)
            return
        for one in part:
            _predict_part(segmenter, [one], kinds, summary)
        return
    for prediction, (_, targets) in zip(found, part, strict=True):
        for kind, path in targets.items():
            prediction.save(path, kind)
        summary.written += 1


def summary_lines(summary: Summary, out: str | Path) -> Iterator[str]:
    """Describe what was done, as lines for a terminal."""
    text = f'{summary.written} images predicted'
    if summary.existing:
        text += f', {summary.existing} were there already'
    yield f'{text}: {out}'
    for path, why in list(summary.failed.items())[:10]:
        yield f'  not read: {path}: {why}'
    if len(summary.failed) > 10:
        yield f'  and {len(summary.failed) - 10} more, see failed.txt'
