"""The sets that can be prepared."""

from importlib import import_module

from clouds_mmseg.datasets.errors import DataError

# Each is a module of this package with a LAYOUT.
NAMES = (
    'gta5',
    'synthia',
    'urbansyn',
    'cityscapes',
    'bdd100k',
    'mapillary',
    'acdc',
    'dark_zurich',
    'nighttime_driving',
    'foggy_zurich',
    'wilddash2',
)


def find_layout(name):
    """Return the layout of a set.

    Args:
        name (str): One of :data:`NAMES`.

    Returns:
        Layout: How it is published.

    Raises:
        DataError: There is no such set.
    """
    if name not in NAMES:
        raise DataError(
            f'{name!r} is none of the sets that can be prepared: '
            + ', '.join(NAMES)
        )
    return import_module(f'clouds_mmseg.datasets.prepare.{name}').LAYOUT
