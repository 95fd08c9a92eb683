"""Prediction of a video into videos and folders of files, one a frame."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from clouds_mmseg.predict.prediction import KINDS, Prediction
from clouds_mmseg.predict.predictor import Predictor
from clouds_mmseg.predict.video import (
    Camera,
    VideoReader,
    VideoWriter,
    suffix_for,
)
from clouds_mmseg.utils.atomic import atomic_folder, atomic_path

# Kinds of results that are looked at: a video. The others are read by
# programs: a folder with a file for each frame, without loss.
FILMS = ('color', 'overlay')


def video_result(root: Path, kind: str, relative: Path) -> Path | None:
    """Find a finished result of a video.

    Args:
        root: Folder of all results.
        kind: Of the result.
        relative: Of the video, without suffix.

    Returns:
        None if it is not there.
    """
    base = root / kind / relative
    if kind not in FILMS:
        return base if base.is_dir() else None
    found = [base.with_name(base.name + end) for end in ('.mp4', '.mkv')]
    return next((path for path in found if path.is_file()), None)


def predict_video(
    segmenter: Predictor,
    source: VideoReader | Camera,
    root: Path,
    relative: Path,
    *,
    kinds: Sequence[str],
    batch_size: int = 1,
    smooth: float = 0.0,
    label_ids: np.ndarray | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> int:
    """Predict a video; its results appear when all of them are finished.

    Args:
        segmenter: The model.
        source: The video. A camera is ended by Ctrl-C, and what was predicted
            until then is written.
        root: Folder of all results.
        relative: Of the video, without suffix.
        kinds: Results that are written.
        batch_size: Frames that are predicted at once.
        smooth: See :meth:`Predictor.stream`.
        label_ids: See :meth:`Prediction.save`.
        on_frame: Called after each frame.

    Returns:
        Number of frames.

    Raises:
        VideoFileError: The video is damaged; nothing is written then.
    """
    stamps: deque[int] = deque()

    def images() -> Iterator[np.ndarray]:
        for image, stamp in source:
            stamps.append(stamp)
            yield image

    number = 0
    with ExitStack() as results:
        if isinstance(source, Camera):
            results.enter_context(_ended_by_ctrl_c(source))
        films = results.enter_context(_films(root, relative, kinds, source))
        folders = {
            kind: results.enter_context(atomic_folder(root / kind / relative))
            for kind in kinds
            if kind not in FILMS
        }
        for prediction in segmenter.stream(
            images(),
            confidence='confidence' in kinds,
            batch_size=batch_size,
            smooth=smooth,
        ):
            films.add(prediction, stamps.popleft())
            for kind, folder in folders.items():
                name = f'{number:06d}{KINDS[kind]}'
                prediction.save(folder / name, kind, label_ids=label_ids)
            number += 1
            on_frame()
    return number


class _Films:
    """The videos that are written of one, which begin with its first frame."""

    def __init__(self, paths: dict[str, Path], source: VideoReader | Camera):
        self.paths = paths
        self.source = source
        self.writers: dict[str, VideoWriter] = {}
        self.early: list = []
        if paths and source.sound:
            source.on_sound = self._add_sound

    def add(self, prediction: Prediction, stamp: int) -> None:
        if not self.writers:
            for kind, path in self.paths.items():
                size = prediction.labels.shape
                self.writers[kind] = VideoWriter(path, self.source, size)
            for packet in self.early:
                self._add_sound(packet)
            self.early.clear()
        for kind, writer in self.writers.items():
            writer.add(np.asarray(prediction.drawing(kind)), stamp)

    def _add_sound(self, packet):
        if not self.writers:
            self.early.append(packet)
            return
        index = packet.stream.index
        for writer in self.writers.values():
            writer.add_sound(packet, index)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


@contextmanager
def _films(root, relative, kinds, source):
    """Yield what writes the videos; they get their names at the end."""
    suffix = suffix_for(source.sound)
    with ExitStack() as files:
        paths = {}
        for kind in kinds:
            if kind in FILMS:
                base = root / kind / relative
                path = base.with_name(base.name + suffix)
                paths[kind] = files.enter_context(atomic_path(path))
        films = _Films(paths, source)
        try:
            yield films
        finally:
            films.close()


@contextmanager
def _ended_by_ctrl_c(camera):
    """Let the first Ctrl-C end a camera after its frame."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        camera.stop = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
