"""Which samples make up which batch: a function of the iteration alone."""

from fractions import Fraction

import numpy as np
from mmengine.dist import get_dist_info
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from clouds_mmseg.datasets.rare_class_dataset import RareClassDataset
from clouds_mmseg.datasets.seeds import mix_seed


class ShuffledStream:
    """An endless stream of indices: one permutation after another.

    Args:
        size (int): Number of samples, at least 1.
        seed (int): Not negative.
    """

    def __init__(self, size, seed):
        self.size = size
        self.seed = seed
        self._epoch = None
        self._order = None

    def __getitem__(self, position):
        """The index at a position of the stream, found in constant time."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            generator = np.random.default_rng(mix_seed(self.seed, epoch))
            self._order = generator.permutation(self.size)
            self._epoch = epoch
        return int(self._order[place])


def _stream(group, seed):
    """The order in which the samples of a group come."""
    if isinstance(group, RareClassDataset):
        return group.stream(seed)
    return ShuffledStream(len(group), seed)


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """Batches of source and generated samples in a stated proportion.

    Before ``warmup_iters`` all samples of a batch come from the first group.
    From then on ``generated_share`` of them come from the second: of B
    samples an iteration has floor or ceil of ``B * generated_share``, such
    that after any number of iterations the share is kept to within one
    sample. The processes of a distributed run take turns within a batch, so
    that each has its part of both groups.

    Args:
        dataset (KeyedDataset): With one group, or two if
            ``generated_share`` is given.
        batch_size (int): Samples an iteration in this process.
        seed (int): Of the run; the same in every process.
        warmup_iters (int): Iterations on the first group alone.
        generated_share (float): In [0, 1).

    Raises:
        ValueError: There is no second group to take generated samples
            from, or the share is out of range.
    """

    def __init__(
        self,
        dataset,
        *,
        batch_size,
        seed=0,
        warmup_iters=0,
        generated_share=0.0,
    ):
        if not 0 <= generated_share < 1:
            raise ValueError(
                f'generated_share must lie in [0, 1), got {generated_share}'
            )
        sizes = dataset.group_sizes
        if generated_share and len(sizes) != 2:
            raise ValueError(
                f'generated_share={generated_share} needs a dataset of two '
                f'groups, source and generated; this one has {len(sizes)}'
            )
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.batch_size = batch_size
        self.warmup_iters = warmup_iters
        # Exact: floating-point error would move samples between batches.
        self.share = Fraction(generated_share).limit_denominator(10**6)
        self._streams = [
            _stream(group, mix_seed(seed, number))
            for number, group in enumerate(dataset.datasets)
        ]
        self._start = 0

    def batch_keys(self, iteration):
        """The keys of all processes' samples in one iteration.

        Args:
            iteration (int): Counted from 0.

        Returns:
            list[int]: ``batch_size * world_size`` keys, source first.
        """
        total = self.batch_size * self.world_size
        since = max(iteration - self.warmup_iters, 0)
        mixed = iteration >= self.warmup_iters
        generated = int(since * total * self.share)
        count = int((since + 1) * total * self.share) - generated
        count = count if mixed else 0
        source = iteration * total - generated
        indices = [
            self._streams[0][source + i] for i in range(total - count)
        ] + [
            len(self.dataset.datasets[0]) + self._streams[1][generated + i]
            for i in range(count)
        ]
        return [
            (iteration * total + place) * len(self.dataset) + index
            for place, index in enumerate(indices)
        ]

    def skip(self, num_samples):
        """Begin at a later iteration; mmengine's loop calls it on resume.

        Args:
            num_samples (int): Samples that this process has used already,
                whole batches.
        """
        self._start = num_samples // self.batch_size

    def __iter__(self):
        """Yield this process's keys, endlessly."""
        iteration = self._start
        while True:
            yield from self.batch_keys(iteration)[self.rank :: self.world_size]
            iteration += 1

    def __len__(self):
        """Number of samples of the dataset."""
        return len(self.dataset)
