"""Conversion of published label files to train ids."""

from dataclasses import dataclass

import cv2
import numpy as np

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
    """Labels whose ids a table maps.

    Attributes:
        table (bytes): 256 or 65536 bytes: id in the file -> train id.
        channel (str, optional): As in :class:`DGDataset`.
    """

    table: bytes
    channel: str | None = None

    @classmethod
    def of(cls, dataset):
        """Take over how a dataset class reads the published labels.

        Args:
            dataset (type): A subclass of :class:`DGDataset`.

        Returns:
            TableConverter: With its table and channel.
        """
        # Without a data root the class knows of no prepared files.
        raw = dataset(lazy_init=True, pipeline=[])
        return cls(raw.label_table.tobytes(), raw.LABEL_CHANNEL)

    @classmethod
    def from_ids(cls, ids, ignored=()):
        """Make a converter of a dict.

        Args:
            ids (dict[int, int]): Id in the file -> train id.
            ignored (Iterable[int]): Further ids that files may hold.

        Returns:
            TableConverter: For grey and palette files.
        """
        return cls(build_label_table(ids, ignored).tobytes())

    def __call__(self, payload, name):
        """Return the train ids of a file."""
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


def label_ids():
    """The converter for files with the label ids of Cityscapes.

    Returns:
        TableConverter: Ids without a train id become 255.
    """
    rest = set(LABEL_IDS) - set(LABEL_ID_TO_TRAIN_ID)
    return TableConverter.from_ids(LABEL_ID_TO_TRAIN_ID, rest | {IGNORE})


def encode_label(label):
    """Encode train ids as a grey PNG.

    Args:
        label (np.ndarray): (H, W) uint8.

    Returns:
        bytes: The file.
    """
    # Unfiltered and with matches of any distance, labels decode several times
    # faster than as OpenCV writes PNGs by default, and are smaller.
    options = [
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
        *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    ]
    return cv2.imencode('.png', label, options)[1].tobytes()


def shrink(pixels, short, *, label):
    """Bring the short edge of an image or a label to a length.

    Args:
        pixels (np.ndarray): (H, W) uint8 train ids or (H, W, 3) uint8.
        short (int): Wanted length in pixels.
        label (bool): Whether ids must not be mixed.

    Returns:
        np.ndarray: Smaller; ``pixels`` itself if it is small enough.
    """
    height, width = pixels.shape[:2]
    edge = min(height, width)
    if edge <= short:
        return pixels
    size = (round(width * short / edge), round(height * short / edge))
    how = cv2.INTER_NEAREST_EXACT if label else cv2.INTER_AREA
    return cv2.resize(pixels, size, interpolation=how)
