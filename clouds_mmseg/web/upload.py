"""Files of strangers: what is refused before it is decoded, and how."""

import re
from dataclasses import dataclass

import cv2
import numpy as np

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import (
    ImageFileError,
    decode_image,
    open_image,
)

# How the files begin that are given to a decoder; no other is. Each of these
# formats has its size in the head, and none can name another file.
_FORMATS = dict(
    PNG=re.compile(rb'\x89PNG\r\n\x1a\n'),
    JPEG=re.compile(rb'\xff\xd8\xff'),
    WebP=re.compile(rb'RIFF....WEBP', re.DOTALL),
    BMP=re.compile(rb'BM'),
    TIFF=re.compile(rb'II\*\0|MM\0\*'),
    GIF=re.compile(rb'GIF8[79]a'),
    AVIF=re.compile(rb'....ftyp(?:avif|avis|mif1)', re.DOTALL),
)
# Pixels of the shorter side, and how many times longer the other one may be.
_SHORTEST = 16
_LONGEST = 16
# Each scan of a progressive JPEG is a pass over the whole picture; encoders
# write ten or so.
_MOST_SCANS = 100
_SCAN = b'\xff\xda'
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


class RefusedUpload(UserError):
    """A file that the page does not take. The message is for its visitor."""


@dataclass(frozen=True)
class Limits:
    """Limits of an upload.

    Attributes:
        megabytes: Of the file, of 2**20 bytes as Gradio counts them.
        megapixels: Of the image, as its head says.
        predicted_megapixels: Larger images are reduced to it before they
            are predicted, which bounds time and memory.
    """

    megabytes: float = 20
    megapixels: float = 50
    predicted_megapixels: float = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f'{name} must be above 0, got {value}')

    @property
    def bytes(self) -> int:
        """Bytes of a file."""
        return round(self.megabytes * 2**20)

    def describe(self) -> str:
        """Return the limits as a sentence for the visitor."""
        *names, last = _FORMATS
        return (
            f'{", ".join(names)} or {last}, at most {self.megabytes:g} MB '
            f'and {self.megapixels:g} megapixels.'
        )


def read_upload(payload: bytes, limits: Limits) -> np.ndarray:
    """Decode a file of a stranger, by the rules of training images.

    Format and size are read from its head, without decoding, and checked
    first. Of a file with several images the first is used.

    Args:
        payload: The file.
        limits: What is refused.

    Returns:
        (H, W, 3) uint8 RGB, upright; not reduced.

    Raises:
        RefusedUpload: It is none of the formats, too large, too narrow, or
            cannot be decoded. The message names no file.
    """
    if len(payload) > limits.bytes:
        raise RefusedUpload(
            f'The file has {len(payload) / 2**20:.1f} MB, more than the '
            f'{limits.megabytes:g} MB that this page takes.'
        )
    kind = _format_of(payload)
    try:
        with open_image(payload) as image:
            width, height = image.size
            tags = getattr(image, 'tag_v2', {})
            tile = (tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0))
    except Exception as error:
        # Pillow's readers raise whatever they like for a damaged head.
        raise RefusedUpload(
            f'The file begins like a {kind} image, but its head is damaged.'
        ) from error
    _check_size(width, height, limits)
    if tile[0] * tile[1] > limits.megapixels * 1e6:
        raise RefusedUpload('The tiles of this TIFF file are too large.')
    if kind == 'JPEG' and payload.count(_SCAN) > _MOST_SCANS:
        raise RefusedUpload(
            f'This JPEG file has {payload.count(_SCAN)} scans, more than the '
            f'{_MOST_SCANS} that this page takes.'
        )
    try:
        image = decode_image(payload)
    except ImageFileError as error:
        raise RefusedUpload(f'This {kind} file {error}.') from error
    # Readers of a head can be misled: what was decoded counts.
    _check_size(image.shape[1], image.shape[0], limits)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def reduce_image(image: np.ndarray, megapixels: float) -> np.ndarray:
    """Reduce an image to a number of pixels, if it has more.

    Args:
        image: (H, W, 3) uint8.
        megapixels: The most that the result has.

    Returns:
        The same image, or a smaller one of the same proportions.
    """
    height, width = image.shape[:2]
    scale = (megapixels * 1e6 / (height * width)) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _format_of(payload):
    if not payload:
        raise RefusedUpload('The file is empty.')
    for kind, head in _FORMATS.items():
        if head.match(payload):
            return kind
    *names, last = _FORMATS
    raise RefusedUpload(
        'The file is no image that this page reads: '
        f'{", ".join(names)} or {last}. Vector drawings (SVG, PDF) and camera '
        'raw files have to be converted first.'
    )


def _check_size(width, height, limits):
    if width * height > limits.megapixels * 1e6:
        raise RefusedUpload(
            f'The image is {width} x {height} pixels, more than the '
            f'{limits.megapixels:g} megapixels that this page takes.'
        )
    short, long = sorted((width, height))
    if short < _SHORTEST or long > _LONGEST * short:
        raise RefusedUpload(
            f'The image is {width} x {height} pixels: its shorter side must '
            f'have at least {_SHORTEST} pixels, and the longer one at most '
            f'{_LONGEST} times as many.'
        )
