"""Lookup tables from ids in a label file to class indices."""

import hashlib
from collections.abc import Iterable

import cv2
import numpy as np

from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError

# Marks the ids that a dataset does not define. A pixel with such an id means
# that the wrong files are read, so it must not turn into "ignored" silently.
UNDEFINED = 254
# The greatest id of a 16-bit label file.
MAX_ID = 65535


def build_label_table(
    ids: dict[int, int], ignored: Iterable[int] = ()
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
