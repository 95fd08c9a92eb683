"""SYNTHIA."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset

# SYNTHIA id -> train id. Terrain, truck and train do not occur.
SYNTHIA_ID_TO_TRAIN_ID = {
    1: 10,
    2: 2,
    3: 0,
    4: 1,
    5: 4,
    6: 8,
    7: 5,
    8: 13,
    9: 7,
    10: 11,
    11: 18,
    12: 17,
    15: 6,
    16: 9,
    17: 12,
    18: 14,
    19: 15,
    20: 16,
    21: 3,
}


@DATASETS.register_module()
class SYNTHIADataset(DGDataset):
    """SYNTHIA-RAND-CITYSCAPES: 9,400 rendered images, 1280x760.

    Layout: ``RGB/0000000.png`` and ``GT/LABELS/0000000.png``, 16-bit PNGs
    with the class in the first channel and the instance in the second.

    Source: Ros et al., "The SYNTHIA Dataset", CVPR 2016.
    """

    DOMAIN = 'synthia'
    PREPARED = 'synthia'
    PREFIX = dict(img_path='RGB', seg_map_path='GT/LABELS')
    LABEL_CHANNEL = 'first'

    def label_ids(self, metainfo):
        """Return SYNTHIA id -> train id."""
        return SYNTHIA_ID_TO_TRAIN_ID

    def ignored_ids(self):
        """Return void (0), parking slot, road work and lane marking."""
        return (0, 13, 14, 22)
