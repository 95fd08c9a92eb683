"""Prediction of images and videos into a folder of results."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from clouds_mmseg.utils.atomic import atomic_path, clear_work_folder, leftovers
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES
from clouds_mmseg.utils.images import ImageFileError
from clouds_mmseg.utils.remote import is_address, list_below, remove, upload
from clouds_mmseg.utils.shared_work import (
    LEASE_SECONDS,
    ChunksLost,
    Share,
    SharedWork,
    split,
)


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
        share: What this process did of work that was shared.
    """

    written: int = 0
    existing: int = 0
    videos: int = 0
    frames: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    share: Share | None = None


@dataclass(frozen=True)
class _Options:
    """What is written of each input, and how."""

    root: Path
    kinds: Sequence[str]
    batch_size: int
    smooth: float
    seconds: float | None
    label_ids: np.ndarray | None
    address: str | None = None
    uploaded: frozenset[str] = frozenset()

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
        image = all(path.is_file() or self._name(path) in self.uploaded
                    for path in files)  # fmt: skip
        video = not self.missing(one.relative)
        return dict(image=image, video=video).get(one.kind, image or video)

    def _name(self, path):
        return path.relative_to(self.root).as_posix()

    def write_failed(self, name: str, failed: dict[str, str]) -> None:
        """List what could not be read; a list of before is removed."""
        if failed:
            lines = (f'{one}: {why}' for one, why in failed.items())
            with atomic_path(self.root / name) as temporary:
                temporary.write_text('\n'.join(lines) + '\n')
            self.flush()
        elif self.address is not None and name in self.uploaded:
            remove(self.address, [name])
        else:
            (self.root / name).unlink(missing_ok=True)

    def listed(self) -> '_Options':
        """Return these options with what is in the store by now."""
        if self.address is None:
            return self
        return replace(self, uploaded=frozenset(list_below(self.address)))

    def flush(self) -> None:
        """Move what was written to the store, if that is where it goes."""
        if self.address is None:
            return
        for path in sorted(self.root.rglob('*')):
            if path.is_file():
                upload(path, f'{self.address}/{self._name(path)}')
                path.unlink()


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
    shared: Mapping[str, Any] | None = None,
    lease: float = LEASE_SECONDS,
) -> Summary:
    """Predict images and videos and write the results.

    ``out/KIND/PATH.png`` are the results of an image, ``PATH.json`` for
    ``rle``. Of a video, ``color`` and ``overlay`` are videos with its sound,
    the other kinds are folders with a file for each frame. Inputs whose
    results exist are left out, so that the same call continues a stopped one;
    an unfinished result has no final name. An input that cannot be read is
    listed in the summary and in ``out/failed.txt``; the others are predicted.
    Processes started by ``torchrun`` or ``srun`` share the inputs; with
    ``shared`` any number of processes on any machines do.

    Args:
        segmenter: The model.
        inputs: See :func:`~clouds_mmseg.predict.inputs.find_inputs`.
        out: Output folder, or an address such as ``s3://bucket/folder``.
        kinds: See :meth:`Prediction.save`.
        batch_size: Images or frames that are read and predicted together.
        label_ids: Ids of the classes in ``labels`` and ``rle``, see
            :func:`~clouds_mmseg.predict.formats.read_label_ids`.
        smooth: Of videos and cameras, see :meth:`Segmenter.stream`.
        seconds: After which a camera ends; by default at Ctrl-C.
        shared: What tells the model from others, JSON values. All processes
            that are started with the same arguments take parts of the work
            until it is done.
        lease: See :class:`~clouds_mmseg.utils.shared_work.SharedWork`.

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
    found = find_inputs(inputs, out)
    if any(one.kind == 'video' for one in found):
        load_av()
    set_up = partial(
        _Options, kinds=kinds, batch_size=batch_size, smooth=smooth,
        seconds=seconds, label_ids=label_ids,
    )  # fmt: skip
    if is_address(out):
        address = str(out).rstrip('/')
        there = frozenset(list_below(address))
        with tempfile.TemporaryDirectory() as folder:
            options = set_up(
                root=Path(folder), address=address, uploaded=there
            )
            return _predict(segmenter, found, options, shared, lease)
    options = set_up(root=make_output_folder(out))
    return _predict(segmenter, found, options, shared, lease)


def _predict(segmenter, found, options, shared, lease):
    if shared is None:
        return _predict_share(segmenter, found, options)
    return _predict_shared(segmenter, found, options, dict(shared), lease)


def _predict_share(segmenter, found, options):
    """Predict the inputs of one of several processes with fixed shares."""
    batch_size = options.batch_size
    shard = shard_from_environment()
    summary = Summary()
    own = found[shard.rank :: shard.world]
    for one in own:
        options.sweep(one)
    todo = [one for one in own if not options.is_done(one)]
    summary.existing = len(own) - len(todo)
    images, others = _by_kind(todo)
    bar = tqdm(total=len(images), desc='predict', unit='img', disable=None)
    with bar:
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            _predict_images(segmenter, part, options, summary)
            options.flush()
            bar.update(len(part))
    for one in others:
        _predict_other(segmenter, one, options, summary)
        options.flush()
    alone = shard.world == 1
    name = 'failed.txt' if alone else f'failed_{shard.rank}.txt'
    options.write_failed(name, summary.failed)
    # Not of several processes: a launcher would stop the others.
    if alone:
        _refuse_nothing(summary)
    return summary


def _by_kind(inputs):
    """Return the images, which are predicted in batches, and the others."""
    return (
        [one for one in inputs if one.kind == 'image'],
        [one for one in inputs if one.kind != 'image'],
    )


def _refuse_nothing(summary):
    """Raise an error if no input could be read."""
    done = summary.written or summary.existing or summary.videos
    if summary.failed and not done:
        reasons = list(summary.failed.values())
        raise UserError(
            f'none of {len(reasons)} inputs could be read: {reasons[0]}'
            if len(reasons) > 1
            else reasons[0]
        )


def _predict_shared(segmenter, found, options, model, lease):
    """Predict until all results are there, by whichever process.

    Batches are the same whatever exists already, and predicted whole:
    rounding depends on them.
    """
    cameras = [one.name for one in found if one.kind == 'camera']
    if cameras:
        raise UserError(
            f'{cameras[0]}: a camera cannot be shared by processes; leave '
            '--shared out'
        )
    images, others = _by_kind(found)
    if others and options.address is not None:
        # Files of one appear there one after another, and which of them are
        # whole cannot be told.
        raise UserError(
            f'{others[0].name}: processes cannot share videos whose results '
            f'go to an address ({options.address}); write to a folder, or '
            'leave --shared out'
        )
    size = options.batch_size
    parts = [
        images[start : start + size] for start in range(0, len(images), size)
    ]
    units = parts + [[one] for one in others]
    chunks = split(len(units))
    ids = options.label_ids
    job = SharedWork(
        options.address or options.root,
        'predict',
        dict(
            model=model,
            inputs=hash_text(*((one.name, one.relative) for one in found)),
            kinds=sorted(options.kinds),
            batch_size=size,
            smooth=options.smooth,
            label_ids=None if ids is None else ids.tolist(),
        ),
        chunks=len(chunks),
        lease=lease,
    )
    summary = Summary()

    def work(chunk):
        own = [units[index] for index in chunks[chunk.number]]
        # Of what was begun, some may be there.
        known = options.listed() if chunk.begun else options
        for part in own:
            for one in part:
                options.sweep(one)
            if all(known.is_done(one) for one in part):
                summary.existing += len(part)
            elif part[0].kind == 'image':
                _predict_images(segmenter, part, options, summary)
            else:
                _predict_other(segmenter, part[0], options, summary)
            options.flush()
        names = [one.name for part in own for one in part]
        return {k: v for k, v in summary.failed.items() if k in names}

    def finish(results):
        failed = {k: v for part in results for k, v in part.items()}
        known = options.listed()
        lost = [
            number
            for number, chunk in enumerate(chunks)
            for index in chunk
            for one in units[index]
            if one.name not in failed and not known.is_done(one)
        ]
        if lost:
            raise ChunksLost(lost)
        for folder in {
            path.parent
            for one in images
            for path in options.targets(one.relative).values()
        }:
            for path in leftovers(folder / '*.*'):
                path.unlink(missing_ok=True)
        options.write_failed('failed.txt', failed)
        return failed if len(failed) == len(found) else {}

    summary.share = job.run(work, finish)
    _refuse_nothing(Summary(failed=summary.share.result))
    return summary


def make_output_folder(out: str | Path) -> Path:
    """Make the folder of the results.

    Raises:
        UserError: It cannot be made or written.
    """
    if is_address(out):
        # Told before the model is loaded, like the mistakes below.
        list_below(out)
        return Path()
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


def _predict_images(segmenter, part, options, summary):
    """Predict a batch; image by image if one of them cannot be read."""
    try:
        found = segmenter(
            [one.name for one in part],
            confidence='confidence' in options.kinds,
            batch_size=len(part),
        )
    except ImageFileError as error:
        if len(part) == 1:
            name = part[0].name
            summary.failed[name] = str(error) + _no_video(Path(name))
            return
        for one in part:
            _predict_images(segmenter, [one], options, summary)
        return
    for prediction, one in zip(found, part, strict=True):
        for kind, path in options.targets(one.relative).items():
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
    """Predict a video, an address or a camera; list it if that fails."""
    try:
        _predict_readable(segmenter, one, options, summary)
    except (VideoFileError, DownloadError, ImageFileError) as error:
        summary.failed[one.name] = str(error)


def _predict_readable(segmenter, one, options, summary):
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
    if summary.share is not None:
        yield f'  {summary.share}'
    for name, why in list(summary.failed.items())[:10]:
        yield f'  not read: {name}: {why}'
    if len(summary.failed) > 10:
        yield f'  and {len(summary.failed) - 10} more, see failed.txt'


def _count(number, noun):
    return f'{number} {noun}{"" if number == 1 else "s"}'
