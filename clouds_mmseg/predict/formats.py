"""Forms in which labels are written: ids of the user's own, COCO's RLE.

Letters: K classes, H and W of an image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clouds_mmseg.utils.cityscapes import (
    CLASSES,
    IGNORE,
    LABEL_ID_TO_TRAIN_ID,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import near_names
from clouds_mmseg.utils.text_files import read_json, read_text

_GREATEST_ID = 65535


def read_label_ids(source: str | Path, classes: Sequence[str]) -> np.ndarray:
    """Read which id each class has in written labels.

    Args:
        source: ``'cityscapes'`` for the label ids of Cityscapes, or a JSON or
            YAML file, ``{class name: id}``. Several classes may share an id.
        classes: Names of the model's classes.

    Returns:
        (256,) class index -> id, uint8, or uint16 if an id is above 255.
        Indices that are no class, such as 255, are kept.

    Raises:
        UserError: The file cannot be read, a class has no id, a name is no
            class, or an id is no integer in [0, 65535].
    """
    if str(source) == 'cityscapes':
        named = {
            CLASSES[train_id]: label_id
            for label_id, train_id in LABEL_ID_TO_TRAIN_ID.items()
        }
        ids = {name: named[name] for name in classes if name in named}
    else:
        ids = _read_mapping(source)
        unknown = [str(name) for name in ids if name not in classes]
        if unknown:
            raise UserError(
                f'--label-ids {source} names {unknown[0]!r}, which is no '
                'class of the model' + near_names(unknown[:1], classes)
            )
    missing = [name for name in classes if name not in ids]
    if missing:
        raise UserError(
            f'--label-ids {source} has no id for {", ".join(missing)}; give '
            'each class of the model an id'
        )
    for name, number in ids.items():
        if type(number) is not int or not 0 <= number <= _GREATEST_ID:
            raise UserError(
                f'--label-ids {source}: {name!r} has the id {number!r}; ids '
                f'are integers in [0, {_GREATEST_ID}]'
            )
    table = np.arange(256, dtype=np.uint16)
    table[: len(classes)] = [ids[name] for name in classes]
    if len(classes) == 1 and table[0] == IGNORE:
        raise UserError(
            f'--label-ids {source}: {IGNORE} marks the pixels without a '
            'class; give the only class another id'
        )
    return table.astype(np.uint8) if table.max() < 256 else table


def _read_mapping(path):
    if Path(path).suffix.lower() == '.json':
        ids = read_json(path, '--label-ids')
    else:
        text = read_text(path, '--label-ids')
        try:
            ids = yaml.load(text, _UniqueLoader)
        except (
            yaml.YAMLError,
            ValueError,
            TypeError,
            RecursionError,
        ) as error:
            # Beside those of YAML: numbers, keys and depth beyond Python's.
            raise UserError(
                f'--label-ids {path} is no YAML: {error}'
            ) from error
    if not isinstance(ids, dict) or not ids:
        raise UserError(
            f'--label-ids {path} must hold {{class name: id}}, such as '
            '{"road": 7, "car": 26}'
        )
    return ids


class _UniqueLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML takes the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            double = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f'{double!r} stands twice')
        return super().construct_mapping(node, deep)


def encode_rle(mask: np.ndarray) -> dict:
    """Encode a mask as COCO's run-length encoding, uncompressed.

    Args:
        mask: (H, W) bool.

    Returns:
        ``size`` [H, W] and ``counts``: lengths of runs in column-major order,
        alternately of 0 and of 1; the first may be 0.
    """
    flat = np.asarray(mask, bool).ravel(order='F')
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *starts, len(flat)]).tolist()
    if flat[0]:
        counts.insert(0, 0)
    return dict(size=list(mask.shape), counts=counts)


def decode_rle(rle: dict) -> np.ndarray:
    """Decode what :func:`encode_rle` returns.

    Returns:
        (H, W) bool.
    """
    counts = rle['counts']
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(rle['size'], order='F')


def coco_of(
    labels: np.ndarray,
    classes: Sequence[str],
    ids: np.ndarray,
    file_name: str,
) -> dict:
    """Describe the labels of an image in COCO's format.

    Args:
        labels: (H, W) class indices.
        classes: Names.
        ids: Class index -> category id, see :func:`read_label_ids`.
        file_name: Of the image.

    Returns:
        ``images`` (one), ``categories`` and ``annotations``, one for each id
        that occurs, with its mask as ``segmentation``. Pixels without a
        class, 255, are in none.
    """
    height, width = labels.shape
    names: dict[int, list[str]] = {}
    for index, name in enumerate(classes):
        names.setdefault(int(ids[index]), []).append(name)
    mapped = ids[labels]
    annotations = []
    for number in sorted(names):
        mask = mapped == number
        if not mask.any():
            continue
        rows = np.flatnonzero(mask.any(1))
        columns = np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=1,
                category_id=number,
                segmentation=encode_rle(mask),
                area=int(mask.sum()),
                bbox=box,
                iscrowd=0,
            )
        )
    return dict(
        images=[dict(id=1, file_name=file_name, height=height, width=width)],
        categories=[
            dict(id=number, name=' / '.join(words))
            for number, words in sorted(names.items())
        ],
        annotations=annotations,
    )
