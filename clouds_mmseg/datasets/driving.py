"""Driving data sets of the benchmarks."""

from collections.abc import Iterable

from mmengine import fileio
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE, LABEL_ID_TO_TRAIN_ID

CONDITIONS = ('fog', 'night', 'rain', 'snow')
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
# In the order of their label ids, 0 to 80.
WILDDASH2_CLASSES = tuple(
    'unlabeled egovehicle overlay outofroi static dynamic ground road '
    'sidewalk parking railtrack building wall fence guardrail bridge tunnel '
    'pole polegroup trafficlight trafficsign vegetation terrain sky person '
    'rider car truck bus caravan trailer onrails motorcycle bicycle pickup '
    'van billboard streetlight roadmarking junctionbox mailbox manhole '
    'phonebooth pothole bikerack trafficsignframe utilitypole motorcyclist '
    'bicyclist otherrider bird groundanimal curb trafficsignany '
    'trafficsignback trashcan otherbarrier othervehicle autorickshaw bench '
    'mountain tramtrack wheeledslow boat bikelane bikelanesidewalk banner '
    'dashcammount water sand pedestrianarea firehydrant cctvcamera snow '
    'catchbasin crosswalkplain crosswalkzebra manholesidewalk curbterrain '
    'servicelane curbcut'.split()
)
_WILDDASH2_MEMBERS = {
    'road': 'road roadmarking manhole pothole tramtrack bikelane '
    'pedestrianarea catchbasin crosswalkplain crosswalkzebra servicelane',
    'sidewalk': 'sidewalk curb bikelanesidewalk manholesidewalk curbcut',
    'building': 'building',
    'wall': 'wall otherbarrier',
    'fence': 'fence',
    'pole': 'pole trafficsignframe utilitypole',
    'traffic light': 'trafficlight',
    'traffic sign': 'trafficsign',
    'vegetation': 'vegetation',
    'terrain': 'terrain curbterrain',
    'sky': 'sky',
    'person': 'person',
    'rider': 'rider motorcyclist bicyclist otherrider',
    'car': 'car van',
    'truck': 'truck pickup',
    'bus': 'bus',
    'train': 'onrails',
    'motorcycle': 'motorcycle autorickshaw',
    'bicycle': 'bicycle',
}
# Class of WildDash 2 -> class of Cityscapes; other classes are not evaluated.
WILDDASH2_TO_CITYSCAPES = {
    name: cityscapes
    for cityscapes, names in _WILDDASH2_MEMBERS.items()
    for name in names.split()
}


@DATASETS.register_module()
class ACDCDataset(DGDataset):
    """One adverse condition of ACDC: 400 training images, about 100 to test.

    The validation sets have 100 (fog), 106 (night), 100 (rain) and 100 (snow)
    images of 1920x1080. Each condition is a domain of its own, named
    ``acdc_<condition>`` unless ``domain`` says otherwise.

    Layout: ``rgb_anon/{condition}/{split}/{sequence}/*_rgb_anon.png`` and
    ``gt/{condition}/{split}/{sequence}/*_gt_labelTrainIds.png``.

    Args:
        condition: fog, night, rain or snow.
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

    def __init__(self, *, condition: str, domain: str | None = None, **kwargs):
        if condition not in CONDITIONS:
            raise ValueError(
                f'condition={condition!r} is not one of ACDC: '
                + ', '.join(CONDITIONS)
            )
        self.condition = condition
        super().__init__(domain=domain or f'acdc_{condition}', **kwargs)

    def layout_fields(self) -> dict[str, str]:
        """Return the values of the placeholders in ``PREFIX``."""
        return dict(split=self.split, condition=self.condition)


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

    def missing_hint(self, missing: list[dict]) -> str:
        """Advise to make train-id labels if only the published ones exist."""
        path = missing[0]['seg_map_path']
        published = path.replace('_labelTrainIds.png', '_labelIds.png')
        if path == published or not fileio.exists(
            published, backend_args=self.backend_args
        ):
            return ''
        return (
            f'\nThere is {published}: that folder has the published label ids '
            'only. Make the train-id files once: clouds prepare '
            f'cityscapes --src {self.data_root} --out {self.data_root}'
        )


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


@DATASETS.register_module()
class FoggyZurichDataset(DGDataset):
    """Foggy Zurich: the 40 labelled images of 3,808, in dense fog.

    Layout: ``testv2/RGB/{sequence}/*.png`` and
    ``testv2/gt/{sequence}/*_labelTrainIds.png``, which
    ``tools/prepare_dataset.py foggy_zurich`` makes: the published folders
    mix labelled and unlabelled images.

    Source: Sakaridis et al., "Model Adaptation with Synthetic and Real Data
    for Semantic Dense Foggy Scene Understanding", ECCV 2018.
    """

    DOMAIN = 'foggy_zurich'
    PREPARED = 'foggy_zurich'
    SPLIT = 'testv2'
    PREFIX = dict(img_path='{split}/RGB', seg_map_path='{split}/gt')
    SEG_MAP_SUFFIX = '_labelTrainIds.png'


@DATASETS.register_module()
class GTA5Dataset(DGDataset):
    """GTA5: 24,966 rendered images, 1914x1052, with Cityscapes label ids.

    Layout: ``images/00001.png`` and ``labels/00001.png``, palette PNGs as
    published. A few images differ in size from their label, and reading one
    is an error: ``tools/verify_dataset.py gta5 --fix`` moves them to
    quarantine.

    Source: Richter et al., "Playing for Data", ECCV 2016.
    """

    DOMAIN = 'gta5'
    PREPARED = 'gta5'

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return Cityscapes label id -> train id."""
        return LABEL_ID_TO_TRAIN_ID

    def ignored_ids(self) -> Iterable[int]:
        """Return the ids without a train id.

        Cityscapes defines 0 to 33; GTA5 has its licence plate, -1 there, as
        34.
        """
        return (set(range(35)) - set(LABEL_ID_TO_TRAIN_ID)) | {255}


@DATASETS.register_module()
class MapillaryDGDataset(DGDataset):
    """Mapillary Vistas 1.2: 18,000 training, 2,000 validation images.

    Layout: ``{split}/images/*.jpg`` and ``{split}/labels/*.png``, palette
    PNGs of 66 classes as published; splits ``training`` and ``validation``.
    Sizes vary. A download of version 2.0 keeps these labels in
    ``{split}/v1.2/labels``: prepare it, or set ``data_prefix``.

    Source: Neuhold et al., "The Mapillary Vistas Dataset", ICCV 2017.
    """

    DOMAIN = 'mapillary'
    PREPARED = 'mapillary'
    SPLIT = 'validation'
    PREFIX = dict(img_path='{split}/images', seg_map_path='{split}/labels')
    IMG_SUFFIX = '.jpg'
    COMPARED_AT_INPUT_SIZE = True

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return Vistas class -> train id."""
        return MAPILLARY_ID_TO_TRAIN_ID

    def ignored_ids(self) -> Iterable[int]:
        """Return the rest of the 66 classes."""
        return set(range(66)) - set(MAPILLARY_ID_TO_TRAIN_ID)


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

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return SYNTHIA id -> train id."""
        return SYNTHIA_ID_TO_TRAIN_ID

    def ignored_ids(self) -> Iterable[int]:
        """Return void (0), parking slot, road work and lane marking."""
        return (0, 13, 14, 22)


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


def wilddash2_ids() -> tuple[dict[int, int], set[int]]:
    """Map the published label ids.

    Returns:
        Label id -> train id, and the ids that are not evaluated.
    """
    ids = {
        index: CLASSES.index(WILDDASH2_TO_CITYSCAPES[name])
        for index, name in enumerate(WILDDASH2_CLASSES)
        if name in WILDDASH2_TO_CITYSCAPES
    }
    return ids, {*range(len(WILDDASH2_CLASSES)), IGNORE} - set(ids)


@DATASETS.register_module()
class WildDash2Dataset(DGDataset):
    """WildDash 2, the public part: 4,256 images of traffic everywhere.

    Layout: ``images/*.jpg`` and ``labels/*.png`` as in ``wd_public_02.zip``.
    The newer ``wd_public_v2p0.zip`` has panoptic labels, which
    ``tools/prepare_dataset.py wilddash2`` converts.

    Source: Zendel et al., "Unifying Panoptic Segmentation for Autonomous
    Driving", CVPR 2022; the classes by its authors' label policy
    (github.com/ozendelait/wilddash_scripts, wd2_unified_label_policy.json).
    """

    DOMAIN = 'wilddash2'
    PREPARED = 'wilddash2'
    IMG_SUFFIX = '.jpg'

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return label id of WildDash 2 -> train id."""
        return wilddash2_ids()[0]

    def ignored_ids(self) -> Iterable[int]:
        """Return the ids that are not evaluated."""
        return wilddash2_ids()[1]
