"""Reading of images and label files."""

import hashlib
from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from clouds_mmseg.datasets.labels import UNDEFINED, apply_label_table
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.image_files import truncated
from clouds_mmseg.utils.images import (
    ImageFileError,
    check_image_range,
    decode_ids,
    decode_image,
    exif_orientation,
    orient,
)

_ADVICE = "Replace the file, or name it in the dataset's skip list."
# Backends of mmcv that do not apply the EXIF orientation.
_IGNORE_ORIENTATION = ('turbojpeg', 'tifffile')
_LABEL_ADVICE = (
    "Repair the file, or name its image in the dataset's skip list."
)
# Number of undefined ids in a label that no mistake in a table explains.
_MANY = 16


@TRANSFORMS.register_module()
class LoadSegImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with the decoder of the package.

    See :mod:`clouds_mmseg.utils.images`. Errors name the file. A truncated
    file is an error: OpenCV before version 5 silently fills the rest of such
    an image with grey or black.

    Args:
        image_range: The values in the files that become 0 and 255. Defaults to
            ``image_range`` of the dataset.
        **kwargs: Of mmcv's class. With another ``color_type`` or
            ``imdecode_backend`` than the defaults, depth is that backend's.

    Raises:
        UserError: ``ignore_empty=True``, which would replace images that
            cannot be read by others silently.
    """

    def __init__(
        self, image_range: Sequence[float] | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if self.ignore_empty:
            raise UserError(
                'LoadSegImage does not take ignore_empty=True: images that '
                'cannot be read would be replaced by others silently; '
                'name them in skip of the dataset'
            )
        self.image_range = check_image_range(image_range)

    def transform(self, results: dict) -> dict:
        """Add ``img`` ((H, W, 3) uint8, BGR), ``img_shape``, ``ori_shape``.

        Raises:
            DataError: The file is missing, incomplete or not an image, its
                hash is not ``img_sha256`` of the sample, or its values do not
                lie in the image range.
        """
        payload = read_file(results['img_path'], 'image', self.backend_args)
        return self.decode(payload, results)

    def decode(self, payload: bytes, results: dict) -> dict:
        """Do as :meth:`transform` with a file that was read already.

        Args:
            payload: The file.
            results: Changed in place, and returned.

        Raises:
            DataError: See :meth:`transform`.
        """
        path = results['img_path']
        check_hash(payload, results.get('img_sha256'), f'image {path}')
        given = self.image_range or results.get('image_range')
        try:
            image = self._decode(payload, given)
        except ImageFileError as error:
            raise DataError(f'image {path} {error}.', _ADVICE) from error
        except Exception as error:
            raise DataError(
                f'image {path} cannot be decoded '
                f'({type(error).__name__}: {error}).',
                _ADVICE,
            ) from error
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, payload, image_range):
        if self.color_type == 'color' and self.imdecode_backend == 'cv2':
            return decode_image(payload, image_range)
        problem = truncated(payload)
        if problem:
            raise ImageFileError(problem)
        image = mmcv.imfrombytes(
            payload, flag=self.color_type, backend=self.imdecode_backend
        )
        if image is None:
            raise ImageFileError('cannot be decoded')
        if self.imdecode_backend in _IGNORE_ORIENTATION:
            image = orient(image, exif_orientation(payload))
        return image


@TRANSFORMS.register_module()
class LoadSegLabels(BaseTransform):
    """Read a label file as published and map its ids to class indices.

    Replaces mmseg's ``LoadAnnotations`` for :class:`DGDataset`. Like that, it
    is placed before the geometric transforms in training, and after ``Resize``
    in a test that compares at the label's own size.

    Required keys: ``seg_map_path``, ``label_table``; optional ``ori_shape``
    (of the loaded image), ``label_channel``, ``seg_map_sha256``. A sample of a
    dataset without label files has no ``seg_map_path`` and is returned
    unchanged.
    Added keys: ``gt_seg_map``, which is appended to ``seg_fields``.

    Args:
        backend_args: Of mmengine's file backend.
    """

    def __init__(self, backend_args: dict | None = None):
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``: (H, W) uint8, class indices, 255 ignored.

        Raises:
            DataError: The file is missing, damaged, has another size than the
                image, or holds an id that the dataset does not define.
        """
        path = results.get('seg_map_path')
        if path is None:
            return results
        payload = read_file(path, 'label', self.backend_args)
        return self.decode(payload, results)

    def decode(self, payload: bytes, results: dict) -> dict:
        """Do as :meth:`transform` with a file that was read already.

        Args:
            payload: The file.
            results: Changed in place, and returned.

        Raises:
            DataError: See :meth:`transform`.
        """
        path = results['seg_map_path']
        check_hash(payload, results.get('seg_map_sha256'), f'label {path}')
        try:
            raw = decode_ids(payload, results.get('label_channel'))
        except ImageFileError as error:
            raise DataError(f'label {path} {error}.', _LABEL_ADVICE) from error
        image_shape = results.get('ori_shape')
        if image_shape is not None and raw.shape != tuple(image_shape[:2]):
            raise DataError(
                f'label {path} is {raw.shape[1]}x{raw.shape[0]}, but its '
                f'image {results.get("img_path")} is '
                f'{image_shape[1]}x{image_shape[0]} (width x height): they '
                f'must be equal.{self._orientation_hint(results, raw.shape)}',
                _LABEL_ADVICE,
                kind='size',
            )
        table = results['label_table']
        mapped, undefined = apply_label_table(raw, table)
        if undefined:
            known = np.flatnonzero(table != UNDEFINED)
            raise DataError(
                f'label {path} has ids outside the classes: '
                f'{describe_ids(undefined)}; the dataset defines '
                f'{describe_ids(known.tolist())}.'
                + hint_about_ids(undefined, table),
                'Check that these are the label files its layout asks for.',
                kind='ids',
            )
        results['gt_seg_map'] = mapped
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def _orientation_hint(self, results, shape):
        """Explain sizes that differ by an EXIF orientation, or return ''."""
        height, width = results['ori_shape'][:2]
        if shape != (width, height) or 'img_path' not in results:
            return ''
        path = results['img_path']
        payload = read_file(path, 'image', self.backend_args)
        orientation = exif_orientation(payload)
        if orientation < 5:
            return ''
        return (
            f' The image has EXIF orientation {orientation} and is read '
            'turned upright, the label is stored as the image was before: '
            "turn the label, or remove the image's EXIF orientation."
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def read_file(path: str, kind: str, backend_args: dict | None = None) -> bytes:
    """Read the bytes of a file of a dataset.

    Args:
        path: The file.
        kind: 'image' or 'label', for the message.
        backend_args: Of mmengine's file backend.

    Raises:
        DataError: It does not exist or cannot be read.
    """
    try:
        return fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise DataError(
            f'{kind} {path} cannot be read: {error.strerror or error}.',
            "Replace the file, or name its image in the dataset's skip list.",
        ) from error


def check_hash(payload: bytes, expected: str | None, what: str) -> None:
    """Compare the content of a file with what its data set says.

    Args:
        payload: The file.
        expected: Its SHA-256 in hexadecimal; None if it is not known.
        what: What the file is and its path, for the message.

    Raises:
        DataError: They differ.
    """
    if expected is None or hashlib.sha256(payload).hexdigest() == expected:
        return
    raise DataError(
        f'{what}: its hash differs from the manifest.',
        'Copy or make the file again.',
    )


def hint_about_ids(undefined: list[int], table: np.ndarray) -> str:
    """Explain where ids that the table does not define may come from.

    Args:
        undefined: The ids.
        table: See ``label_table``.

    Returns:
        A sentence after a blank, or an empty string.
    """
    large = [i for i in undefined if i >= 1000]
    if large and all(
        i // 1000 < len(table) and table[i // 1000] != UNDEFINED for i in large
    ):
        return (
            ' They look like instance ids (class id * 1000 + number, as in '
            'instanceIds of Cityscapes): use the semantic label files.'
        )
    if len(undefined) >= _MANY:
        return (
            ' So many of them come from a label that was resized with '
            'interpolation or went through a lossy format: make it again, '
            'with nearest neighbours.'
        )
    return ''


def describe_ids(numbers: list[int]) -> str:
    """Format sorted integers as ranges: ``[0, 1, 2, 5]`` -> ``0-2, 5``."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ', '.join(
        str(first) if first == last else f'{first}-{last}'
        for first, last in runs
    )
