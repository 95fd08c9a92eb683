"""WildDash 2."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE

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
_MEMBERS = {
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
# Class of WildDash 2 -> class of Cityscapes; the rest is not evaluated.
WILDDASH2_TO_CITYSCAPES = {
    name: cityscapes
    for cityscapes, names in _MEMBERS.items()
    for name in names.split()
}


def wilddash2_ids():
    """Return the meaning of the published label ids.

    Returns:
        tuple[dict[int, int], set[int]]: Label id -> train id, and the ids
        that are not evaluated.
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

    def label_ids(self, metainfo):
        """Return label id of WildDash 2 -> train id."""
        return wilddash2_ids()[0]

    def ignored_ids(self):
        """Return the ids that are not evaluated."""
        return wilddash2_ids()[1]
