"""The data sets that can be prepared."""

from clouds_mmseg.data_tools.prepare.layouts import (
    ACDC,
    BDD100K,
    CITYSCAPES,
    DARK_ZURICH,
    FOGGY_ZURICH,
    GTA5,
    NIGHTTIME_DRIVING,
    SYNTHIA,
    URBANSYN,
    Layout,
)
from clouds_mmseg.data_tools.prepare.vistas import MAPILLARY
from clouds_mmseg.data_tools.prepare.wilddash2 import WILDDASH2
from clouds_mmseg.utils.errors import DataError

LAYOUTS = {
    layout.name: layout
    for layout in (
        GTA5,
        SYNTHIA,
        URBANSYN,
        CITYSCAPES,
        BDD100K,
        MAPILLARY,
        ACDC,
        DARK_ZURICH,
        NIGHTTIME_DRIVING,
        FOGGY_ZURICH,
        WILDDASH2,
    )
}
NAMES = tuple(LAYOUTS)


def find_layout(name: str) -> Layout:
    """Return the layout in which a set is published.

    Args:
        name: One of :data:`NAMES`.

    Raises:
        DataError: There is no such set.
    """
    if name not in LAYOUTS:
        raise DataError(
            f'{name!r} is none of the sets that can be prepared: '
            + ', '.join(NAMES)
        )
    return LAYOUTS[name]
