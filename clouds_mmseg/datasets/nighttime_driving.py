"""Nighttime Driving."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset


@DATASETS.register_module()
class NighttimeDrivingDataset(DGDataset):
    """Nighttime Driving: 50 labelled images at night, 1920x1080.

    Layout: ``leftImg8bit/test/night/*_leftImg8bit.png`` and
    ``gtCoarse_daytime_trainvaltest/test/night/*_gtCoarse_labelTrainIds.png``.

    Source: Dai and Van Gool, "Dark Model Adaptation", ITSC 2018.
    """

    DOMAIN = 'nighttime_driving'
    PREPARED = 'nighttime_driving'
    SPLIT = 'test'
    PREFIX = dict(
        img_path='leftImg8bit/{split}/night',
        seg_map_path='gtCoarse_daytime_trainvaltest/{split}/night',
    )
    IMG_SUFFIX = '_leftImg8bit.png'
    SEG_MAP_SUFFIX = '_gtCoarse_labelTrainIds.png'
