"""Samples as a function of their place in training, not of a worker's luck.

mmengine seeds its loader workers once; what a transform draws then depends
on how many samples that worker has seen since the process began, and a
resumed run draws otherwise. Here the sampler hands out keys that name the
position in the training stream, and each sample is drawn under a seed made
from its key: the same batch comes out whatever was loaded before it, by
however many workers.
"""

from mmengine.dataset import ConcatDataset
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.rare_class_dataset import RareClassDataset
from clouds_mmseg.datasets.seeds import mix_seed, seed_everything


@DATASETS.register_module()
class KeyedDataset(ConcatDataset):
    """Groups of samples that are looked up by key.

    A key is ``position * len(dataset) + index``: which sample, and at which
    place of the training stream.

    Args:
        datasets (list): Configs or datasets, one a group: the labelled
            source first, then the generated images, if any. One whose
            ``rare_class`` is set becomes a :class:`RareClassDataset`.
        seed (int): Of the run.
        **kwargs: As for mmengine's ``ConcatDataset``.
    """

    def __init__(self, datasets, seed=0, **kwargs):
        super().__init__(datasets, **kwargs)
        self.seed = seed

    def full_init(self):
        """Open the groups, with class statistics where they are needed."""
        if not self._fully_initialized:
            self.datasets = [self._with_rare_class(d) for d in self.datasets]
        super().full_init()

    @staticmethod
    def _with_rare_class(dataset):
        options = getattr(dataset, 'rare_class', None)
        if options is None or isinstance(dataset, RareClassDataset):
            return dataset
        return RareClassDataset(dataset, **options)

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
