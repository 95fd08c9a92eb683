"""Prediction of images and videos into a folder of results."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from clouds_mmseg.generate.image_bank import shard_from_environment
from clouds_mmseg.predict.download import (
    MOST_PIXELS,
    DownloadError,
    download,
)
from clouds_mmseg.predict.inputs import (
    VIDEO_SUFFIXES,
    Input,
    find_inputs,
)
from clouds_mmseg.predict.predict_video import predict_video, video_result
from clouds_mmseg.predict.prediction import KINDS
from clouds_mmseg.predict.predictor import Predictor
from clouds_mmseg.predict.smoothing import TemporalSmoothing
from clouds_mmseg.predict.video import (
    Camera,
    VideoFileError,
    VideoReader,
    load_av,
)
from clouds_mmseg.utils.atomic import atomic_path, clear_work_folder
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES
from clouds_mmseg.utils.images import ImageFileError


@dataclass
class Summary:
    """Outcome of :func:`predict_files`.

    Attributes:
        written: Number of images that were predicted.
        existing: Number of inputs whose results were there already.
        videos: Number of videos that were predicted.
        frames: Number of their frames.
        seconds: Time that they took.
        failed: Input -> why it could not be read.
    """

    written: int = 0
    existing: int = 0
    videos: int = 0
    frames: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Options:
    """What is written of each input, and how."""

    root: Path
    kinds: Sequence[str]
    batch_size: int
    smooth: float
    seconds: float | None
    label_ids: np.ndarray | None

    def targets(self, relative: Path) -> dict[str, Path]:
        """Return the files of an image."""
        return {
            kind: self.root / kind / f'{relative}{KINDS[kind]}'
            for kind in self.kinds
        }

    def missing(self, relative: Path) -> list[str]:
        """Return the kinds of results that a video does not have yet."""
        return [
            kind
            for kind in self.kinds
            if video_result(self.root, kind, relative) is None
        ]

    def sweep(self, one: Input) -> None:
        """Remove what a killed process has left beside finished folders."""
        if one.kind != 'image':
            for kind in self.kinds:
                path = self.root / kind / one.relative
                if path.is_dir():
                    clear_work_folder(path)

    def is_done(self, one: Input) -> bool:
        """Tell whether all results of an input are there."""
        if one.kind == 'camera':
            return False
        files = self.targets(one.relative).values()
        image = all(path.is_file() for path in files)
        video = not self.missing(one.relative)
        return dict(image=image, video=video).get(one.kind, image or video)


def predict_files(
    segmenter: Predictor,
    inputs: Sequence[str | Path | Input],
    out: str | Path,
    *,
    kinds: Sequence[str] = ('labels', 'overlay'),
    batch_size: int = 1,
    label_ids: np.ndarray | None = None,
    smooth: float = 0.0,
    seconds: float | None = None,
) -> Summary:
    """Predict images and videos and write the results.

    ``out/KIND/PATH.png`` are the results of an image, ``PATH.json`` for
    ``rle``. Of a video, ``color`` and ``overlay`` are videos with its sound,
    the other kinds are folders with a file for each frame. Inputs whose
    results exist are left out, so that the same call continues a stopped one;
    an unfinished result has no final name. An input that cannot be read is
    listed in the summary and in ``out/failed.txt``; the others are predicted.
    Processes started by ``torchrun`` or ``srun`` share the inputs.

    Args:
        segmenter: The model.
        inputs: See :func:`~clouds_mmseg.predict.inputs.find_inputs`.
        out: Output folder.
        kinds: See :meth:`Prediction.save`.
        batch_size: Images or frames that are read and predicted together.
        label_ids: Ids of the classes in ``labels`` and ``rle``, see
            :func:`~clouds_mmseg.predict.formats.read_label_ids`.
        smooth: Of videos and cameras, see :meth:`Segmenter.stream`.
        seconds: After which a camera ends; by default at Ctrl-C.

    Raises:
        UserError: An argument is wrong, the folder cannot be written, or no
            input could be read.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f'{kind!r} is no kind of result; there are {", ".join(KINDS)}'
            )
    if batch_size < 1:
        raise UserError(f'batch_size must be at least 1, got {batch_size}')
    if seconds is not None and seconds <= 0:
        raise UserError(f'seconds must be above 0, got {seconds}')
    TemporalSmoothing(smooth)  # Refuses a wrong weight.
    root = make_output_folder(out)
    found = find_inputs(inputs, out)
    if any(one.kind == 'video' for one in found):
        load_av()
    options = _Options(root, kinds, batch_size, smooth, seconds, label_ids)
    shard = shard_from_environment()
    summary = Summary()
    images: list[tuple[Path, dict[str, Path]]] = []
    others = []
    for one in found[shard.rank :: shard.world]:
        options.sweep(one)
        if options.is_done(one):
            summary.existing += 1
        elif one.kind == 'image':
            images.append((Path(one.name), options.targets(one.relative)))
        else:
            others.append(one)
    bar = tqdm(total=len(images), desc='predict', unit='img', disable=None)
    with bar:
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            _predict_images(segmenter, part, options, summary)
            bar.update(len(part))
    for one in others:
        try:
            _predict_other(segmenter, one, options, summary)
        except (VideoFileError, DownloadError, ImageFileError) as error:
            summary.failed[one.name] = str(error)
    alone = shard.world == 1
    _write_failed(
        root / ('failed.txt' if alone else f'failed_{shard.rank}.txt'),
        summary.failed,
    )
    # Not of several processes: a launcher would stop the others.
    done = summary.written or summary.existing or summary.videos
    if summary.failed and alone and not done:
        reasons = list(summary.failed.values())
        raise UserError(
            f'none of {len(reasons)} inputs could be read: {reasons[0]}'
            if len(reasons) > 1
            else reasons[0]
        )
    return summary


def make_output_folder(out: str | Path) -> Path:
    """Make the folder of the results.

    Raises:
        UserError: It cannot be made or written.
    """
    root = Path(out).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'the output folder {out} cannot be made: {error.strerror}'
        ) from error
    if not os.access(root, os.W_OK):
        raise UserError(f'the output folder {out} cannot be written')
    return root


def _write_failed(path, failed):
    """List what could not be read; a list of an earlier call is removed."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    lines = (f'{name}: {why}' for name, why in failed.items())
    with atomic_path(path) as temporary:
        temporary.write_text('\n'.join(lines) + '\n')


def _predict_images(segmenter, part, options, summary):
    """Predict a batch; image by image if one of them cannot be read."""
    try:
        found = segmenter(
            [image for image, _ in part],
            confidence='confidence' in options.kinds,
            batch_size=len(part),
        )
    except ImageFileError as error:
        if len(part) == 1:
            path = part[0][0]
            summary.failed[str(path)] = str(error) + _no_video(path)
            return
        for one in part:
            _predict_images(segmenter, [one], options, summary)
        return
    for prediction, (_, targets) in zip(found, part, strict=True):
        for kind, path in targets.items():
            prediction.save(path, kind, label_ids=options.label_ids)
        summary.written += 1


def _no_video(path):
    """Say of a file with an unusual name that it was not read as a video."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ''
    return (
        f'; a name that ends in {path.suffix or "no suffix"} is read as an '
        f'image, and as a video one that ends in {", ".join(VIDEO_SUFFIXES)}'
    )


def _predict_other(segmenter, one, options, summary):
    """Predict a video, an address or a camera."""
    if one.kind == 'camera':
        device = one.name.partition(':')[2]
        # Each recording is a new one.
        begun = time.strftime('%Y%m%d-%H%M%S')
        relative = one.relative.with_name(f'{one.relative.name}_{begun}')
        camera = Camera(device, options.seconds)
        _predict_film(segmenter, camera, relative, options, summary)
        return
    if one.kind == 'video':
        reader = VideoReader(one.name)
        _predict_film(segmenter, reader, one.relative, options, summary)
        return
    with tempfile.TemporaryDirectory() as folder:
        path, kind = download(one.name, Path(folder))
        if kind == 'image':
            (prediction,) = segmenter(
                [path], confidence='confidence' in options.kinds
            )
            for kind, target in options.targets(one.relative).items():
                prediction.save(target, kind, label_ids=options.label_ids)
            summary.written += 1
        else:
            reader = VideoReader(path, MOST_PIXELS)
            _predict_film(segmenter, reader, one.relative, options, summary)


def _predict_film(segmenter, source, relative, options, summary):
    """Predict what has frames, and close it."""
    begun = time.monotonic()
    bar = tqdm(
        total=source.frames, desc=relative.name, unit='frame', disable=None
    )
    try:
        with bar:
            frames = predict_video(
                segmenter,
                source,
                options.root,
                relative,
                kinds=options.missing(relative),
                batch_size=options.batch_size,
                smooth=options.smooth,
                label_ids=options.label_ids,
                on_frame=bar.update,
            )
    finally:
        source.close()
    summary.videos += 1
    summary.frames += frames
    summary.seconds += time.monotonic() - begun


def summary_lines(summary: Summary, out: str | Path) -> Iterator[str]:
    """Describe what was done, as lines for a terminal."""
    parts = []
    if summary.written or not summary.videos:
        parts.append(f'{_count(summary.written, "image")} predicted')
    if summary.videos:
        rate = summary.frames / max(summary.seconds, 1e-9)
        parts.append(
            f'{_count(summary.videos, "video")} predicted '
            f'({_count(summary.frames, "frame")}, {rate:.1f} a second)'
        )
    if summary.existing:
        parts.append(f'{summary.existing} were there already')
    yield f'{", ".join(parts)}: {out}'
    for name, why in list(summary.failed.items())[:10]:
        yield f'  not read: {name}: {why}'
    if len(summary.failed) > 10:
        yield f'  and {len(summary.failed) - 10} more, see failed.txt'


def _count(number, noun):
    return f'{number} {noun}{"" if number == 1 else "s"}'
