"""Interface of image generators, and the images they are given and return."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.images import ImageFileError, read_image

SEED_MODULUS = 2**32
# torch's CPU generator looks at the low 32 bits of a seed only. Multiples of
# this odd number (2**32 divided by the golden ratio) stay far from each
# other modulo 2**32, so that a second attempt never meets the first attempt
# of another image of the bank.
_ATTEMPT_STRIDE = 2654435761
MAX_IMAGES = 10**8


@dataclass(frozen=True)
class Request:
    """One image to make.

    Attributes:
        index: Number of the image in the bank, from 0.
        prompt: The text.
        line: Line of the prompt file, from 1.
        seed: Of the random numbers, in 0..2**32 - 1.
        attempt: How often the image came out blank before.
        source: Path of the image to restyle, below the source root.
        source_path: Where that image is; None without a source.
    """

    index: int
    prompt: str
    line: int
    seed: int
    attempt: int = 0
    source: str | None = None
    source_path: str | None = None


@dataclass(frozen=True)
class Picture:
    """One image made.

    Attributes:
        image: (H, W, 3) RGB; uint8, or float in [0, 1] with NaN where the
            model failed.
        label: (H, W) uint8 train ids where the backend knows them and was
            asked to keep them.
        unsafe: The safety checker of the model has blacked the image out.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    unsafe: bool = False


class Backend(Protocol):
    """What makes images.

    Attributes:
        batch_size (int): How many requests it takes at once. It always gets
            as many, except for a second attempt, which comes alone: an image
            may depend on its place in a batch by a rounding error, never on
            its neighbours.
        keeps_labels (bool): Whether its pictures have labels.
    """

    batch_size: int
    keeps_labels: bool

    def recipe(self):
        """Return what its images depend on besides prompt, seed, source.

        Returns:
            dict: JSON values; ``backend`` and ``model`` are among the keys.
        """

    def info(self):
        """Return what people may want to know: versions, device, words."""

    def check_prompts(self, prompts):
        """Return warnings about ``(line, text)`` pairs, each a sentence."""

    def generate(self, requests):
        """Make the images of some requests, as :class:`Picture` each."""


def seed_of(index, seed, attempt):
    """Seed of an attempt at an image, in 0..2**32 - 1.

    Args:
        index (int): Number of the image.
        seed (int): Of the bank.
        attempt (int): 0 gives ``seed + index``.
    """
    return (seed + index + attempt * _ATTEMPT_STRIDE) % SEED_MODULUS


def request_for(index, prompts, *, seed, sources=(), attempt=0):
    """Say what image ``index`` of a bank is.

    Prompts are taken in turn. With sources, these are taken in turn too, and
    each further round moves on by one prompt, so that a source does not meet
    the same prompt again when there are as many prompts as sources.

    Args:
        index (int): Number of the image, from 0.
        prompts (Sequence[tuple[int, str]]): Line and text of each prompt.
        seed (int): Of the bank.
        sources (Sequence[tuple[str, str]]): Path below the source root and
            full path of each image to restyle; empty for mode txt2img.
        attempt (int): How often the image came out blank before.

    Returns:
        Request: It does not depend on how many images the bank has.
    """
    source = source_path = None
    turn = index
    if sources:
        rounds, place = divmod(index, len(sources))
        source, source_path = sources[place]
        turn = place + rounds
    line, prompt = prompts[turn % len(prompts)]
    return Request(
        index=index,
        prompt=prompt,
        line=line,
        seed=seed_of(index, seed, attempt),
        attempt=attempt,
        source=source,
        source_path=source_path,
    )


def next_attempt(request, seed):
    """Return the request to make the same image with the next seed."""
    attempt = request.attempt + 1
    return replace(
        request, attempt=attempt, seed=seed_of(request.index, seed, attempt)
    )


# In 1/255: a constant image may have gained some rounding on its way through
# a decoder.
_FLAT = 3


def blank_reason(image):
    """Say why an image is blank.

    Args:
        image (np.ndarray): (H, W, 3) RGB, uint8 or float in [0, 1].

    Returns:
        str | None: ``'nan'`` (a number overflowed), ``'black'`` (as safety
        checkers leave behind), ``'constant'``, or None for a picture.
    """
    if image.dtype != np.uint8:
        if not np.isfinite(image).all():
            return 'nan'
        image = to_uint8(image)
    # (3,): each channel on its own, so that a plain red is constant too.
    spread = np.ptp(image.reshape(-1, 3), axis=0).max()
    if spread > _FLAT:
        return None
    return 'black' if image.max() <= _FLAT else 'constant'


def to_uint8(image):
    """Round a float image (H, W, 3) in [0, 1] to uint8; uint8 passes."""
    if image.dtype == np.uint8:
        return image
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def encode_png(image):
    """Encode (H, W, 3) uint8 RGB or (H, W) uint8 as PNG.

    Returns:
        bytes: In memory, because Pillow reports a full disk without saying
        that the disk is full.
    """
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format='PNG', compress_level=4)
    return stream.getvalue()


_SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.webp'}


def list_sources(root):
    """Find the images to restyle.

    Args:
        root (str | Path): Folder of the images, searched through.

    Returns:
        list[tuple[str, str]]: Path below the root, with ``/``, and full path
        of each image; sorted by the first.

    Raises:
        GenerationError: The folder is missing or holds no image.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise GenerationError(f'--source {root}: there is no such folder')
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob('*')
        if p.suffix.lower() in _SUFFIXES and not p.name.startswith('.')
    )
    if not names:
        raise GenerationError(
            f'--source {root} holds no image ({", ".join(sorted(_SUFFIXES))})'
        )
    return [(name, str(root / name)) for name in names]


def digest_sources(sources):
    """Hash names and sizes of source files, which is what can be had fast.

    Args:
        sources (Sequence[tuple[str, str]]): See :func:`list_sources`.
    """
    digest = hashlib.sha256()
    for name, path in sources:
        digest.update(f'{name}\0{Path(path).stat().st_size}\0'.encode())
    return digest.hexdigest()[:16]


def open_source(path):
    """Read an image as RGB, upright as in training.

    Returns:
        PIL.Image.Image: Decoded.

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


def working_size(size, wanted, multiple):
    """Size at which a model sees a source image.

    Args:
        size (tuple[int, int]): Width and height of the source.
        wanted (tuple[int, int] | int): The size itself, or the short edge.
        multiple (int): Both edges are multiples of it.

    Returns:
        tuple[int, int]: Width and height.
    """
    if isinstance(wanted, tuple):
        return wanted
    scale = wanted / min(size)
    return tuple(
        max(multiple, round(edge * scale / multiple) * multiple)
        for edge in size
    )
