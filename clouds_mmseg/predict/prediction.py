"""The prediction for one image, and the files that it is written to.

Letters: K classes, H and W of the image.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clouds_mmseg.predict.formats import coco_of
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.visualization import colorize

# Kind of result -> suffix of its file.
KINDS = {
    'labels': '.png',
    'color': '.png',
    'overlay': '.png',
    'confidence': '.png',
    'rle': '.json',
}


@dataclass(repr=False)
class Prediction:
    """Result for one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 class indices.
        classes: Names of the classes.
        palette: RGB of each class.
        path: File of the image, if it came from one.
        confidence: (H, W) float32 in [0, 1], the share of the best class in
            the scores of a pixel; None unless requested.
        scores: (K, H, W) float32, float16 for large images, not negative: the
            probabilities of a head of MMSegmentation, the semantic scores of
            ``CLOUDSHead``, which do not sum to one. None unless requested.
    """

    image: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    path: Path | None = None
    confidence: np.ndarray | None = None
    scores: np.ndarray | None = None

    def __repr__(self) -> str:
        """Return size and the shares of the most frequent classes."""
        height, width = self.labels.shape
        index, count = np.unique(self.labels, return_counts=True)
        order = np.argsort(-count, kind='stable')
        names = [
            f'{self.classes[i] if i < len(self.classes) else "nothing"} '
            f'{share:.1%}'
            for i, share in zip(
                index[order], count[order] / self.labels.size, strict=True
            )
        ]
        more = f', and {len(names) - 4} more' if len(names) > 4 else ''
        said = f'{width}x{height}: {", ".join(names[:4])}{more}'
        return f'Prediction({said})'

    def color(self) -> Image.Image:
        """Return the labels in the colours of the palette."""
        return Image.fromarray(colorize(self.labels, self.palette))

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the labels' colours over the image.

        Args:
            opacity: Of the colours, in [0, 1].

        Raises:
            UserError: ``opacity`` is out of range.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f'opacity must lie in [0, 1], got {opacity}')
        return Image.blend(Image.fromarray(self.image), self.color(), opacity)

    def rle(self, label_ids: np.ndarray | None = None) -> dict:
        """Return the labels in COCO's format, as run-length encoded masks.

        Args:
            label_ids: (256,) category id of each class; by default its index.
        """
        ids = np.arange(256) if label_ids is None else label_ids
        name = self.path.name if self.path else ''
        return coco_of(self.labels, self.classes, ids, name)

    def save(
        self,
        path: str | Path,
        kind: str = 'labels',
        *,
        label_ids: np.ndarray | None = None,
    ) -> None:
        """Write a PNG file, or JSON for ``rle``.

        Args:
            path: The file.
            kind: ``labels``: class indices, one grey channel; ``color``;
                ``overlay``; ``confidence``: 0 to 255; ``rle``: see
                :meth:`rle`.
            label_ids: Ids of the classes in ``labels`` and ``rle``, see
                :func:`~clouds_mmseg.predict.formats.read_label_ids`; by
                default their indices.

        Raises:
            UserError: There is no such kind, or no confidence was requested.
        """
        if kind == 'rle':
            text = json.dumps(self.rle(label_ids), separators=(',', ':'))
            with atomic_path(path) as temporary:
                temporary.write_text(text + '\n')
            return
        if kind == 'labels' and label_ids is not None:
            image = Image.fromarray(label_ids[self.labels])
        else:
            image = self.drawing(kind)
        with atomic_path(path) as temporary:
            image.save(temporary, format='png')

    def drawing(self, kind: str) -> Image.Image:
        """Return what :meth:`save` writes as a picture.

        Raises:
            UserError: There is no such kind, or no confidence was requested.
        """
        if kind == 'labels':
            return Image.fromarray(self.labels)
        if kind == 'color':
            return self.color()
        if kind == 'overlay':
            return self.overlay()
        if kind == 'confidence':
            if self.confidence is None:
                raise UserError(
                    'this prediction has no confidence; ask for it: '
                    'segmenter(image, confidence=True)'
                )
            return Image.fromarray((self.confidence * 255).astype(np.uint8))
        raise UserError(f'kind={kind!r} is none of {", ".join(KINDS)}')


def palette_of(
    classes: Sequence[str], known: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Choose the colours of classes.

    Args:
        classes: Names.
        known: Colours of some; the others get a colour by a fixed rule.

    Returns:
        (K, 3) uint8 RGB.
    """
    chosen = np.random.default_rng(0).integers(0, 256, (len(classes), 3))
    for index, name in enumerate(classes):
        if name in known:
            chosen[index] = known[name]
    return chosen.astype(np.uint8)
