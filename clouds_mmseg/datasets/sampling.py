"""Deterministic sampling: batches as functions of seed and iteration."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from mmengine.dataset import ConcatDataset, pseudo_collate
from mmengine.dist import get_dist_info
from mmengine.registry import FUNCTIONS
from mmseg.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Sampler

from clouds_mmseg.datasets.rare_classes import with_rare_class
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import mix_seed, seed_everything

# Key of a place in a batch that stays empty.
EMPTY = -1


@FUNCTIONS.register_module()
def collate_present(batch: list) -> dict:
    """Collate as ``pseudo_collate``, without the empty places."""
    return pseudo_collate([sample for sample in batch if sample is not None])


@DATASETS.register_module()
class KeyedDataset(ConcatDataset):
    """Deterministic concatenation of groups of samples.

    Samples are looked up by a key, ``position * len(dataset) + index``: index
    of the sample and its position in the training stream. Seed and key seed
    the random numbers of the pipeline, so that a sample does not depend on the
    worker that loads it, nor on the samples before it.

    Args:
        datasets: Configs or datasets, one a group: the labelled source first,
            then the generated images, if any. One whose ``rare_class`` is set
            becomes a :class:`RareClassDataset`. Several labelled sources are
            one group: :class:`~.labelled_sources.LabelledSources`.
        seed: Of the run.
        **kwargs: As for mmengine's ``ConcatDataset``.
    """

    def __init__(self, datasets: list, seed: int = 0, **kwargs: Any):
        super().__init__(datasets, **kwargs)
        self.seed = seed

    def full_init(self) -> None:
        """Open the groups, with rare-class sampling where configured."""
        if not self._fully_initialized:
            self.datasets = [with_rare_class(d) for d in self.datasets]
        super().full_init()

    @property
    def group_sizes(self) -> list[int]:
        """Number of samples of each group."""
        return [len(dataset) for dataset in self.datasets]

    def __getitem__(self, key: int) -> dict | None:
        """Load the sample of a key.

        Args:
            key: As :class:`KeyedSampler` yields them.

        Returns:
            Output of the pipeline of the sample's dataset; None for
            ``EMPTY``.
        """
        if key == EMPTY:
            return None
        seed_everything(mix_seed(self.seed, key))
        return super().__getitem__(key % len(self))


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """Deterministic batches of source and generated samples in a fixed ratio.

    Before ``warmup_iters`` all samples of a batch come from the first group.
    From then on ``generated_share`` of them come from the second: of B samples
    an iteration has floor or ceil of ``B * generated_share``, such that after
    any number of iterations the share is kept to within one sample. The
    processes of a distributed run take turns within a batch, so that each has
    its part of both groups.

    With ``generated_beside``, a batch has so many generated samples in
    addition to the labelled ones. Before ``warmup_iters`` their places stay
    empty (``collate_present`` drops them), so that the source-only training is
    that of a run without them, sample for sample.

    Args:
        dataset: With one group, or two if there are generated samples.
        batch_size: Samples an iteration in this process, empty places
            included.
        seed: Of the run; the same in every process.
        warmup_iters: Iterations on the first group alone.
        generated_share: In [0, 1).
        generated_beside: Generated samples in addition, in this process.

    Raises:
        UserError: There is no second group to take generated samples from, or
            an argument is out of range.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        *,
        batch_size: int,
        seed: int = 0,
        warmup_iters: int = 0,
        generated_share: float = 0.0,
        generated_beside: int = 0,
    ):
        if not 0 <= generated_share < 1:
            raise UserError(
                f'generated_share must lie in [0, 1), got {generated_share}'
            )
        if not 0 <= generated_beside < batch_size or (
            generated_share and generated_beside
        ):
            raise UserError(
                'generated_beside must lie in [0, batch_size) and excludes '
                f'generated_share, got {generated_beside} with '
                f'batch_size={batch_size}, generated_share={generated_share}'
            )
        sizes = dataset.group_sizes
        if (generated_share or generated_beside) and len(sizes) != 2:
            raise UserError(
                'generated samples need a dataset of two groups, source and '
                f'generated; this one has {len(sizes)}'
            )
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.batch_size = batch_size
        self.beside = generated_beside
        self.warmup_iters = warmup_iters
        # Exact: floating-point error would move samples between batches.
        self.share = Fraction(generated_share).limit_denominator(10**6)
        self._streams = [
            _stream(group, mix_seed(seed, number))
            for number, group in enumerate(dataset.datasets)
        ]
        self._start = 0

    def batch_keys(self, iteration: int) -> list[int]:
        """Return the keys of all processes' samples in one iteration.

        Args:
            iteration: Counted from 0.

        Returns:
            ``batch_size * world_size`` keys, source first.
        """
        since = max(iteration - self.warmup_iters, 0)
        mixed = iteration >= self.warmup_iters
        # Places for labelled samples, of which generated ones take their
        # share, and for those beside.
        total = (self.batch_size - self.beside) * self.world_size
        beside = self.beside * self.world_size
        taken = int(since * total * self.share)
        count = int((since + 1) * total * self.share) - taken
        count = count if mixed else 0
        source = iteration * total - taken
        generated = taken + since * beside
        indices = [self._streams[0][source + i] for i in range(total - count)]
        if mixed:
            indices += [
                len(self.dataset.datasets[0]) + self._streams[1][generated + i]
                for i in range(count + beside)
            ]
        first = iteration * total + since * beside
        keys = [
            (first + position) * len(self.dataset) + index
            for position, index in enumerate(indices)
        ]
        return keys + [EMPTY] * (total + beside - len(keys))

    def least_labelled(self) -> int:
        """Return how few labelled samples the batch of an iteration has.

        Returns:
            Over all processes.
        """
        total = (self.batch_size - self.beside) * self.world_size
        return total - math.ceil(total * self.share)

    def skip(self, num_samples: int) -> None:
        """Start at a later iteration; the training loop calls it on resume.

        Args:
            num_samples: Samples that this process has used already, whole
                batches.
        """
        self._start = num_samples // self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield this process's keys, endlessly."""
        iteration = self._start
        while True:
            yield from self.batch_keys(iteration)[self.rank :: self.world_size]
            iteration += 1

    def __len__(self) -> int:
        """Number of samples of the dataset."""
        return len(self.dataset)


def _stream(group, seed):
    """Return the order in which the samples of a group are drawn."""
    if hasattr(group, 'stream'):
        return group.stream(seed)
    return ShuffledStream(len(group), seed)


class ShuffledStream:
    """Infinite sequence of indices: one random permutation after another.

    Args:
        size: Number of samples, at least 1.
        seed: Not negative.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.seed = seed
        self._epoch: int | None = None
        self._order = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        """Return the index at a position, in time independent of it."""
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = np.random.default_rng(mix_seed(self.seed, epoch))
            self._order = generator.permutation(self.size)
            self._epoch = epoch
        return int(self._order[offset])
