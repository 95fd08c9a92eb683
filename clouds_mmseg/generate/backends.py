"""Interface of image generation backends: requests, images, seeds, sources."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES, images_below
from clouds_mmseg.utils.images import ImageFileError, read_image
from clouds_mmseg.utils.remote import refuse_address

SEED_MODULUS = 2**32
# torch's CPU generator uses the low 32 bits of a seed only. Multiples of
# this odd number (2**32 divided by the golden ratio) are far from each other
# modulo 2**32, so that a second attempt never has the seed of another
# image's first attempt.
_ATTEMPT_STRIDE = 2654435761
MAX_IMAGES = 10**8
# In 1/255: a constant image may vary this much from rounding in a
# decoder.
_FLAT = 3


@dataclass(frozen=True)
class Request:
    """One image to generate.

    Attributes:
        index: Number of the image in the image bank, from 0.
        prompt: The text.
        line: Line of the prompt file, from 1.
        seed: Of the random numbers, in 0..2**32 - 1.
        attempt: Number of blank images before.
        source: Path of the image to restyle, or of the label map to draw,
            below the source root.
        source_path: Its full path; None without a source.
        label_path: Full path of the label map, of mode label2img.
    """

    index: int
    prompt: str
    line: int
    seed: int
    attempt: int = 0
    source: str | None = None
    source_path: str | None = None
    label_path: str | None = None


@dataclass(frozen=True)
class GeneratedImage:
    """One generated image.

    Attributes:
        image: (H, W, 3) RGB; uint8, or float in [0, 1] with NaN where the
            model failed.
        label: (H, W) uint8 train ids where the backend knows and keeps
            them, for evaluation: no training reads them.
        unsafe: Whether the model's safety checker blacked the image out.
        training_label: (H, W) uint8 class indices, 255 for none: the label
            map that made the image.
        style: What was drawn for it; JSON values for the manifest.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    unsafe: bool = False
    training_label: np.ndarray | None = None
    style: dict | None = None


class Backend(Protocol):
    """Image generation backend.

    Attributes:
        batch_size: Requests per call. All calls have as many, except for a
            second attempt, which is alone: an image may depend on its index
            in a batch by a rounding error, never on the other images.
        keeps_labels: Whether its images have labels for evaluation.
    """

    batch_size: int
    keeps_labels: bool

    def recipe(self) -> dict:
        """Return what its images depend on besides prompt, seed, source.

        Returns:
            JSON values; ``backend`` and ``model`` are among the keys.
        """

    def info(self) -> dict:
        """Return further information: versions, device, a note."""

    def check_prompts(self, prompts: Sequence[tuple[int, str]]) -> list[str]:
        """Return warnings about ``(line, text)`` pairs, each a sentence."""

    def generate(self, requests: Sequence[Request]) -> list[GeneratedImage]:
        """Generate one image per request."""


def seed_of(index: int, seed: int, attempt: int) -> int:
    """Return the seed of an attempt at an image, in 0..2**32 - 1.

    Args:
        index: Number of the image.
        seed: Of the image bank.
        attempt: 0 gives ``seed + index``.
    """
    return (seed + index + attempt * _ATTEMPT_STRIDE) % SEED_MODULUS


def request_for(
    index: int,
    prompts: Sequence[tuple[int, str]],
    *,
    seed: int,
    sources: Sequence[tuple[str, str]] = (),
    labels: Mapping[str, str] | None = None,
    attempt: int = 0,
) -> Request:
    """Return the request for one image of an image bank.

    Prompts are used in turn. With sources, these are used in turn too, and
    each further round shifts by one prompt, so that a source does not get
    the same prompt again when there are as many prompts as sources.

    Args:
        index: Number of the image, from 0.
        prompts: Line and text of each prompt.
        seed: Of the image bank.
        sources: Path below the source root and full path of each image to
            restyle or label map to draw; empty for mode txt2img.
        labels: Path below the source root -> full path of the label map.
        attempt: Number of blank images before.

    Returns:
        Independent of the number of images in the bank.
    """
    source = source_path = None
    turn = index
    if sources:
        rounds, position = divmod(index, len(sources))
        source, source_path = sources[position]
        turn = position + rounds
    line, prompt = prompts[turn % len(prompts)]
    return Request(
        index=index,
        prompt=prompt,
        line=line,
        seed=seed_of(index, seed, attempt),
        attempt=attempt,
        source=source,
        source_path=source_path,
        label_path=(labels or {}).get(source or ''),
    )


def next_attempt(request: Request, seed: int) -> Request:
    """Return the request for the same image with the next seed."""
    attempt = request.attempt + 1
    return replace(
        request, attempt=attempt, seed=seed_of(request.index, seed, attempt)
    )


def blank_reason(image: np.ndarray) -> str | None:
    """Return why an image is blank.

    Args:
        image: (H, W, 3) RGB, uint8 or float in [0, 1].

    Returns:
        ``'nan'`` (a number overflowed), ``'black'`` (the output of safety
        checkers), ``'constant'``, or None if the image is not blank.
    """
    if image.dtype != np.uint8:
        if not np.isfinite(image).all():
            return 'nan'
        image = to_uint8(image)
    # (3,): each channel on its own, so that a uniform red is constant too.
    spread = np.ptp(image.reshape(-1, 3), axis=0).max()
    if spread > _FLAT:
        return None
    return 'black' if image.max() <= _FLAT else 'constant'


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round a float image (H, W, 3) in [0, 1] to uint8; uint8 passes."""
    if image.dtype == np.uint8:
        return image
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB or (H, W) uint8 as PNG.

    In memory, because Pillow's error for a full disk does not name it.
    """
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format='PNG', compress_level=4)
    return stream.getvalue()


def list_sources(root: str | Path) -> list[tuple[str, str]]:
    """Find the images to restyle.

    Args:
        root: Folder that is searched recursively.

    Returns:
        Path below the root, with ``/``, and full path
        of each image; sorted by the first.

    Raises:
        GenerationError: The folder is missing or holds no image.
    """
    refuse_address(root, '--source')
    root = Path(root).expanduser()
    if not root.is_dir():
        raise GenerationError(f'--source {root}: there is no such folder')
    names = sorted(p.relative_to(root).as_posix() for p in images_below(root))
    if not names:
        raise GenerationError(
            f'--source {root} holds no image ({", ".join(IMAGE_SUFFIXES)})'
        )
    return [(name, str(root / name)) for name in names]


def hash_sources(
    sources: Sequence[tuple[str, str]],
    labels: Mapping[str, str] | None = None,
) -> str:
    """Hash names and sizes of source files; their content takes too long.

    Args:
        sources: See :func:`list_sources`.
        labels: See :func:`request_for`.
    """
    sha256 = hashlib.sha256()
    for name, path in sources:
        sha256.update(f'{name}\0{Path(path).stat().st_size}\0'.encode())
        label = (labels or {}).get(name, path)
        if label != path:
            sha256.update(f'{Path(label).stat().st_size}\0'.encode())
    return sha256.hexdigest()[:16]


def open_source(path: str | Path) -> Image.Image:
    """Read an image as RGB, with EXIF orientation applied as in training.

    Raises:
        GenerationError: It cannot be read.
    """
    try:
        return Image.fromarray(read_image(path))
    except ImageFileError as error:
        raise GenerationError(
            f'the source {error}. Replace it by a file of 8 bits, or move it '
            'out of the folder.'
        ) from error


def working_size(
    size: tuple[int, int], target: tuple[int, int] | int, multiple: int
) -> tuple[int, int]:
    """Return width and height to which a source image is resized.

    Args:
        size: Width and height of the source.
        target: The size itself, or the short edge.
        multiple: Both edges are multiples of it.
    """
    if isinstance(target, tuple):
        return target
    scale = target / min(size)
    width, height = (
        max(multiple, round(edge * scale / multiple) * multiple)
        for edge in size
    )
    return width, height
