"""Label files: what their ids mean, and tables from ids to class indices."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from clouds_mmseg.utils.cityscapes import (
    CLASSES,
    IGNORE,
    LABEL_ID_TO_TRAIN_ID,
    LABEL_IDS,
)
from clouds_mmseg.utils.errors import UserError

# Marks the ids that a dataset does not define. A pixel with such an id means
# that the wrong files are read, so it must not turn into "ignored" silently.
UNDEFINED = 254
# The greatest id of a 16-bit label file.
MAX_ID = 65535


def build_label_table(
    ids: Mapping[int, int], ignored: Iterable[int] = ()
) -> np.ndarray:
    """Make the lookup table from ids to class indices.

    Args:
        ids: Id in the file (0..65535) -> class index (0..253).
        ignored: Further ids which the dataset defines and which are not
            trained on. They become 255.

    Returns:
        (256,) uint8, or (65536,) if an id is greater than 255: class index,
        255 for ignored ids and :data:`UNDEFINED` for ids that may not occur.

    Raises:
        UserError: An id is outside 0..65535, a class index is outside 0..253,
            or an id is both a class and ignored.
    """
    ignored = set(ignored)
    for number in (*ids, *ignored):
        if not 0 <= number <= MAX_ID:
            raise UserError(
                f'label id {number} is outside 0..{MAX_ID}, the range of a '
                '16-bit label file'
            )
    for number, index in ids.items():
        if not 0 <= index < UNDEFINED:
            raise UserError(
                f'label id {number} is mapped to class {index}, but class '
                f'indices must lie in 0..{UNDEFINED - 1}'
            )
        if number in ignored:
            raise UserError(
                f'label id {number} is mapped to class {index} and ignored at '
                'the same time: remove it from one of the two'
            )
    size = 256 if max((*ids, *ignored), default=0) < 256 else MAX_ID + 1
    table = np.full(size, UNDEFINED, np.uint8)
    table[list(ignored)] = IGNORE
    for number, index in ids.items():
        table[number] = index
    return table


def table_digest(table: np.ndarray, channel: str | None) -> str:
    """Hash the mapping from the ids of label files to classes.

    Args:
        table: From :func:`build_label_table`.
        channel: ``label_channel`` of :class:`DGDataset`.

    Returns:
        8 hexadecimal digits.
    """
    content = table.tobytes() + repr(channel).encode()
    return hashlib.blake2b(content, digest_size=4).hexdigest()


def apply_label_table(
    raw: np.ndarray, table: np.ndarray
) -> tuple[np.ndarray | None, list[int]]:
    """Map a decoded label file to class indices.

    Args:
        raw: (H, W), any integer dtype: ids as in the file.
        table: From :func:`build_label_table`.

    Returns:
        The (H, W) uint8 class indices, or None if an id is not defined; and
        the sorted ids that the table does not define.
    """
    if raw.dtype != np.uint8:
        if ((raw < 0) | (raw >= len(table))).any():
            return None, [
                i
                for i in map(int, np.unique(raw))
                if not 0 <= i < len(table) or table[i] == UNDEFINED
            ]
    elif raw.size and int((raw + np.uint8(1)).max()) <= _kept_ids(table):
        # A copy: decoders give arrays that cannot be written to.
        return raw.copy(), []
    if len(table) == 256:
        # A third of the time of table[raw] on a Cityscapes label.
        raw = np.ascontiguousarray(raw.astype(np.uint8, copy=False))
        mapped = cv2.LUT(raw, table)
    else:
        mapped = table[raw]
    undefined = mapped == UNDEFINED
    if undefined.any():
        return None, sorted(int(i) for i in np.unique(raw[undefined]))
    return mapped, []


def _kept_ids(table):
    """Return n if a table keeps 0..n-1 and 255, as train ids; else -1."""
    if len(table) != 256 or table[IGNORE] != IGNORE:
        return -1
    return int(np.argmax(table != np.arange(256)))


@dataclass(frozen=True)
class LabelIds:
    """Meaning of the ids in the label files of a data set.

    Attributes:
        train_ids: Id -> train id.
        ignored: Further ids that the files may hold; they are not evaluated.
            Any other id is an error.
        names: Of the classes, in the order of their ids, where labels are
            found by name.
    """

    train_ids: Mapping[int, int]
    ignored: frozenset[int]
    names: tuple[str, ...] = ()

    @classmethod
    def of_names(
        cls, names: Sequence[str], cityscapes: Mapping[str, str]
    ) -> 'LabelIds':
        """Look up classes by their names.

        Args:
            names: Of the classes, in the order of their ids from 0.
            cityscapes: Name -> class of Cityscapes; others are ignored.
        """
        train_ids = {
            index: CLASSES.index(cityscapes[name])
            for index, name in enumerate(names)
            if name in cityscapes
        }
        rest = frozenset(range(len(names))) - set(train_ids)
        return cls(train_ids, rest, tuple(names))

    def and_ignored(self, *ids: int) -> 'LabelIds':
        """Return a copy that ignores further ids."""
        return replace(self, ignored=self.ignored | set(ids))


def _members(*tables: Mapping[str, str | Sequence[str]]) -> dict[str, str]:
    """Turn class of Cityscapes -> names around."""
    return {
        name: cityscapes
        for table in tables
        for cityscapes, names in table.items()
        for name in (names.split() if isinstance(names, str) else names)
    }


TRAIN_IDS = LabelIds({i: i for i in range(len(CLASSES))}, frozenset({IGNORE}))
CITYSCAPES_IDS = LabelIds(
    LABEL_ID_TO_TRAIN_ID,
    frozenset({*LABEL_IDS, IGNORE}) - set(LABEL_ID_TO_TRAIN_ID),
)

# Terrain, truck and train do not occur. Ignored are void (0), parking slot,
# road work and lane marking.
SYNTHIA_IDS = LabelIds(
    {
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
    },
    frozenset({0, 13, 14, 22}),
)
# Class of Cityscapes -> classes of Vistas; the same in both versions.
_VISTAS = {
    'road': ('construction--flat--road', 'object--manhole'),
    'sidewalk': (
        'construction--barrier--curb',
        'construction--flat--sidewalk',
    ),
    'building': ('construction--structure--building',),
    'wall': ('construction--barrier--wall',),
    'fence': ('construction--barrier--fence',),
    'pole': ('object--support--pole', 'object--support--utility-pole'),
    'traffic sign': ('object--traffic-sign--front',),
    'vegetation': ('nature--vegetation',),
    'terrain': ('nature--terrain',),
    'sky': ('nature--sky',),
    'rider': (
        'human--rider--bicyclist',
        'human--rider--motorcyclist',
        'human--rider--other-rider',
    ),
    'car': ('object--vehicle--car',),
    'truck': ('object--vehicle--truck',),
    'bus': ('object--vehicle--bus',),
    'train': ('object--vehicle--on-rails',),
    'motorcycle': ('object--vehicle--motorcycle',),
    'bicycle': ('object--vehicle--bicycle',),
}
_VISTAS_1_2 = {
    'road': ('marking--general',),
    'traffic light': ('object--traffic-light',),
    'person': ('human--person',),
}
_VISTAS_2_0 = {
    # What 1.2 calls marking--general; as there, no zebra crossings.
    'road': (
        'marking--continuous--dashed',
        'marking--continuous--solid',
        'marking--continuous--zigzag',
        'marking--discrete--arrow--left',
        'marking--discrete--arrow--other',
        'marking--discrete--arrow--right',
        'marking--discrete--arrow--split-left-or-straight',
        'marking--discrete--arrow--split-right-or-straight',
        'marking--discrete--arrow--straight',
        'marking--discrete--give-way-row',
        'marking--discrete--give-way-single',
        'marking--discrete--hatched--chevron',
        'marking--discrete--hatched--diagonal',
        'marking--discrete--other-marking',
        'marking--discrete--stop-line',
        'marking--discrete--symbol--bicycle',
        'marking--discrete--symbol--other',
        'marking--discrete--text',
        'marking-only--continuous--dashed',
        'marking-only--discrete--other-marking',
        'marking-only--discrete--text',
    ),
    'traffic light': (
        'object--traffic-light--cyclists',
        'object--traffic-light--general-horizontal',
        'object--traffic-light--general-single',
        'object--traffic-light--general-upright',
        'object--traffic-light--other',
        'object--traffic-light--pedestrians',
    ),
    'traffic sign': (
        'object--traffic-sign--direction-front',
        'object--traffic-sign--information-parking',
        'object--traffic-sign--temporary-front',
    ),
    'person': ('human--person--individual', 'human--person--person-group'),
}

_IGNORED_BOTH = {
    'animal--bird',
    'animal--ground-animal',
    'construction--barrier--guard-rail',
    'construction--barrier--other-barrier',
    'construction--flat--bike-lane',
    'construction--flat--crosswalk-plain',
    'construction--flat--curb-cut',
    'construction--flat--parking',
    'construction--flat--pedestrian-area',
    'construction--flat--rail-track',
    'construction--flat--service-lane',
    'construction--structure--bridge',
    'construction--structure--tunnel',
    'nature--mountain',
    'nature--sand',
    'nature--snow',
    'nature--water',
    'object--banner',
    'object--bench',
    'object--bike-rack',
    'object--catch-basin',
    'object--cctv-camera',
    'object--fire-hydrant',
    'object--junction-box',
    'object--mailbox',
    'object--phone-booth',
    'object--pothole',
    'object--street-light',
    'object--support--traffic-sign-frame',
    'object--traffic-sign--back',
    'object--trash-can',
    'object--vehicle--boat',
    'object--vehicle--caravan',
    'object--vehicle--other-vehicle',
    'object--vehicle--trailer',
    'object--vehicle--wheeled-slow',
    'void--car-mount',
    'void--ego-vehicle',
    'void--unlabeled',
}
_IGNORED_1_2 = {'marking--crosswalk-zebra', 'object--billboard'}
_IGNORED_2_0 = {
    'construction--barrier--ambiguous',
    'construction--barrier--concrete-block',
    'construction--barrier--road-median',
    'construction--barrier--road-side',
    'construction--barrier--separator',
    'construction--barrier--temporary',
    'construction--flat--driveway',
    'construction--flat--parking-aisle',
    'construction--flat--road-shoulder',
    'construction--flat--traffic-island',
    'construction--structure--garage',
    'marking--discrete--ambiguous',
    'marking--discrete--crosswalk-zebra',
    'marking-only--discrete--crosswalk-zebra',
    'object--parking-meter',
    'object--sign--advertisement',
    'object--sign--ambiguous',
    'object--sign--back',
    'object--sign--information',
    'object--sign--other',
    'object--sign--store',
    # Groups of poles are ignored in Cityscapes, too.
    'object--support--pole-group',
    'object--traffic-cone',
    'object--traffic-sign--ambiguous',
    'object--traffic-sign--direction-back',
    'object--traffic-sign--temporary-back',
    'object--vehicle--vehicle-group',
    'object--water-valve',
    'void--dynamic',
    'void--ground',
    'void--static',
}

# Version -> class of Vistas -> class of Cityscapes.
CLASSES_OF_VISTAS = {
    '1.2': _members(_VISTAS, _VISTAS_1_2),
    '2.0': _members(_VISTAS, _VISTAS_2_0),
}
# Version -> classes of Vistas that are not evaluated.
IGNORED_OF_VISTAS = {
    '1.2': _IGNORED_BOTH | _IGNORED_1_2,
    '2.0': _IGNORED_BOTH | _IGNORED_2_0,
}
# The order of the ids is alphabetical.
VISTAS_IDS = LabelIds.of_names(
    sorted({*CLASSES_OF_VISTAS['1.2'], *IGNORED_OF_VISTAS['1.2']}),
    CLASSES_OF_VISTAS['1.2'],
)

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
# By the label policy of the makers.
WILDDASH2_TO_CITYSCAPES = _members(
    {
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
)
WILDDASH2_IDS = LabelIds.of_names(
    WILDDASH2_CLASSES, WILDDASH2_TO_CITYSCAPES
).and_ignored(IGNORE)

# In the order of their label ids, 0 to 39.
IDD_CLASSES = (
    'road',
    'parking',
    'drivable fallback',
    'sidewalk',
    'rail track',
    'non-drivable fallback',
    'person',
    'animal',
    'rider',
    'motorcycle',
    'bicycle',
    'autorickshaw',
    'car',
    'truck',
    'bus',
    'caravan',
    'trailer',
    'train',
    'vehicle fallback',
    'curb',
    'wall',
    'fence',
    'guard rail',
    'billboard',
    'traffic sign',
    'traffic light',
    'pole',
    'polegroup',
    'obs-str-bar-fallback',
    'building',
    'bridge',
    'tunnel',
    'vegetation',
    'sky',
    'fallback background',
    'unlabeled',
    'ego vehicle',
    'rectification border',
    'out of roi',
    'license plate',
)
# The column csTrainId of its makers: classes of the same name, and terrain.
IDD_TO_CITYSCAPES = {name: name for name in CLASSES if name != 'terrain'} | {
    'non-drivable fallback': 'terrain'
}
IDD_IDS = LabelIds.of_names(IDD_CLASSES, IDD_TO_CITYSCAPES)
