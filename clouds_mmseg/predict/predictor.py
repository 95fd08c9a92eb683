"""What a trained model and an exported file have in common: the calls.

Letters: K classes, H and W of an image.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mmseg.registry import TRANSFORMS
from PIL import Image
from torch import Tensor

from clouds_mmseg.models.segmentors.pseudo_labels import best_share
from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.predict.smoothing import TemporalSmoothing
from clouds_mmseg.predict.windows import StripResizer, predict_bands
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import read_image

Source: TypeAlias = str | Path | Image.Image | np.ndarray
# Labels, and confidence and scores where they are asked for, as a Prediction
# has them.
Result: TypeAlias = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
# Larger inputs are predicted in overlapping windows.
MAX_PIXELS = 4_000_000
WINDOW = 1024
# Bytes of the scores of an image above which they are computed in strips.
_MOST_SCORES = 512 << 20


class Predictor:
    """Predicts images: the base of ``Segmenter`` and ``ExportedSegmenter``.

    Attributes:
        classes: Names of the classes.
        palette: (K, 3) uint8 RGB.
        max_pixels: Inputs of the network that are larger are predicted in
            overlapping windows, row by row, and their scores are never all
            held.
        window: Side of a window, pixels.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    max_pixels: int
    window: int

    @property
    def has_scores(self) -> bool:
        """Whether there are scores of several classes."""
        raise NotImplementedError

    def __call__(
        self,
        images: Source | Sequence[Source],
        *,
        confidence: bool = False,
        scores: bool = False,
        batch_size: int = 1,
    ) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            images: A file, a PIL image, or an array (H, W, 3) uint8 RGB; or a
                list of them.
            confidence: Whether to return the confidence of each pixel.
            scores: Whether to return the scores of all classes.
            batch_size: Images that are predicted at once, if their sizes are
                equal.

        Returns:
            A prediction for one image, a list of them for a list.

        Raises:
            UserError: An image cannot be read, or is none; or the model has
                no scores of classes, which were asked for.
        """
        options: dict[str, Any] = dict(
            confidence=confidence, scores=scores, batch_size=batch_size
        )
        if isinstance(images, (list, tuple)):
            return list(self.stream(images, **options))
        (one,) = self.stream([images], **options)
        return one

    def stream(
        self,
        images: Iterable[Source],
        *,
        confidence: bool = False,
        scores: bool = False,
        batch_size: int = 1,
        smooth: float = 0.0,
    ) -> Iterator[Prediction]:
        """Predict images one batch after the other, as :meth:`__call__`.

        Args:
            images: As for :meth:`__call__`; also the frames of a video.
            confidence: As for :meth:`__call__`.
            scores: As for :meth:`__call__`.
            batch_size: As for :meth:`__call__`.
            smooth: For the frames of a video: the share of the frames before
                in the scores, in [0, 1), see
                :class:`~clouds_mmseg.predict.smoothing.TemporalSmoothing`.

        Raises:
            UserError: As :meth:`__call__`, or ``smooth`` is out of range.
        """
        smoothing = TemporalSmoothing(smooth) if smooth else None
        left = iter(images)
        while part := list(islice(left, batch_size)):
            arrays = [as_rgb_array(source) for source in part]
            results = self._predict(arrays, confidence, scores, smoothing)
            for source, array, (label, share, score) in zip(
                part, arrays, results, strict=True
            ):
                is_file = isinstance(source, (str, Path))
                yield Prediction(
                    image=array,
                    labels=label,
                    classes=self.classes,
                    palette=self.palette,
                    path=Path(source) if is_file else None,
                    confidence=share,
                    scores=score,
                )

    def _predict(
        self,
        arrays: list[np.ndarray],
        confidence: bool,
        scores: bool,
        smoothing: TemporalSmoothing | None,
    ) -> Iterable[Result]:
        """Predict images (H, W, 3) uint8 RGB."""
        raise NotImplementedError

    def _is_large(
        self, array: np.ndarray, image: np.ndarray, needed: bool
    ) -> bool:
        """Tell whether an image is predicted in windows and strips.

        Args:
            array: (H, W, 3), the image.
            image: (h, w, 3), the input of the network.
            needed: Whether its scores are computed at its size.
        """
        if image.shape[0] * image.shape[1] > self.max_pixels:
            return True
        size = 4 * len(self.classes) * array.shape[0] * array.shape[1]
        return needed and size > _MOST_SCORES

    def _in_strips(
        self,
        array: np.ndarray,
        image: np.ndarray,
        predict: Callable[[slice, slice], Tensor],
        *,
        to_scores: Callable[[Tensor], Tensor],
        to_label: Callable[[Tensor], Tensor],
        align_corners: bool,
        confidence: bool,
        scores: bool,
        smoothing: TemporalSmoothing | None,
    ) -> Result:
        """Predict an image in windows and strips.

        Args:
            array: (H, W, 3) uint8 RGB.
            image: (h, w, 3), the input of the network.
            predict: See :func:`~clouds_mmseg.predict.windows.predict_bands`.
            to_scores: Turns a strip (K, rows, W) of what ``predict`` returns
                into scores, where these are needed.
            to_label: Returns the class (rows, W) of each pixel of a strip.
            align_corners: How strips are resized.
            confidence: Whether to return it.
            scores: Whether to return them.
            smoothing: Over the frames of a video.
        """
        size = array.shape[:2]
        labels = np.empty(size, np.uint8)
        share = np.empty(size, np.float32) if confidence else None
        kept = None
        if smoothing:
            smoothing.begin(array)
        is_large = image.shape[0] * image.shape[1] > self.max_pixels
        window = self.window if is_large else None
        resizer = StripResizer(image.shape[:2], size, align_corners)
        for band in predict_bands(predict, image.shape[:2], window):
            for first, strip in resizer.add(band):
                rows = slice(first, first + strip.shape[1])
                if confidence or scores or smoothing:
                    strip = to_scores(strip)
                if smoothing:
                    strip = smoothing(strip, first)
                labels[rows] = to_bytes(to_label(strip))
                if share is not None:
                    share[rows] = best_share(strip).cpu().numpy()
                if scores:
                    if kept is None:
                        kept = np.empty((len(strip), *size), np.float16)
                    kept[:, rows] = strip.half().cpu().numpy()
        return labels, share, kept


def to_bytes(labels: Tensor) -> np.ndarray:
    """Convert class indices to an array of bytes."""
    return labels.byte().cpu().numpy()


def several_scores(scores: Tensor) -> Tensor:
    """Return scores (K, H, W).

    Raises:
        UserError: There is one output, whose share would always be one.
    """
    if len(scores) == 1:
        raise UserError(
            'a model with one output has no scores of classes: confidence, '
            'scores, smooth, flip and scales need them'
        )
    return scores


def check_windows(max_pixels: int, window: int) -> None:
    """Refuse sizes of windows that are out of range.

    Raises:
        UserError: They are.
    """
    if window < 64 or window % 32 or max_pixels < window**2:
        raise UserError(
            'window must be a multiple of 32 of at least 64, and max_pixels '
            f'at least its square, got {window}, {max_pixels}'
        )


def build_resize(steps: Iterable[dict]) -> list[Callable[[dict], dict]]:
    """Build ``Resize`` steps that a checkpoint or an exported file names.

    Args:
        steps: Configs. What was read as text has lists for tuples, and mmcv
            takes no list as the scale.
    """
    return [
        TRANSFORMS.build(
            {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in step.items()
            }
        )
        for step in steps
    ]


def resized(image: np.ndarray, steps: Sequence[Any]) -> np.ndarray:
    """Apply ``Resize`` steps to an image (H, W, 3)."""
    if not steps:
        return image
    shape = image.shape[:2]
    results = dict(
        img=np.ascontiguousarray(image), img_shape=shape, ori_shape=shape
    )
    for step in steps:
        results = step(results)
    return results['img']


def as_rgb_array(source: Source) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB.

    Raises:
        UserError: It cannot be read, or is none.
    """
    if isinstance(source, (str, Path)):
        return read_image(source)
    if isinstance(source, Image.Image):
        return np.asarray(source.convert('RGB'))
    array = np.asarray(source)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UserError(
            'an image is a file, a PIL image or an array (H, W, 3) uint8 RGB, '
            f'got an array {array.shape} {array.dtype}'
        )
    if not array.size:
        raise UserError(f'an image has pixels, got an array {array.shape}')
    return array
