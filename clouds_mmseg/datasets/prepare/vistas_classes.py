"""The classes of Mapillary Vistas by name, and what they are in Cityscapes.

For version 1.2 it is the map of the published benchmarks, the same as
:data:`clouds_mmseg.datasets.mapillary.MAPILLARY_ID_TO_TRAIN_ID`. For version
2.0 none is published. Here a class of 2.0 which has the name of a class of
1.2, or is clearly a part of one (``human--person--individual``, the single
kinds of lane marking), belongs where that belongs. All others are ignored: an
ignored pixel costs nothing, a wrong one does.
"""

# Class of Cityscapes -> classes of Vistas; the same in both versions.
_BOTH = {
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
_ONLY_1_2 = {
    'road': ('marking--general',),
    'traffic light': ('object--traffic-light',),
    'person': ('human--person',),
}
_ONLY_2_0 = {
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


def _by_name(*tables):
    return {
        vistas: cityscapes
        for table in tables
        for cityscapes, names in table.items()
        for vistas in names
    }


# Version -> class of Vistas -> class of Cityscapes.
CLASSES_OF_VISTAS = {
    '1.2': _by_name(_BOTH, _ONLY_1_2),
    '2.0': _by_name(_BOTH, _ONLY_2_0),
}
# Version -> classes of Vistas that are not evaluated.
IGNORED = {
    '1.2': _IGNORED_BOTH | _IGNORED_1_2,
    '2.0': _IGNORED_BOTH | _IGNORED_2_0,
}
