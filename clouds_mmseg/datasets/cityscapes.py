"""Cityscapes."""

from mmengine import fileio
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset


@DATASETS.register_module()
class CityscapesDGDataset(DGDataset):
    """Cityscapes: 2,975 training and 500 validation images, 2048x1024.

    Layout: ``leftImg8bit/{split}/{city}/*_leftImg8bit.png`` and
    ``gtFine/{split}/{city}/*_gtFine_labelTrainIds.png``. The label files are
    made from the published ones by ``tools/prepare_dataset.py``.

    Source: Cordts et al., "The Cityscapes Dataset", CVPR 2016.
    """

    DOMAIN = 'cityscapes'
    PREPARED = 'cityscapes'
    SPLIT = 'val'
    PREFIX = dict(
        img_path='leftImg8bit/{split}', seg_map_path='gtFine/{split}'
    )
    IMG_SUFFIX = '_leftImg8bit.png'
    SEG_MAP_SUFFIX = '_gtFine_labelTrainIds.png'

    def missing_hint(self, missing):
        """Say how to make train-id labels if only the published ones exist."""
        path = missing[0]['seg_map_path']
        published = path.replace('_labelTrainIds.png', '_labelIds.png')
        if path == published or not fileio.exists(
            published, backend_args=self.backend_args
        ):
            return ''
        return (
            f'\nThere is {published}: that folder has the published label ids '
            'only. Make the train-id files once: tools/prepare_dataset.py '
            f'cityscapes --src {self.data_root} --out {self.data_root}'
        )
