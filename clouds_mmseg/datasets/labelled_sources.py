"""Several labelled sources in one run, each with its share of the samples."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.rare_classes import (
    RareClassDataset,
    images_by_class,
    with_rare_class,
)
from clouds_mmseg.datasets.sampling import ShuffledStream
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import mix_seed

# Samples among which the shares are kept exactly. Their order is random, so
# that no process of a distributed run always draws from the same source.
BLOCK = 1000


@DATASETS.register_module()
class LabelledSources(ConcatDataset):
    """Labelled datasets of which each has a stated share of the samples.

    It takes the place of the source: ``train_dataloader.dataset``, or the
    first group of a :class:`KeyedDataset` in self-training. Which source the
    n-th labelled sample comes from depends on the seed and n alone: it is
    the same in one process and in several, and after a resume. Of any
    thousand samples each source has its share, to within one sample; each
    source is drawn through before one of its images is drawn again.

    Args:
        datasets: Configs or datasets, of equal classes. Their label files may
            have different ids; classes that one of them lacks are learnt from
            the others.
        shares: One for each dataset, at least 0.001, with a sum of 1. None:
            in proportion to their numbers of images.
        rare_class: Draw rare classes of all sources more often: arguments of
            :class:`RareClassDataset`. The frequencies are those of the
            mixture. Each sample still comes from the source that the shares
            say, and shows a class that this source has. Instead, single
            datasets may have the option, with frequencies of their own.
        pipeline: Of all datasets, in place of their own.
        lazy_init: As for mmengine's ``ConcatDataset``.

    Raises:
        UserError: The shares do not fit, or the classes differ.
        DataError: With ``rare_class``: no image has enough pixels of a class.
    """

    def __init__(
        self,
        datasets: Sequence[dict | DGDataset],
        shares: Sequence[float] | None = None,
        rare_class: dict | None = None,
        pipeline: Sequence[dict] | None = None,
        lazy_init: bool = False,
    ):
        if not datasets:
            raise UserError(
                'LabelledSources has no datasets; give datasets=[dict(...)]'
            )
        self._fractions = _check_shares(shares, len(datasets))
        if pipeline is not None:
            if not all(isinstance(dataset, dict) for dataset in datasets):
                raise UserError(
                    'pipeline of LabelledSources replaces those of configs; '
                    'datasets that are built have theirs already'
                )
            datasets = [dict(d, pipeline=pipeline) for d in datasets]
        opened = [
            DATASETS.build(d) if isinstance(d, dict) else d for d in datasets
        ]
        _check_same_classes(opened)
        own = [
            d.domain
            for d in opened
            if getattr(d, 'rare_class', None) is not None
        ]
        if own and rare_class is not None:
            raise UserError(
                'rare_class is given to LabelledSources and to its dataset '
                f'{own[0]}; give it to one of them'
            )
        self.rare_class = rare_class
        super().__init__(opened, lazy_init=lazy_init)

    def full_init(self) -> None:
        """Open the datasets; count their classes if ``rare_class`` is set."""
        if self._fully_initialized:
            return
        for dataset in self.datasets:
            dataset.full_init()
        sizes = [len(dataset) for dataset in self.datasets]
        if self._fractions is None:
            self._fractions = _check_shares(
                [size / sum(sizes) for size in sizes], len(sizes)
            )
        words = [
            f'{float(share):.2%} {dataset.domain} ({size} images)'
            for share, dataset, size in zip(
                self._fractions, self.datasets, sizes, strict=True
            )
        ]
        print_log(f'Labelled sources: {", ".join(words)}', logger='current')
        if self.rare_class is None:
            self.datasets = [with_rare_class(d) for d in self.datasets]
        else:
            self.datasets = self._draw_rare_classes(self.rare_class)
        super().full_init()

    @property
    def shares(self) -> list[float]:
        """Share of each source; known once the datasets are opened."""
        return [float(share) for share in self._fractions or ()]

    def _draw_rare_classes(self, options):
        """Wrap the datasets; classes are as rare as in the mixture."""
        wrapped = [RareClassDataset(d, **options) for d in self.datasets]
        counts = [dataset.count_pixels() for dataset in wrapped]
        # Refuses a class of which no source shows enough.
        first = wrapped[0]
        images_by_class(
            np.concatenate(counts) * first.drawn(),
            first.min_pixels,
            first.metainfo['classes'],
        )
        frequencies = sum(
            share * count.sum(axis=0) / count.sum()
            for share, count in zip(self.shares, counts, strict=True)
        )
        for dataset, count in zip(wrapped, counts, strict=True):
            dataset.draw_by(count, frequencies, may_lack=True)
        return wrapped

    def stream(self, seed: int) -> 'SharedStream':
        """Return the order in which samples are drawn.

        Args:
            seed: Not negative.

        Returns:
            Position -> index.
        """
        streams: list[Any] = []
        for number, dataset in enumerate(self.datasets):
            own = mix_seed(seed, number)
            streams.append(
                dataset.stream(own)
                if isinstance(dataset, RareClassDataset)
                else ShuffledStream(len(dataset), own)
            )
        assert self._fractions is not None
        return SharedStream(
            streams,
            first=[0, *self.cumulative_sizes[:-1]],
            shares=self._fractions,
            seed=seed,
        )


class SharedStream:
    """Infinite sequence of indices into datasets that have shares.

    Args:
        streams: Of each dataset: position -> index.
        first: Index of the first sample of each dataset.
        shares: Of each dataset, with a sum of 1, each at least 1 / BLOCK.
        seed: Not negative.
    """

    def __init__(
        self,
        streams: Sequence[Any],
        *,
        first: Sequence[int],
        shares: Sequence[Fraction],
        seed: int,
    ):
        self.streams = list(streams)
        self.first = list(first)
        self.bounds = [Fraction(0), *accumulate(shares)]
        self.seed = seed
        self._block: int | None = None
        self._order = np.empty(0, np.int64)
        self._numbers = np.empty(0, np.int64)

    def source_of(self, position: int) -> tuple[int, int]:
        """Return the dataset at a position, and how many of it came before."""
        block, offset = divmod(position, BLOCK)
        if block != self._block:
            self._fill(block)
        return int(self._order[offset]), int(self._numbers[offset])

    def __getitem__(self, position: int) -> int:
        """Return the index at a position, in time independent of it."""
        source, number = self.source_of(position)
        return self.first[source] + self.streams[source][number]

    def _taken(self, block):
        """Return how many samples each dataset has before a block."""
        bounds = [block * BLOCK * bound // 1 for bound in self.bounds]
        return np.diff(np.array(bounds, np.int64))

    def _fill(self, block):
        before = self._taken(block)
        counts = self._taken(block + 1) - before
        generator = np.random.default_rng(mix_seed(self.seed, block))
        order = np.repeat(np.arange(len(counts)), counts)
        self._order = generator.permutation(order)
        self._numbers = np.empty(BLOCK, np.int64)
        for source, taken in enumerate(before):
            here = self._order == source
            self._numbers[here] = taken + np.arange(counts[source])
        self._block = block


def _check_shares(shares, count):
    """Return the shares as fractions with a sum of exactly 1."""
    if shares is None:
        return None
    shares = list(shares)
    if len(shares) != count:
        raise UserError(
            f'LabelledSources has {count} datasets and {len(shares)} shares: '
            'give one for each, in their order'
        )
    for share in shares:
        if (
            isinstance(share, bool)
            or not isinstance(share, (int, float))
            or not 1 / BLOCK <= share <= 1
        ):
            raise UserError(
                f'shares of LabelledSources must lie in [{1 / BLOCK}, 1], '
                f'got {share!r}; leave a dataset out that is not to be drawn'
            )
    total = sum(shares)
    if abs(total - 1) > 1e-3:
        divided = ', '.join(f'{share / total:.3g}' for share in shares)
        raise UserError(
            f'shares of LabelledSources must have the sum 1, got {shares}, '
            f'whose sum is {total:g}; in this proportion: [{divided}]'
        )
    # Exact: floating-point error would move samples between sources.
    exact = [Fraction(share).limit_denominator(10**6) for share in shares]
    return [share / sum(exact) for share in exact]


def _check_same_classes(datasets):
    first = list(datasets[0].metainfo['classes'])
    for dataset in datasets[1:]:
        classes = list(dataset.metainfo['classes'])
        if classes != first:
            raise UserError(
                'the sources of LabelledSources must have the same classes '
                f'in the same order: {dataset.domain} has {classes}, '
                f'{datasets[0].domain} has {first}. Give all the same '
                'metainfo=dict(classes=...); label_map of a FolderDataset '
                'says which names in its files are which class'
            )
