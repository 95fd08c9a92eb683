"""Conversion of published label files to train ids."""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from clouds_mmseg.datasets.labels import (
    CLASSES_OF_VISTAS,
    IGNORED_OF_VISTAS,
    TRAIN_IDS,
    UNDEFINED,
    WILDDASH2_CLASSES,
    WILDDASH2_TO_CITYSCAPES,
    LabelIds,
    apply_label_table,
    build_label_table,
)
from clouds_mmseg.datasets.transforms.loading import describe_ids
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.images import (
    ImageFileError,
    decode_ids,
    open_image,
)
from clouds_mmseg.utils.text_files import parse_json


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
    def of(cls, ids: LabelIds, channel: str | None = None) -> 'TableConverter':
        """Make the converter of files with these ids."""
        table = build_label_table(ids.train_ids, ids.ignored)
        return cls(table.tobytes(), channel)

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
            known = np.flatnonzero(table != UNDEFINED)
            raise DataError(
                f'label {name} has ids outside the classes: '
                f'{describe_ids(undefined)}; the set defines '
                f'{describe_ids(known.tolist())}'
            )
        return mapped


CHECK_TRAIN_IDS = TableConverter.of(TRAIN_IDS)


def draw_polygons(payload: bytes, name: str) -> np.ndarray:
    """Rasterise the polygons of an image with cityscapesscripts.

    Args:
        payload: A ``*_polygons.json``.
        name: Of the file, for messages.

    Returns:
        (H, W) uint8 train ids, 255 where the class is not evaluated.

    Raises:
        DataError: The file is damaged, or has an unknown class.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    try:
        annotation = Annotation()
        annotation.fromJsonText(payload.decode('utf-8'))
        image = createLabelImage(annotation, 'trainIds')
    # cityscapesscripts exits on a class that it does not know.
    except (Exception, SystemExit) as error:
        raise DataError(
            f'label {name} cannot be drawn ({_failure_text(payload, error)})'
        ) from error
    return np.asarray(image)


@dataclass(frozen=True)
class PolygonConverter:
    """Converter of polygons in Cityscapes' format, with classes of a set.

    Attributes:
        train_ids: Name of a class and its train id; 255 if not evaluated.
    """

    train_ids: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, ids: LabelIds) -> 'PolygonConverter':
        """Make the converter for classes that are found by name."""
        return cls(
            tuple(
                (name, ids.train_ids.get(index, IGNORE))
                for index, name in enumerate(ids.names)
            )
        )

    def __call__(self, payload: bytes, name: str) -> np.ndarray:
        """Draw a ``*_polygons.json`` to train ids, (H, W) uint8.

        Later polygons cover earlier ones, deleted ones are left out, a group
        has the class of its members, and pixels of no polygon become 255.

        Source: cityscapesScripts and github.com/AutoNUE/public-code,
        ``json2labelImg.py`` of both.

        Raises:
            DataError: The file is damaged, or has an unknown class.
        """
        known = dict(self.train_ids)
        try:
            content = parse_json(payload)
            size = (content['imgWidth'], content['imgHeight'])
            image = Image.new('L', size, IGNORE)
            drawing = ImageDraw.Draw(image)
            for shape in content['objects']:
                if int(shape.get('deleted', 0)):
                    continue
                label = shape['label']
                if label not in known:
                    label = label.removesuffix('group')
                points = [(x, y) for x, y in shape['polygon']]
                drawing.polygon(points, fill=known[label])
        except Exception as error:
            raise DataError(
                f'label {name} cannot be drawn '
                f'({type(error).__name__}: {error})'
            ) from error
        return np.asarray(image)


def _failure_text(payload, error):
    if not isinstance(error, SystemExit):
        return f'{type(error).__name__}: {error}'
    from cityscapesscripts.helpers.labels import name2label

    names = {o.get('label') for o in parse_json(payload).get('objects', [])}
    unknown = sorted(n for n in names if n not in name2label)
    return f'unknown classes: {", ".join(map(str, unknown))}'


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
        names = [label['name'] for label in parse_json(payload)['labels']]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{name} is no config of Mapillary Vistas ({error!r})'
        ) from error
    table = CLASSES_OF_VISTAS[version]
    ignored = IGNORED_OF_VISTAS[version]
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
    ids = LabelIds.of_names(names, table)
    return TableConverter.of(ids.and_ignored(IGNORE))


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
            content = parse_json(payload)
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
        except DataError:
            raise
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
