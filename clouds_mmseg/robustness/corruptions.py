"""Reproducible common corruptions of images."""

import hashlib
import importlib
import inspect
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from clouds_mmseg.utils.errors import UserError

CATEGORIES = dict(
    noise=('gaussian_noise', 'shot_noise', 'impulse_noise'),
    blur=('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    weather=('snow', 'frost', 'fog', 'brightness'),
    digital=(
        'contrast',
        'elastic_transform',
        'pixelate',
        'jpeg_compression',
    ),
)
CORRUPTIONS = tuple(name for names in CATEGORIES.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)
# Domain of the uncorrupted images.
CLEAN = 'clean'
LIBRARY = 'imagecorruptions-imaug'
# Minimum side of an image, set by the library.
_MIN_SIDE = 32


@TRANSFORMS.register_module()
class CorruptImage(BaseTransform):
    """Apply a common corruption, deterministically.

    The random numbers depend on the name of the file and the arguments only,
    so that the images equal those that ``tools/make_corruptions.py`` writes
    with the same seed. Placed after ``LoadSegImage``. Not for training: the
    benchmark measures robustness to unseen corruptions.

    Args:
        corruption: A name of
            :data:`clouds_mmseg.robustness.corruptions.CORRUPTIONS`.
        severity: 1..5.
        seed: Of the whole set.

    Raises:
        UserError: The name or severity is unknown, or the package that
            corrupts is not installed.
    """

    def __init__(self, corruption: str, severity: int, seed: int = 0):
        check_choice([corruption], [severity])
        load_library()
        self.corruption = corruption
        self.severity = severity
        self.seed = seed

    def transform(self, results: dict) -> dict:
        """Replace ``img`` ((H, W, 3) uint8, BGR).

        Raises:
            UserError: The image is too small.
        """
        name = Path(results['img_path']).stem
        corrupted = corrupt_image(
            np.ascontiguousarray(results['img'][..., ::-1]),
            self.corruption,
            self.severity,
            seed=image_seed(name, self.corruption, self.severity, self.seed),
        )
        results['img'] = np.ascontiguousarray(corrupted[..., ::-1])
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}({self.corruption!r}, {self.severity}, '
            f'seed={self.seed})'
        )


def corrupt_image(
    image: np.ndarray, corruption: str, severity: int, *, seed: int
) -> np.ndarray:
    """Corrupt an image as the published benchmarks do.

    The corruptions and their strengths are those of the ``imagecorruptions``
    package. The same seed gives the same image; the state of numpy's global
    generator is restored.

    Args:
        image: (H, W, 3) uint8 RGB, both sides 32 or more.
        corruption: A name of
            :data:`clouds_mmseg.robustness.corruptions.CORRUPTIONS`.
        severity: 1..5.
        seed: In 0..2**32 - 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: The name or severity is unknown, the image is too small, or
            the package is not installed.
    """
    check_choice([corruption], [severity])
    if min(image.shape[:2]) < _MIN_SIDE:
        raise UserError(
            f'an image of {image.shape[1]}x{image.shape[0]} pixels is too '
            f'small to corrupt: both sides must be {_MIN_SIDE} or more'
        )
    library = load_library()
    # Two of the functions do not draw from numpy's global generator.
    function = library.corruption_dict[corruption]
    takes_seed = 'seed' in inspect.signature(function).parameters
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        # The library prints about problems that it handles itself.
        with redirect_stdout(io.StringIO()):
            return library.corrupt(
                image,
                severity=severity,
                corruption_name=corruption,
                **(dict(seed=seed) if takes_seed else {}),
            )
    finally:
        np.random.set_state(state)


def image_seed(
    name: str, corruption: str, severity: int, seed: int = 0
) -> int:
    """Derive the seed of one corrupted image.

    It depends on the arguments only, not on the order of the images nor on the
    number of processes.

    Args:
        name: File name of the image, without folder and suffix.
        corruption: Name of the corruption.
        severity: 1..5.
        seed: Of the whole set.

    Returns:
        In 0..2**32 - 1.
    """
    text = f'{seed}/{corruption}/{severity}/{name}'
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big')


@cache
def load_library() -> ModuleType:
    """Import the ``imagecorruptions`` package.

    Raises:
        UserError: It is not installed, or too old to be seeded.
    """
    advice = (
        'install it with: pip install "clouds_mmseg[robustness]" (the '
        f'package {LIBRARY}; the older imagecorruptions does not run on '
        'NumPy 2)'
    )
    try:
        library = importlib.import_module('imagecorruptions')
    except Exception as error:
        # The older package fails in several ways, depending on what is
        # installed.
        raise UserError(
            f'corruptions need {LIBRARY}, which cannot be imported '
            f'({type(error).__name__}: {error}); {advice}'
        ) from error
    for name in ('impulse_noise', 'glass_blur'):
        function = library.corruption_dict[name]
        if 'seed' not in inspect.signature(function).parameters:
            raise UserError(
                f'the installed imagecorruptions is not {LIBRARY}: its '
                f'{name} takes no seed; {advice}'
            )
    return library


def check_choice(
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Check names and severities, and sort them in the canonical order.

    Args:
        corruptions: Names of corruptions or of categories. Defaults to all.
        severities: In 1..5. Defaults to all.

    Returns:
        Unique corruptions and severities.

    Raises:
        UserError: A name is unknown or a severity out of its range.
    """
    if corruptions is None:
        corruptions = CORRUPTIONS
    if severities is None:
        severities = SEVERITIES
    known = (*CATEGORIES, *CORRUPTIONS)
    if unknown := [name for name in corruptions if name not in known]:
        raise UserError(
            f'unknown corruptions: {", ".join(map(str, unknown))}; there are: '
            + ', '.join(CORRUPTIONS)
            + '; and the categories: '
            + ', '.join(CATEGORIES)
        )
    if wrong := [s for s in severities if s not in SEVERITIES]:
        raise UserError(
            f'severities must be integers in 1..5, got {wrong}: '
            '1 is the weakest'
        )
    if not corruptions or not severities:
        raise UserError('name at least one corruption and one severity')
    selected = {n for c in corruptions for n in CATEGORIES.get(c, (c,))}
    return (
        tuple(name for name in CORRUPTIONS if name in selected),
        tuple(s for s in SEVERITIES if s in severities),
    )


def domain_of(corruption: str, severity: int) -> str:
    """Name the domain of a corruption: ``fog``, 3 -> ``fog_3``."""
    return f'{corruption}_{severity}'


def split_domain(domain: str) -> tuple[str, int] | None:
    """Split the name of a domain: ``fog_3`` -> ``('fog', 3)``.

    Args:
        domain: See :func:`domain_of`.

    Returns:
        None if it is not such a name.
    """
    corruption, _, severity = domain.rpartition('_')
    if corruption in CORRUPTIONS and severity in map(str, SEVERITIES):
        return corruption, int(severity)
    return None
