"""Which class and which image come next when rare classes come more often.

Source: Hoyer et al., "DAFormer", CVPR 2022, section 3.2, equations 4 to 6,
and the official code's values and order of steps.
"""

import numpy as np

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.seeds import mix_seed


def class_probabilities(pixels, temperature, drawn=None):
    """Turn class frequencies into sampling probabilities.

    ``P(c) = exp((1 - f_c) / T) / sum over c' of exp((1 - f_c') / T)`` with
    ``f_c`` the share of class c among the labelled pixels.

    Args:
        pixels (np.ndarray): (C,) pixels of each class, not negative.
        temperature (float): T, positive. Towards 0 the rarest class alone is
            drawn, towards infinity all classes equally often.
        drawn (np.ndarray, optional): (C,) bool: classes that are drawn.
            Defaults to all; the frequencies are those among all in any case.

    Returns:
        np.ndarray: (C,) float64, sums to one. 0 for classes without pixels
        and those that are not drawn.

    Raises:
        ValueError: ``temperature`` is not positive, or there is no pixel.
    """
    if not temperature > 0:
        raise ValueError(
            f'rare_class.temperature={temperature} must be greater than 0'
        )
    pixels = np.asarray(pixels, np.float64)
    occurs = pixels > 0
    if drawn is not None:
        occurs &= drawn
    if not occurs.any():
        raise ValueError('no class that is drawn has a pixel')
    rarity = (1 - pixels[occurs] / pixels.sum()) / temperature
    # Relative to the greatest: exp of anything above 709 is infinite.
    weights = np.exp(rarity - rarity.max())
    probabilities = np.zeros(len(pixels))
    probabilities[occurs] = weights / weights.sum()
    return probabilities


def images_by_class(counts, min_pixels, classes):
    """List the images that show enough of each class.

    Args:
        counts (np.ndarray): (N, C) pixels of each class in each image.
        min_pixels (int): An image needs more pixels of a class than this.
        classes (Sequence[str]): C names, for the message.

    Returns:
        list[np.ndarray]: For each class the indices of images, ascending;
        empty for classes that never occur.

    Raises:
        DataError: A class occurs, but in no image often enough.
    """
    lists = [np.flatnonzero(column > min_pixels) for column in counts.T]
    most = counts.max(axis=0)
    poor = [c for c in range(len(lists)) if most[c] and not len(lists[c])]
    if poor:
        named = ', '.join(f'{classes[c]} (at most {most[c]})' for c in poor)
        least = min(int(most[c]) for c in poor) - 1
        raise DataError(
            f'rare_class.min_pixels={min_pixels}: no image has more pixels '
            f'than that of {named}.',
            f'Set min_pixels to {least} or less; 3000 suits images of about '
            'two megapixels. Or name the classes that are to be drawn: '
            'rare_class=dict(classes=[...]).',
        )
    return lists


class RareClassStream:
    """An endless stream of pairs of a class and an image that shows it.

    Every place is drawn on its own, so any place is found in constant time.

    Args:
        probabilities (np.ndarray): (C,) of each class.
        images (list[np.ndarray]): Indices of images for each class.
        size (int): Number of images.
        seed (int): Not negative.
    """

    def __init__(self, probabilities, images, *, size, seed):
        # The last bound is 1, which no number drawn reaches.
        self.bounds = np.cumsum(probabilities)
        self.bounds /= self.bounds[-1]
        self.images = images
        self.size = size
        self.seed = seed

    def __getitem__(self, position):
        """The pair at a position: ``class * size + image``."""
        generator = np.random.default_rng(mix_seed(self.seed, position))
        place = generator.random()
        index = int(np.searchsorted(self.bounds, place, side='right'))
        images = self.images[index]
        image = int(images[generator.integers(len(images))])
        return index * self.size + image
