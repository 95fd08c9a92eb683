"""Samples as a function of their place in training, not of a worker's luck.

mmengine seeds its loader workers once; what a transform draws then depends
on how many samples that worker has seen since the process began, and a
resumed run draws otherwise. Here the sampler hands out keys that name the
position in the training stream, and each sample is drawn under a seed made
from its key: the same batch comes out whatever was loaded before it, by
however many workers.
"""

import random

import numpy as np
import torch
from mmengine.dataset import ConcatDataset
from mmseg.registry import DATASETS


def mix_seed(*numbers):
    """Make one seed of several numbers, all of which matter.

    Args:
        *numbers (int): Not negative.

    Returns:
        int: In [0, 2**32).
    """
    # SeedSequence ignores trailing zeros: the length keeps (1,) from (1, 0).
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1)[0])


def seed_everything(seed):
    """Seed what transforms and models draw from, in this process.

    Args:
        seed (int): In [0, 2**32).
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@DATASETS.register_module()
class KeyedDataset(ConcatDataset):
    """Groups of samples that are looked up by key.

    A key is ``position * len(dataset) + index``: which sample, and at which
    place of the training stream.

    Args:
        datasets (list): Configs or datasets, one a group: the labelled
            source first, then the generated images, if any.
        seed (int): Of the run.
        **kwargs: As for mmengine's ``ConcatDataset``.
    """

    def __init__(self, datasets, seed=0, **kwargs):
        super().__init__(datasets, **kwargs)
        self.seed = seed

    @property
    def group_sizes(self):
        """list[int]: Number of samples of each group."""
        return [len(dataset) for dataset in self.datasets]

    def __getitem__(self, key):
        """Load the sample of a key.

        Args:
            key (int): As :class:`KeyedSampler` yields them.

        Returns:
            dict: What the pipeline of the sample's dataset returns.
        """
        seed_everything(mix_seed(self.seed, key))
        return super().__getitem__(key % len(self))
