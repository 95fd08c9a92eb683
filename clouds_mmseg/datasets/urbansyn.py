"""UrbanSyn."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset


@DATASETS.register_module()
class UrbanSynDataset(DGDataset):
    """UrbanSyn: 7,539 rendered images, 2048x1024.

    Layout: ``rgb/rgb_0001.png`` and ``ss/rgb_0001_labelTrainIds.png``, which
    ``tools/prepare_dataset.py urbansyn`` makes: the published labels are
    named ``ss/ss_0001.png``.

    Source: Gómez et al., "All for One, and One for All: UrbanSyn Dataset,
    the Third Musketeer of Synthetic Driving Scenes", 2023.
    """

    DOMAIN = 'urbansyn'
    PREPARED = 'urbansyn'
    SPLIT = 'train'
    PREFIX = dict(img_path='rgb', seg_map_path='ss')
    SEG_MAP_SUFFIX = '_labelTrainIds.png'
