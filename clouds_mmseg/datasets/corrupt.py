"""Corrupting one image, the same way each time."""

import hashlib
import importlib
import inspect
import io
from contextlib import redirect_stdout
from functools import cache

import numpy as np

from clouds_mmseg.utils.corruptions import check_choice
from clouds_mmseg.utils.errors import UserError

LIBRARY = 'imagecorruptions-imaug'
# What the library asks for.
_LEAST_SIDE = 32


def image_seed(name, corruption, severity, seed=0):
    """Derive the seed of one corrupted image.

    It depends on nothing but the arguments: neither on the order in which
    images are made, nor on how many processes make them.

    Args:
        name (str): File name of the image, without its folder and suffix.
        corruption (str): Name of the corruption.
        severity (int): 1..5.
        seed (int): Of the whole set.

    Returns:
        int: In 0..2**32 - 1.
    """
    text = f'{seed}/{corruption}/{severity}/{name}'
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big')


def corrupt_image(image, corruption, severity, *, seed):
    """Corrupt an image as the published benchmarks do.

    The corruptions and their strengths are those of the
    ``imagecorruptions`` package. The same seed gives the same image; the
    state of numpy's random numbers is left as it was.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB, both sides 32 or more.
        corruption (str): A name of
            :data:`clouds_mmseg.utils.corruptions.CORRUPTIONS`.
        severity (int): 1..5.
        seed (int): In 0..2**32 - 1.

    Returns:
        np.ndarray: (H, W, 3) uint8 RGB.

    Raises:
        UserError: The name or severity is unknown, the image is too small,
            or the package is not installed.
    """
    check_choice([corruption], [severity])
    if min(image.shape[:2]) < _LEAST_SIDE:
        raise UserError(
            f'an image of {image.shape[1]}x{image.shape[0]} pixels is too '
            f'small to corrupt: both sides must be {_LEAST_SIDE} or more'
        )
    library = load_library()
    # Two of the functions do not draw from numpy's global generator.
    function = library.corruption_dict[corruption]
    takes_seed = 'seed' in inspect.signature(function).parameters
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        # The library prints what it makes good itself.
        with redirect_stdout(io.StringIO()):
            return library.corrupt(
                image,
                severity=severity,
                corruption_name=corruption,
                **(dict(seed=seed) if takes_seed else {}),
            )
    finally:
        np.random.set_state(state)


@cache
def load_library():
    """Import the package that corrupts images.

    Returns:
        module: ``imagecorruptions``.

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
        # The older package fails in several ways, by what is installed.
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
