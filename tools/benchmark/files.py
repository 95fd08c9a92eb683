"""Synthetic image files in the sizes and formats of the datasets."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clouds_mmseg.data_tools.prepare.convert import encode_label
from clouds_mmseg.data_tools.prepare.write import RECODES, encode_copy
from clouds_mmseg.utils.errors import UserError


@dataclass(frozen=True)
class FileSet:
    """Published file format of a dataset.

    Attributes:
        size: Width and height.
        image: ``png`` or ``jpg``.
        label: ``grey``, ``palette``, or ``wide`` for 16 bits in three
            channels.
    """

    size: tuple
    image: str = 'png'
    label: str = 'grey'


SETS = {
    'gta5': FileSet((1914, 1052), label='palette'),
    'synthia': FileSet((1280, 760), label='wide'),
    'urbansyn': FileSet((2048, 1024)),
    'cityscapes': FileSet((2048, 1024)),
    'bdd100k': FileSet((1280, 720), 'jpg'),
    # Sizes vary; this is a typical phone camera.
    'mapillary': FileSet((4032, 3024), 'jpg', 'palette'),
    'acdc': FileSet((1920, 1080)),
    'generated': FileSet((768, 768)),
}
# Other formats of the same pixels; JPEG XL where its decoder is installed.
IMAGE_FORMATS = ('png-fast', *RECODES, 'npy')
if find_spec('pillow_jxl'):
    IMAGE_FORMATS += ('jxl',)
# Labels as written by tools/prepare_dataset.py.
PREPARED = 'prepared'

# Noise levels for which a PNG takes about 9 bits per pixel, as in GTA5 and
# Cityscapes, and a lossless WebP three quarters of that, as for photographs.
_GRAIN, _COLOUR_GRAIN, _DETAIL = 0.5, 0.3, 3.0
# Upsampling factor: small photographs are sharper per pixel than large ones.
_ENLARGED = 2.0


def synthetic_image(size: tuple[int, int], seed: int) -> np.ndarray:
    """Generate an image with structure at many scales, texture and noise.

    Args:
        size: Width and height.
        seed: Random seed.

    Returns:
        (H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    width, height = size

    def layer(columns, channels):
        shape = (max(2, columns * height // width), max(2, columns), channels)
        noise = rng.normal(size=shape).astype(np.float32)
        enlarged = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
        return enlarged.reshape(height, width, channels)

    total = np.full((height, width, 3), 110, np.float32)
    for columns, strength in ((4, 30), (16, 20), (64, 10)):
        # Photographs vary in brightness more than in colour.
        total += strength * (layer(columns, 1) + 0.3 * layer(columns, 3))
    # Textured regions such as vegetation, and smooth ones such as sky.
    rough = (layer(12, 1) + 0.3).clip(0)
    for columns in (width // 4, width // 2, width):
        total += _DETAIL * rough * layer(columns, 1)
    grain = layer(width, 1) + _COLOUR_GRAIN * layer(width, 3)
    return (total + _GRAIN * grain).clip(0, 255).astype(np.uint8)


class Mosaic:
    """Images tiled from photographs, instead of synthetic ones.

    Args:
        folder: Photographs, at any depth.

    Raises:
        UserError: The folder has no photographs.
    """

    def __init__(self, folder: str | Path):
        paths = sorted(
            path
            for path in Path(folder).rglob('*')
            if path.suffix.lower() in ('.png', '.jpg', '.jpeg')
        )
        found = [cv2.imread(str(path)) for path in paths]
        self.photos = [photo for photo in found if photo is not None]
        if not self.photos:
            raise UserError(f'--photos {folder} holds no PNG or JPEG image')

    def __call__(self, size: tuple[int, int], seed: int) -> np.ndarray:
        """Tile enlarged photographs.

        Args:
            size: Width and height.
            seed: Index of the first photograph.

        Returns:
            (H, W, 3) uint8, BGR.
        """
        height, width = self.photos[0].shape[:2]
        tile = (round(width * _ENLARGED), round(height * _ENLARGED))
        number, rows = seed, []
        for _ in range(-(-size[1] // tile[1])):
            row = []
            for _ in range(-(-size[0] // tile[0])):
                photo = self.photos[number % len(self.photos)]
                row.append(
                    cv2.resize(photo, tile, interpolation=cv2.INTER_CUBIC)
                )
                number += 1
            rows.append(np.hstack(row))
        whole = np.vstack(rows)[: size[1], : size[0]]
        return np.ascontiguousarray(whole)


def label(size: tuple[int, int], classes: int, seed: int) -> np.ndarray:
    """Generate a label map of random regions.

    Args:
        size: Width and height.
        classes: Ids are below this.
        seed: Random seed.

    Returns:
        (H, W) uint8.
    """
    grid = np.random.default_rng(seed).integers(classes, size=(24, 32))
    return cv2.resize(
        grid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
    )


def write_set(
    folder: Path,
    size: tuple[int, int],
    formats: Sequence[str],
    labels: Sequence[str],
    *,
    count: int,
    draw: Callable = synthetic_image,
) -> dict[str, int]:
    """Write folders as ``FolderDataset`` reads them.

    Args:
        folder: Receives a folder for each image_format and kind of labels.
        size: Width and height.
        formats: The first is the published one, ``png`` or ``jpg``; the
            others hold the same pixels, but for a ``jpg``.
        labels: Kinds of label files.
        count: Number of images.
        draw: ``(size, seed) -> (H, W, 3) uint8``.

    Returns:
        Mean number of bytes of an image, or label, by image_format and kind.
    """
    folder = Path(folder)
    total = dict.fromkeys((*formats, *labels), 0)
    for name in total:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = draw(size, index)
        for image_format in formats:
            published = image_format == formats[0]
            payload = encode(image, image_format, published)
            if image_format == 'jpg' and published:
                # The other formats store the decoded JPEG.
                image = cv2.imdecode(np.frombuffer(payload, np.uint8), 1)
            path = folder / image_format / f'{index:04d}{suffix(image_format)}'
            path.write_bytes(payload)
            total[image_format] += len(payload)
        for kind in labels:
            payload = _label_bytes(label(size, 19, index), kind)
            (folder / kind / f'{index:04d}.png').write_bytes(payload)
            total[kind] += len(payload)
    return {name: size // count for name, size in total.items()}


def suffix(image_format: str) -> str:
    """Return the file suffix of an image format."""
    return '.png' if image_format == 'png-fast' else f'.{image_format}'


def encode(
    image: np.ndarray, image_format: str, published: bool = False
) -> bytes:
    """Encode an image.

    Args:
        image: (H, W, 3) uint8, BGR.
        image_format: ``png``, ``jpg`` or one of :data:`IMAGE_FORMATS`.
        published: Whether to compress a JPEG as published sets do, and not
            as copies.

    Returns:
        The file.
    """
    if image_format in RECODES and not published:
        return encode_copy(image, image_format, 'picture')
    out = io.BytesIO()
    if image_format == 'npy':
        np.save(out, image)
        return out.getvalue()
    if image_format == 'jxl':
        import pillow_jxl  # noqa: F401

        rgb = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        rgb.save(out, 'JXL', lossless=True, effort=1)
        return out.getvalue()
    if image_format == 'jpg':
        # About 0.1 MB at the size of BDD100K, as published.
        options = (cv2.IMWRITE_JPEG_QUALITY, 80)
    else:
        level = 1 if image_format == 'png-fast' else 6
        options = (cv2.IMWRITE_PNG_COMPRESSION, level)
    return cv2.imencode(suffix(image_format), image, options)[1].tobytes()


def _label_bytes(ids, kind):
    if kind == PREPARED:
        return encode_label(ids)
    if kind == 'wide':
        pixels = np.zeros((*ids.shape, 3), np.uint16)
        # OpenCV's order: class in the first channel of the file.
        pixels[..., 2] = ids
        return cv2.imencode('.png', pixels)[1].tobytes()
    image = Image.fromarray(ids)
    if kind == 'palette':
        image.putpalette(list(range(256)) * 3)
    out = io.BytesIO()
    image.save(out, 'PNG')
    return out.getvalue()
