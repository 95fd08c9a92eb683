"""Cityscapes: ``leftImg8bit_trainvaltest.zip``, ``gtFine_trainvaltest.zip``.

Train ids are drawn from the polygons by cityscapesscripts.
"""

import json
from importlib.util import find_spec

import numpy as np

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.convert import label_ids
from clouds_mmseg.datasets.prepare.layout import Layout, Rule

_WHERE = r'(?P<split>train|val|test)/(?P<city>[^/]+)/(?P<file>[^./][^/]*)'


def draw_polygons(payload, name):
    """Draw the polygons of an image as cityscapesscripts does.

    Args:
        payload (bytes): A ``*_polygons.json``.
        name (str): Of the file, for messages.

    Returns:
        np.ndarray: (H, W) uint8 train ids, 255 where none is evaluated.

    Raises:
        DataError: The file is damaged, or has an unknown class.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    try:
        annotation = Annotation()
        annotation.fromJsonText(payload.decode('utf-8'))
        image = createLabelImage(annotation, 'trainIds')
    # It ends the process on a class that it does not know.
    except (Exception, SystemExit) as error:
        raise DataError(
            f'label {name} cannot be drawn ({_why(payload, error)})'
        ) from error
    return np.asarray(image)


def _why(payload, error):
    if not isinstance(error, SystemExit):
        return f'{type(error).__name__}: {error}'
    from cityscapesscripts.helpers.labels import name2label

    names = {o.get('label') for o in json.loads(payload).get('objects', [])}
    unknown = sorted(n for n in names if n not in name2label)
    return f'unknown classes: {", ".join(map(str, unknown))}'


def _rules(files, options):
    """Prefer the polygons; ids make the same labels without the package."""
    polygons = _label('polygons.json', 'polygons', draw_polygons)
    ids = _label('labelIds.png', 'label_ids', label_ids())
    if find_spec('cityscapesscripts') is None:
        if files.any(polygons.pattern) and not files.any(ids.pattern):
            raise DataError(
                'the labels of Cityscapes are polygons here, which '
                'cityscapesscripts draws, and it is not installed: '
                "pip install 'clouds_mmseg[data]'"
            )
        return (_IMAGE, ids, _DRAWN)
    return (_IMAGE, polygons, ids, _DRAWN)


def _label(ending, source, convert=None):
    return Rule(
        part='label',
        pattern='gtFine/' + _WHERE + '_gtFine_' + ending.replace('.', r'\.'),
        target='gtFine/{split}/{city}/{file}_gtFine_labelTrainIds.png',
        source=source,
        convert=convert,
    )


_IMAGE = Rule(
    part='image',
    pattern='leftImg8bit/' + _WHERE + r'_leftImg8bit\.png',
    target='leftImg8bit/{split}/{city}/{file}_leftImg8bit.png',
)
# Made before; last, so that what is prepared in place is made of the same
# files in every run.
_DRAWN = _label('labelTrainIds.png', 'train_ids')

LAYOUT = Layout(
    name='cityscapes',
    title='Cityscapes',
    official=dict(train=2975, val=500, test=1525),
    examples=(
        'leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png',
        'gtFine/val/munster/munster_000000_000019_gtFine_polygons.json',
    ),
    unlabelled=('test',),
    prepare=_rules,
)
