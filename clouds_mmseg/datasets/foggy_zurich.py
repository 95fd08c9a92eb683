"""Foggy Zurich."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset


@DATASETS.register_module()
class FoggyZurichDataset(DGDataset):
    """Foggy Zurich: the 40 labelled images of 3,808, in dense fog.

    Layout: ``testv2/RGB/{sequence}/*.png`` and
    ``testv2/gt/{sequence}/*_labelTrainIds.png``, which
    ``tools/prepare_dataset.py foggy_zurich`` makes: in the published folders
    the labelled images lie between those without labels.

    Source: Sakaridis et al., "Model Adaptation with Synthetic and Real Data
    for Semantic Dense Foggy Scene Understanding", ECCV 2018.
    """

    DOMAIN = 'foggy_zurich'
    PREPARED = 'foggy_zurich'
    SPLIT = 'testv2'
    PREFIX = dict(img_path='{split}/RGB', seg_map_path='{split}/gt')
    SEG_MAP_SUFFIX = '_labelTrainIds.png'
