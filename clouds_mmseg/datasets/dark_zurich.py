"""Dark Zurich."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset


@DATASETS.register_module()
class DarkZurichDGDataset(DGDataset):
    """Dark Zurich: 50 labelled images at night, 1920x1080.

    Layout: ``rgb_anon/{split}/night/{sequence}/*_rgb_anon.png`` and
    ``gt/{split}/night/{sequence}/*_gt_labelTrainIds.png``. The labels of the
    test split are not published.

    Source: Sakaridis et al., "Guided Curriculum Model Adaptation and
    Uncertainty-Aware Evaluation for Semantic Nighttime Image Segmentation",
    ICCV 2019.
    """

    DOMAIN = 'dark_zurich'
    PREPARED = 'dark_zurich'
    SPLIT = 'val'
    PREFIX = dict(
        img_path='rgb_anon/{split}/night', seg_map_path='gt/{split}/night'
    )
    IMG_SUFFIX = '_rgb_anon.png'
    SEG_MAP_SUFFIX = '_gt_labelTrainIds.png'
