"""GTA5."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.utils.cityscapes import LABEL_ID_TO_TRAIN_ID


@DATASETS.register_module()
class GTA5Dataset(DGDataset):
    """GTA5: 24,966 rendered images, 1914x1052, with Cityscapes label ids.

    Layout: ``images/00001.png`` and ``labels/00001.png``, palette PNGs as
    published. A few images differ in size from their label, and reading one
    is an error: ``tools/verify_dataset.py gta5 --fix`` takes them out.

    Source: Richter et al., "Playing for Data", ECCV 2016.
    """

    DOMAIN = 'gta5'
    PREPARED = 'gta5'

    def label_ids(self, metainfo):
        """Return Cityscapes label id -> train id."""
        return LABEL_ID_TO_TRAIN_ID

    def ignored_ids(self):
        """Return the ids without a train id.

        Cityscapes defines 0 to 33; GTA5 has its licence plate, -1 there, as
        34.
        """
        return (set(range(35)) - set(LABEL_ID_TO_TRAIN_ID)) | {255}
