"""WildDash 2: published layouts and panoptic labels."""

import json
from dataclasses import dataclass

import numpy as np

from clouds_mmseg.data_tools.prepare.convert import TableConverter
from clouds_mmseg.data_tools.prepare.layouts import Layout, published_rule
from clouds_mmseg.datasets.driving import (
    WILDDASH2_CLASSES,
    WILDDASH2_TO_CITYSCAPES,
    wilddash2_ids,
)
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.images import open_image

_LABEL = 'labels/{file}_labelTrainIds.png'


@dataclass(frozen=True)
class SegmentConverter:
    """Converter of one panoptic label, an RGB image of segment numbers.

    Attributes:
        segments: Number of a segment and its train id.
    """

    segments: tuple[tuple[int, int], ...]

    def __call__(self, payload: bytes, name: str) -> np.ndarray:
        """Decode a label file to train ids, (H, W) uint8.

        A segment has the number ``R + 256 G + 256^2 B``; pixels of no segment
        become 255.

        Source: COCO, panoptic format.
        """
        try:
            with open_image(payload) as image:
                rgb = np.asarray(image.convert('RGB'), np.int64)
        except Exception as error:
            raise DataError(
                f'label {name} cannot be decoded '
                f'({type(error).__name__}: {error})'
            ) from error
        numbers, indices = np.unique(
            rgb @ [1, 256, 65536], return_inverse=True
        )
        ids = dict(self.segments)
        unknown = [int(n) for n in numbers if n and n not in ids]
        if unknown:
            raise DataError(
                f'label {name} has segments that panoptic.json does not '
                f'list: {unknown[:10]}'
            )
        table = np.array([ids.get(int(n), IGNORE) for n in numbers])
        return table[indices].reshape(rgb.shape[:2]).astype(np.uint8)


class PanopticConverters:
    """Converters of all files, from the segments in ``panoptic.json``.

    Args:
        payload: ``panoptic.json``.
        name: For messages.

    Raises:
        DataError: It is damaged, or has a category that is not known.
    """

    def __init__(self, payload: bytes, name: str):
        try:
            content = json.loads(payload)
            names = {c['id']: c['name'] for c in content['categories']}
            unknown = sorted(set(names.values()) - set(WILDDASH2_CLASSES))
            if unknown:
                raise DataError(
                    f'{name} has categories that WildDash 2 does not have: '
                    + ', '.join(unknown)
                )
            ids = {i: _train_id(n) for i, n in names.items()}
            self._segments = {
                a['file_name'].removesuffix('.png'): tuple(
                    (s['id'], ids[s['category_id']])
                    for s in a['segments_info']
                )
                for a in content['annotations']
            }
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{name} is no panoptic annotation file ({error!r})'
            ) from error

    def for_file(self, file: str) -> SegmentConverter:
        """Return the converter of a file.

        Args:
            file: Its name without suffix.

        Returns:
            Without segments if the file is not listed.
        """
        return SegmentConverter(self._segments.get(file, ()))


def _train_id(name):
    name = WILDDASH2_TO_CITYSCAPES.get(name)
    return CLASSES.index(name) if name else IGNORE


def _wilddash2_rules(files, options):
    ids, ignored = wilddash2_ids()
    rules = [
        published_rule('image', r'images/{file}\.jpg', 'images/{file}.jpg'),
        published_rule(
            'label',
            r'labels/{file}\.png',
            _LABEL,
            source='label_ids',
            convert=TableConverter.from_ids(ids, ignored),
        ),
    ]
    panoptic = files.read('panoptic.json')
    if panoptic is not None:
        rules.append(
            published_rule(
                'label',
                r'panoptic/{file}\.png',
                _LABEL,
                source='panoptic',
                convert=PanopticConverters(panoptic, 'panoptic.json'),
            )
        )
    return tuple(rules)


WILDDASH2 = Layout(
    name='wilddash2',
    title='WildDash 2, public part',
    split='public',
    official=dict(public=4256),
    examples=(
        'images/ar0000_100000.jpg',
        'panoptic/ar0000_100000.png and panoptic.json (wd_public_v2p0.zip)',
        'labels/ar0000_100000.png (wd_public_02.zip)',
    ),
    prepare=_wilddash2_rules,
)
