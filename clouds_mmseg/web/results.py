"""Results of the page, as files of a temporary folder."""

import re
import secrets
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.utils.visualization import colorize

# Pixels of the longer side of what is shown; downloads have all.
_SHOWN = 1600
_TOKEN = re.compile(r'[A-Za-z0-9_-]{22}')
# What is served, and as what.
FILES = {
    'image.jpg': 'image/jpeg',
    'colors.png': 'image/png',
    'confidence.png': 'image/png',
    'labels.png': 'image/png',
    'overlay.png': 'image/png',
}


class ResultStore:
    """The latest results, each under a name that cannot be guessed.

    Nothing of an upload is kept but its pixels: they are encoded anew, so
    that what a file holds besides is never served.

    Args:
        folder: Exists, and belongs to the page alone.
        capacity: Older results are deleted.
    """

    def __init__(self, folder: str | Path, capacity: int = 32):
        self.folder = Path(folder)
        self._capacity = capacity
        self._palettes: OrderedDict[str, list[np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, predictions: list[Prediction]) -> str:
        """Write predictions for one image.

        Returns:
            The token of the result.
        """
        token = secrets.token_urlsafe(16)
        root = self.folder / token
        root.mkdir(mode=0o700)
        image = Image.fromarray(predictions[0].image)
        image.save(root / 'image.png', compress_level=1)
        _reduced(image).save(root / 'image.jpg', quality=90)
        for index, found in enumerate(predictions):
            part = root / str(index)
            part.mkdir()
            labels = Image.fromarray(found.labels)
            labels.save(part / 'labels.png')
            small = np.asarray(_reduced(labels, Image.Resampling.NEAREST))
            colors = Image.fromarray(colorize(small, found.palette))
            colors.save(part / 'colors.png')
            if found.confidence is not None:
                # Grey values are what is downloaded, see Prediction.save.
                found.drawing('confidence').save(part / 'confidence.png')
        palettes = [found.palette for found in predictions]
        with self._lock:
            self._palettes[token] = palettes
            while len(self._palettes) > self._capacity:
                old, _ = self._palettes.popitem(last=False)
                shutil.rmtree(self.folder / old, ignore_errors=True)
        return token

    def image(self, token: str) -> np.ndarray | None:
        """Return the image of a result, (H, W, 3) uint8 RGB, if it exists."""
        if self._palette(token, 0) is None:
            return None
        try:
            with Image.open(self.folder / token / 'image.png') as image:
                return np.asarray(image)
        except FileNotFoundError:
            # Deleted by another visitor's result since.
            return None

    def file(self, token: str, index: int, name: str) -> Path | None:
        """Return a file of a result: a name of ``FILES`` but the overlay."""
        if self._palette(token, index) is None or name not in FILES:
            return None
        root = self.folder / token
        path = root / name if name == 'image.jpg' else root / str(index) / name
        return path if path.is_file() else None

    def overlay(self, token: str, index: int, opacity: float) -> bytes | None:
        """Return the overlay of a result as PNG, in full size.

        Args:
            token: The result.
            index: Of the prediction.
            opacity: Of the colours, in [0, 1].
        """
        palette = self._palette(token, index)
        image = self.image(token)
        if palette is None or image is None:
            return None
        try:
            with Image.open(
                self.folder / token / str(index) / 'labels.png'
            ) as file:
                labels = np.asarray(file)
        except FileNotFoundError:
            return None
        found = Prediction(image, labels, (), palette)
        drawing = np.asarray(found.overlay(opacity))
        done, coded = cv2.imencode('.png', drawing[..., ::-1])
        return coded.tobytes() if done else None

    def _palette(self, token, index):
        if not _TOKEN.fullmatch(token):
            return None
        with self._lock:
            palettes = self._palettes.get(token, [])
        return palettes[index] if 0 <= index < len(palettes) else None


def _reduced(image, resampling=Image.Resampling.LANCZOS):
    scale = _SHOWN / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), resampling)
