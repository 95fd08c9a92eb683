"""Mapillary Vistas 1.2 and 2.0: one archive each, 2.0 in volumes."""

import json

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.convert import TableConverter
from clouds_mmseg.datasets.prepare.layout import Layout, prepared
from clouds_mmseg.datasets.prepare.vistas_classes import (
    CLASSES_OF_VISTAS,
    IGNORED,
)
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE

_LABELLED = '(?P<split>training|validation)'
_LABEL = '{split}/labels/{file}_labelTrainIds.png'
_FOLDERS = {'1.2': r'(?:v1\.2/)?labels', '2.0': r'v2\.0/labels'}
# The first releases call it config.json; their classes are those of 1.2.
_CONFIGS = {'1.2': ('config_v1.2.json', 'config.json')}
_CONFIGS['2.0'] = ('config_v2.0.json',)


def converter_of_config(payload, name, version):
    """Make the converter that the classes of a download ask for.

    Args:
        payload (bytes): Its ``config_v*.json``.
        name (str): Of that file, for messages.
        version (str): ``'1.2'`` or ``'2.0'``.

    Returns:
        TableConverter: From positions in the config's list of labels, which
        are the values of label files, to train ids.

    Raises:
        DataError: The config is damaged, names a class that is not known,
            or lacks a class of the benchmark.
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


def _rules(files, options):
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
        prepared(
            'image',
            r'(?P<split>training|validation|testing)/images/{file}\.jpg',
            '{split}/images/{file}.jpg',
        ),
        prepared(
            'label',
            rf'{_LABELLED}/{_FOLDERS[version]}/{{file}}\.png',
            _LABEL,
            source=found,
            convert=convert,
        ),
    )


def _pattern(version):
    return rf'{_LABELLED}/{_FOLDERS[version]}/[^/]+(?<!_labelTrainIds)\.png'


LAYOUT = Layout(
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
    prepare=_rules,
)
