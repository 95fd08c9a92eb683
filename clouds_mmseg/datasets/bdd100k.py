"""BDD100K."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset


@DATASETS.register_module()
class BDD100KDGDataset(DGDataset):
    """BDD100K, the 10k images: 7,000 training and 1,000 validation, 1280x720.

    Layout: ``images/10k/{split}/*.jpg`` and
    ``labels/sem_seg/masks/{split}/*.png``, which hold train ids.

    Source: Yu et al., "BDD100K", CVPR 2020.
    """

    DOMAIN = 'bdd100k'
    PREPARED = 'bdd100k'
    SPLIT = 'val'
    PREFIX = dict(
        img_path='images/10k/{split}',
        seg_map_path='labels/sem_seg/masks/{split}',
    )
    IMG_SUFFIX = '.jpg'
    COMPARED_AT_INPUT_SIZE = True
