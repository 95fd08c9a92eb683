"""Rare-class sampling of a labelled source."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.class_statistics import class_pixels
from clouds_mmseg.datasets.transforms import LoadSegImage, LoadSegLabels
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.hashing import mix_seed


@DATASETS.register_module()
class RareClassDataset:
    """Pairs of a class and an image that shows it, for :class:`KeyedDataset`.

    Sample ``c * N + i`` is image i of N, cropped repeatedly until the crop
    shows enough of class c. :meth:`stream` is the order in which pairs are
    drawn. In a config it is an option of the source:
    ``rare_class=dict(temperature=0.01)``.

    The class statistics are stored beside the data, see :func:`class_pixels`.

    Args:
        dataset: With labels, or its config.
        temperature: Of :func:`class_probabilities`. The official value 0.01
            draws GTA5's rarest classes about equally often and the common ones
            hardly ever.
        min_pixels: Images with no more pixels of a class than this are not
            drawn for it. The official value suits two megapixels.
        min_crop_ratio: A crop must show more pixels of the class than
            ``min_pixels`` times this. 0 accepts the first crop.
        tries: Maximum number of crops; the last one is accepted in any case.
        classes: Names of the classes to draw. Defaults to all that occur.

    Raises:
        UserError: An option is out of its range.
        DataError: There are no labels, or ``min_pixels`` leaves a class
            without image.

    Source: Hoyer et al., "DAFormer", CVPR 2022, section 3.2; the defaults
    and the ten tries are the official code's.
    """

    def __init__(
        self,
        dataset: DGDataset | dict,
        *,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        min_crop_ratio: float = 0.5,
        tries: int = 10,
        classes: Sequence[str] | None = None,
    ):
        if not temperature > 0:
            raise UserError(
                f'rare_class.temperature={temperature} must be greater than 0'
            )
        if min_pixels < 0 or min_crop_ratio < 0:
            raise UserError(
                f'rare_class.min_pixels={min_pixels} and min_crop_ratio='
                f'{min_crop_ratio} must not be negative'
            )
        if tries < 1:
            raise UserError(f'rare_class.tries={tries} must be at least 1')
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        names = list(dataset.metainfo['classes'])
        unknown = [name for name in classes or () if name not in names]
        if unknown:
            raise UserError(
                f'rare_class.classes names {unknown[0]!r}, which is none of '
                f'the classes: {", ".join(names)}'
            )
        self.dataset = dataset
        self.temperature = temperature
        self.min_pixels = min_pixels
        self.min_crop_ratio = min_crop_ratio
        self.tries = tries
        self.classes = names if classes is None else list(classes)
        self._fully_initialized = False

    @property
    def metainfo(self) -> dict:
        """Of the dataset."""
        return self.dataset.metainfo

    @property
    def domain(self) -> str:
        """Of the dataset."""
        return str(self.dataset.domain)

    def drawn(self) -> np.ndarray:
        """Return (C,) bool: the classes that are to be drawn."""
        return np.isin(list(self.metainfo['classes']), self.classes)

    def full_init(self) -> None:
        """Open the dataset and count its classes, once."""
        if not self._fully_initialized:
            counts = self.count_pixels()
            self.draw_by(counts, counts.sum(axis=0))

    def count_pixels(self) -> np.ndarray:
        """Open the dataset and count its classes.

        Returns:
            (N, C) pixels of each class in each image.

        Raises:
            DataError: There are no labels, or none of a class that is drawn.
        """
        self.dataset.full_init()
        if 'seg_map_path' not in self.dataset.get_data_info(0):
            raise DataError(
                f'rare_class of {type(self.dataset).__name__} (domain '
                f'{self.dataset.domain}) needs labels, and this dataset has '
                'none.'
            )
        # Counted once, and the same in every process.
        shared: list[Any] = [None]
        if is_main_process():
            shared[0] = class_pixels(self.dataset)
        broadcast_object_list(shared)
        counts = shared[0]
        if not counts[:, self.drawn()].any():
            raise DataError(
                f'rare_class: none of {", ".join(self.classes)} occurs in '
                f'the labels below {self.dataset.files_root}.'
            )
        return counts

    def draw_by(
        self,
        counts: np.ndarray,
        frequencies: np.ndarray,
        *,
        may_lack: bool = False,
    ) -> None:
        """Set the probabilities of classes and the images of each.

        Args:
            counts: (N, C), of :meth:`count_pixels`.
            frequencies: (C,) how frequent the classes are, of any sum.
            may_lack: Whether a class may have no image with enough pixels:
                it is then not drawn from this dataset.

        Raises:
            DataError: A class has no image with enough pixels.
        """
        names = list(self.metainfo['classes'])
        drawn = self.drawn()
        counts = counts * drawn
        if may_lack:
            drawn = drawn & (counts > self.min_pixels).any(axis=0)
            counts = counts * drawn
            if not drawn.any():
                raise DataError(
                    f'rare_class.min_pixels={self.min_pixels}: no image of '
                    f'{self.dataset.domain} has more pixels than that of '
                    'any class; set it lower.'
                )
        self.probabilities = class_probabilities(
            frequencies, self.temperature, drawn
        )
        self.images = images_by_class(counts, self.min_pixels, names)
        self._fully_initialized = True
        self._log_probabilities(names)

    def _log_probabilities(self, names):
        order = self.probabilities.argsort()[::-1]
        words = [
            f'{names[c]} {self.probabilities[c]:.3f} '
            f'({len(self.images[c])} images)'
            for c in order
            if self.probabilities[c] >= 0.0005
        ]
        print_log(
            f'Rare-class sampling of {self.dataset.domain}: '
            + ', '.join(words),
            logger='current',
        )

    def stream(self, seed: int) -> 'RareClassStream':
        """Return the order in which pairs are drawn.

        Args:
            seed: Not negative.

        Returns:
            Position -> index of a pair.
        """
        return RareClassStream(
            self.probabilities, self.images, size=len(self.dataset), seed=seed
        )

    def __len__(self) -> int:
        """Number of pairs, of all classes with all images."""
        return len(self.metainfo['classes']) * len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        """Load a pair.

        Args:
            index: ``class * len(dataset) + image``.

        Returns:
            Output of the pipeline of the dataset.
        """
        class_index, image = divmod(index, len(self.dataset))
        steps = list(self.dataset.pipeline.transforms)
        results = self.dataset.get_data_info(image)
        # The files are read once for all crops.
        while steps and isinstance(steps[0], (LoadSegImage, LoadSegLabels)):
            results = steps.pop(0)(results)
        for _ in range(self.tries):
            sample = copy.deepcopy(results)
            for step in steps:
                sample = step(sample)
            label = sample['data_samples'].gt_sem_seg.data
            shown = int((label == class_index).sum())
            if shown > self.min_pixels * self.min_crop_ratio:
                break
        return sample


def with_rare_class(dataset: Any) -> Any:
    """Return a dataset, wrapped if its ``rare_class`` is set."""
    options = getattr(dataset, 'rare_class', None)
    # Of a mixture of datasets the option is its own.
    if options is None or not isinstance(dataset, DGDataset):
        return dataset
    return RareClassDataset(dataset, **options)


class RareClassStream:
    """Infinite sequence of pairs of a class and an image that shows it.

    Each position is drawn independently, so access takes constant time.

    Args:
        probabilities: (C,) of each class.
        images: Indices of images for each class.
        size: Number of images.
        seed: Not negative.
    """

    def __init__(
        self,
        probabilities: np.ndarray,
        images: list[np.ndarray],
        *,
        size: int,
        seed: int,
    ):
        # The last bound is 1, which a random number never reaches.
        self.bounds = np.cumsum(probabilities)
        self.bounds /= self.bounds[-1]
        self.images = images
        self.size = size
        self.seed = seed

    def __getitem__(self, position: int) -> int:
        """Return the pair at a position: ``class * size + image``."""
        generator = np.random.default_rng(mix_seed(self.seed, position))
        value = generator.random()
        index = int(np.searchsorted(self.bounds, value, side='right'))
        images = self.images[index]
        image = int(images[generator.integers(len(images))])
        return index * self.size + image


def class_probabilities(
    pixels: np.ndarray, temperature: float, drawn: np.ndarray | None = None
) -> np.ndarray:
    """Compute sampling probabilities from class frequencies.

    ``P(c) = exp((1 - f_c) / T) / sum over c' of exp((1 - f_c') / T)`` with
    ``f_c`` the share of class c among the labelled pixels.

    Args:
        pixels: (C,) pixels of each class, not negative.
        temperature: T, positive. Towards 0 the rarest class alone is drawn,
            towards infinity all classes equally often.
        drawn: (C,) bool: classes to draw. Defaults to all; the frequencies are
            those among all in any case.

    Returns:
        (C,) float64, sums to one. 0 for classes without pixels and those that
        are not drawn.

    Raises:
        UserError: ``temperature`` is not positive, or there is no pixel.
    """
    if not temperature > 0:
        raise UserError(
            f'rare_class.temperature={temperature} must be greater than 0'
        )
    pixels = np.asarray(pixels, np.float64)
    occurs = pixels > 0
    if drawn is not None:
        occurs &= drawn
    if not occurs.any():
        raise UserError('no class that is drawn has a pixel')
    rarity = (1 - pixels[occurs] / pixels.sum()) / temperature
    # Relative to the maximum: exp overflows above 709.
    weights = np.exp(rarity - rarity.max())
    probabilities = np.zeros(len(pixels))
    probabilities[occurs] = weights / weights.sum()
    return probabilities


def images_by_class(
    counts: np.ndarray, min_pixels: int, classes: Sequence[str]
) -> list[np.ndarray]:
    """List the images with enough pixels of each class.

    Args:
        counts: (N, C) pixels of each class in each image.
        min_pixels: An image needs more pixels of a class than this.
        classes: C names, for the message.

    Returns:
        For each class the indices of images, ascending; empty for classes that
        never occur.

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
