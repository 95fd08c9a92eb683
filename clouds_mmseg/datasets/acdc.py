"""ACDC."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset

CONDITIONS = ('fog', 'night', 'rain', 'snow')


@DATASETS.register_module()
class ACDCDataset(DGDataset):
    """One adverse condition of ACDC: 400 training images, about 100 to test.

    The validation sets have 100 (fog), 106 (night), 100 (rain) and 100 (snow)
    images of 1920x1080. Each condition is a domain of its own, named
    ``acdc_<condition>`` unless ``domain`` says otherwise.

    Layout: ``rgb_anon/{condition}/{split}/{sequence}/*_rgb_anon.png`` and
    ``gt/{condition}/{split}/{sequence}/*_gt_labelTrainIds.png``.

    Args:
        condition (str): fog, night, rain or snow.
        **kwargs: See :class:`DGDataset`.

    Source: Sakaridis et al., "ACDC", ICCV 2021.
    """

    PREPARED = 'acdc'
    SPLIT = 'val'
    PREFIX = dict(
        img_path='rgb_anon/{condition}/{split}',
        seg_map_path='gt/{condition}/{split}',
    )
    IMG_SUFFIX = '_rgb_anon.png'
    SEG_MAP_SUFFIX = '_gt_labelTrainIds.png'
    COMPARED_AT_INPUT_SIZE = True

    def __init__(self, *, condition, domain=None, **kwargs):
        if condition not in CONDITIONS:
            raise ValueError(
                f'condition={condition!r} is not one of ACDC: '
                + ', '.join(CONDITIONS)
            )
        self.condition = condition
        super().__init__(domain=domain or f'acdc_{condition}', **kwargs)

    def layout_fields(self):
        """Return the values of the braces in ``PREFIX``."""
        return dict(split=self.split, condition=self.condition)
