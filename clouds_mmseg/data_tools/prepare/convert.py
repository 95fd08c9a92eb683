"""Conversion of published label files to train ids."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.labels import apply_label_table, build_label_table
from clouds_mmseg.datasets.transforms.loading import describe_ids
from clouds_mmseg.utils.cityscapes import (
    IGNORE,
    LABEL_ID_TO_TRAIN_ID,
    LABEL_IDS,
)
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.images import ImageFileError, decode_ids


@dataclass(frozen=True)
class TableConverter:
    """Converter of label files by a lookup table.

    Attributes:
        table: 256 or 65536 bytes: id in the file -> train id.
        channel: As in :class:`DGDataset`.
    """

    table: bytes
    channel: str | None = None

    @classmethod
    def of(cls, dataset: type[DGDataset]) -> 'TableConverter':
        """Convert as a dataset class reads the published labels.

        Args:
            dataset: A subclass of :class:`DGDataset`.

        """
        # Without a data root the class reads no manifest of a prepared folder.
        raw = dataset(lazy_init=True, pipeline=[])
        return cls(raw.label_table.tobytes(), raw.LABEL_CHANNEL)

    @classmethod
    def from_ids(
        cls, ids: dict[int, int], ignored: Iterable[int] = ()
    ) -> 'TableConverter':
        """Make a converter from a mapping, for grey and palette files.

        Args:
            ids: Id in the file -> train id.
            ignored: Further ids that files may hold; they become 255.
        """
        return cls(build_label_table(ids, ignored).tobytes())

    def __call__(self, payload: bytes, name: str) -> np.ndarray:
        """Decode a label file to train ids, (H, W) uint8.

        Args:
            payload: The file.
            name: For messages.

        Raises:
            DataError: It is damaged, or holds an id that the table does not
                define.
        """
        try:
            raw = decode_ids(payload, self.channel)
        except ImageFileError as error:
            raise DataError(f'label {name} {error}') from error
        table = np.frombuffer(self.table, np.uint8)
        mapped, undefined = apply_label_table(raw, table)
        if undefined:
            known = np.flatnonzero(table != 254)
            raise DataError(
                f'label {name} has ids outside the classes: '
                f'{describe_ids(undefined)}; the set defines '
                f'{describe_ids(known.tolist())}'
            )
        return mapped


# For files that hold train ids already.
TRAIN_IDS = TableConverter.from_ids({i: i for i in range(19)}, [IGNORE])


def label_ids() -> TableConverter:
    """Make the converter of files with the label ids of Cityscapes.

    Ids without a train id become 255.
    """
    rest = set(LABEL_IDS) - set(LABEL_ID_TO_TRAIN_ID)
    return TableConverter.from_ids(LABEL_ID_TO_TRAIN_ID, rest | {IGNORE})


def encode_label(label: np.ndarray) -> bytes:
    """Encode train ids, (H, W) uint8, as a grey PNG file."""
    # Unfiltered and with matches of any distance, labels decode several times
    # faster than as OpenCV writes PNGs by default, and are smaller.
    options = [
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
        *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    ]
    return cv2.imencode('.png', label, options)[1].tobytes()


def shrink(pixels: np.ndarray, short: int, *, label: bool) -> np.ndarray:
    """Downscale an image or a label to a short edge.

    Args:
        pixels: (H, W) uint8 train ids or (H, W, 3) uint8.
        short: Length in pixels.
        label: Whether to resample with nearest neighbours: ids must not be
            interpolated.

    Returns:
        The copy; ``pixels`` itself if its short edge is not longer.
    """
    height, width = pixels.shape[:2]
    edge = min(height, width)
    if edge <= short:
        return pixels
    size = (round(width * short / edge), round(height * short / edge))
    how = cv2.INTER_NEAREST_EXACT if label else cv2.INTER_AREA
    return cv2.resize(pixels, size, interpolation=how)
