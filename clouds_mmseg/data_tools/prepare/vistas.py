"""Mapillary Vistas 1.2 and 2.0: published layouts and classes."""

import json

from clouds_mmseg.data_tools.prepare.convert import TableConverter
from clouds_mmseg.data_tools.prepare.layouts import Layout, published_rule
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE
from clouds_mmseg.utils.errors import DataError

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


_LABELLED = '(?P<split>training|validation)'
_LABEL = '{split}/labels/{file}_labelTrainIds.png'
_FOLDERS = {'1.2': r'(?:v1\.2/)?labels', '2.0': r'v2\.0/labels'}
# The first releases call it config.json; their classes are those of 1.2.
_CONFIGS = {
    '1.2': ('config_v1.2.json', 'config.json'),
    '2.0': ('config_v2.0.json',),
}


def converter_of_config(
    payload: bytes, name: str, version: str
) -> TableConverter:
    """Make the label converter for the classes that a download lists.

    Args:
        payload: Its ``config_v*.json``.
        name: For messages.
        version: ``'1.2'`` or ``'2.0'``.

    Returns:
        From positions in the config's list of labels, which are the values of
        label files, to train ids.

    Raises:
        DataError: The config is damaged, names a class that is not known, or
            lacks a class of the benchmark.
    """
    try:
        names = [label['name'] for label in json.loads(payload)['labels']]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{name} is no config of Mapillary Vistas ({error!r})'
        ) from error
    table = CLASSES_OF_VISTAS[version]
    ignored = IGNORED[version]
    unknown = [n for n in names if n not in table and n not in ignored]
    if unknown:
        raise DataError(
            f'{name} has {len(unknown)} classes that Mapillary Vistas '
            f'{version} does not have:\n'
            + '\n'.join(f'  {n}' for n in unknown)
            + '\nWhich class of Cityscapes they belong to is not known. Use '
            'the config of the official download.'
        )
    present = {table[n] for n in names if n in table}
    missing = [c for c in CLASSES if c not in present]
    if missing:
        raise DataError(
            f'{name} has no class that is {", ".join(missing)}: it does not '
            'belong to the official download'
        )
    ids = {
        index: CLASSES.index(table[n])
        for index, n in enumerate(names)
        if n in table
    }
    rest = set(range(len(names))) - set(ids)
    return TableConverter.from_ids(ids, rest | {IGNORE})


def _vistas_rules(files, options):
    """Choose the labels, and read their classes from the download's config."""
    version = options.label_version
    if version is None:
        # The published numbers are on 1.2; both are in a download of 2.0.
        version = '1.2' if files.any(_pattern('1.2')) else '2.0'
    config, found = None, None
    for found in _CONFIGS[version]:
        config = files.read(found)
        if config is not None:
            break
    if config is None and files.any(_pattern(version)):
        raise DataError(
            f'there is no {_CONFIGS[version][0]} in --src. It lies beside '
            'training/ and validation/ in the official download and names '
            'the classes of the labels: put it there.'
        )
    convert = config and converter_of_config(config, found, version)
    return (
        published_rule(
            'image',
            r'(?P<split>training|validation|testing)/images/{file}\.jpg',
            '{split}/images/{file}.jpg',
        ),
        published_rule(
            'label',
            rf'{_LABELLED}/{_FOLDERS[version]}/{{file}}\.png',
            _LABEL,
            source=found,
            convert=convert,
        ),
    )


def _pattern(version):
    return rf'{_LABELLED}/{_FOLDERS[version]}/[^/]+(?<!_labelTrainIds)\.png'


MAPILLARY = Layout(
    name='mapillary',
    title='Mapillary Vistas',
    official=dict(training=18000, validation=2000, testing=5000),
    examples=(
        'validation/images/_1Gn_xkw7sa_i9GU4mkxxQ.jpg',
        'validation/labels/_1Gn_xkw7sa_i9GU4mkxxQ.png (version 1.2)',
        'validation/v1.2/labels/_1Gn_xkw7sa_i9GU4mkxxQ.png (version 2.0)',
        'config_v1.2.json',
    ),
    unlabelled=('testing',),
    prepare=_vistas_rules,
)
