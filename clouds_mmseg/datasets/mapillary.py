"""Mapillary Vistas."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset

# Class of Mapillary Vistas 1.2 -> train id.
MAPILLARY_ID_TO_TRAIN_ID = {
    2: 1,
    3: 4,
    6: 3,
    13: 0,
    15: 1,
    17: 2,
    19: 11,
    20: 12,
    21: 12,
    22: 12,
    24: 0,
    27: 10,
    29: 9,
    30: 8,
    41: 0,
    45: 5,
    47: 5,
    48: 6,
    50: 7,
    52: 18,
    54: 15,
    55: 13,
    57: 17,
    58: 16,
    61: 14,
}


@DATASETS.register_module()
class MapillaryDGDataset(DGDataset):
    """Mapillary Vistas 1.2: 18,000 training, 2,000 validation images.

    Layout: ``{split}/images/*.jpg`` and ``{split}/labels/*.png``, palette
    PNGs of 66 classes as published; splits ``training`` and ``validation``.
    Sizes vary. A download of version 2.0 keeps these labels in
    ``{split}/v1.2/labels``: prepare it, or say so in ``data_prefix``.

    Source: Neuhold et al., "The Mapillary Vistas Dataset", ICCV 2017.
    """

    DOMAIN = 'mapillary'
    PREPARED = 'mapillary'
    SPLIT = 'validation'
    PREFIX = dict(img_path='{split}/images', seg_map_path='{split}/labels')
    IMG_SUFFIX = '.jpg'
    COMPARED_AT_INPUT_SIZE = True

    def label_ids(self, metainfo):
        """Return Vistas class -> train id."""
        return MAPILLARY_ID_TO_TRAIN_ID

    def ignored_ids(self):
        """Return the rest of the 66 classes."""
        return set(range(66)) - set(MAPILLARY_ID_TO_TRAIN_ID)
