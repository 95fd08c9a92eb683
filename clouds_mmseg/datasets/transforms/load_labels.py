"""Reading of label files."""

import io

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmseg.registry import TRANSFORMS
from PIL import Image

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.label_table import apply_label_table
from clouds_mmseg.datasets.transforms.integrity import require_complete

_ADVICE = "Mend the file, or name its image in the dataset's skip list."


@TRANSFORMS.register_module()
class LoadSegLabels(BaseTransform):
    """Read a label file as published and map its ids to class indices.

    Takes the place of mmseg's ``LoadAnnotations`` for :class:`DGDataset`. As
    there, it stands before the geometric transforms in training, and after
    ``Resize`` in a test that compares at the label's own size.

    Required keys: ``seg_map_path``, ``label_table``; optional ``ori_shape``
    (of the loaded image), ``label_channel``. A sample of a dataset without
    label files has no ``seg_map_path`` and passes as it is.
    Added keys: ``gt_seg_map``; ``seg_fields`` grows by it.

    Args:
        backend_args (dict, optional): Of mmengine's file backend.
    """

    def __init__(self, backend_args=None):
        self.backend_args = backend_args

    def transform(self, results):
        """Add ``gt_seg_map``: (H, W) uint8, class indices, 255 ignored.

        Raises:
            DataError: The file is missing, damaged, has another size than
                the image, or holds an id that the dataset does not define.
        """
        path = results.get('seg_map_path')
        if path is None:
            return results
        require_complete(path, 'label')
        try:
            raw = self._decode(path, results.get('label_channel'))
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f'label {path} cannot be decoded '
                f'({type(error).__name__}: {error}).',
                _ADVICE,
            ) from error
        image_shape = results.get('ori_shape')
        if image_shape is not None and raw.shape != tuple(image_shape[:2]):
            raise DataError(
                f'label {path} is {raw.shape[1]}x{raw.shape[0]}, but its '
                f'image {results.get("img_path")} is '
                f'{image_shape[1]}x{image_shape[0]} (width x height): they '
                'must be equal.',
                _ADVICE,
                kind='size',
            )
        table = results['label_table']
        mapped, undefined = apply_label_table(raw, table)
        if undefined:
            known = np.flatnonzero(table != 254)
            raise DataError(
                f'label {path} has ids outside the classes: '
                f'{describe_ids(undefined)}; the dataset defines '
                f'{describe_ids(known.tolist())}.',
                'Check that these are the label files its layout asks for.',
                kind='ids',
            )
        results['gt_seg_map'] = mapped
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def _decode(self, path, channel):
        """Return the ids of a label file: (H, W), uint8 or uint16."""
        payload = fileio.get(path, backend_args=self.backend_args)
        return decode_ids(payload, channel, path)

    def __repr__(self):
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def decode_ids(payload, channel, name):
    """Decode the bytes of a label file.

    Args:
        payload (bytes): The file.
        channel (str, optional): ``'first'`` for files with several channels
            and the class id in the first one in file order.
        name (str): Of the file, for messages.

    Returns:
        np.ndarray: (H, W) uint8 or uint16: the ids as in the file.

    Raises:
        DataError: The file has several channels and ``channel`` is None.
        Exception: What the decoder raises on a damaged file.
    """
    if channel == 'first':
        # Pillow cuts 16-bit colour PNGs down to 8 bits. OpenCV keeps
        # them, with the channels in reverse order.
        raw = cv2.imdecode(
            np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED
        )
        if raw is None:
            raise ValueError('OpenCV cannot decode it')
        if raw.ndim == 3:
            # With an alpha channel the order is B, G, R, A.
            raw = raw[..., 2]
        return np.ascontiguousarray(raw)
    # OpenCV turns palette PNGs into colours; Pillow keeps the indices.
    with Image.open(io.BytesIO(payload)) as image:
        raw = np.asarray(image)
    if raw.ndim != 2:
        raise DataError(
            f'label {name} has {raw.shape[2]} channels, but a label file '
            'has one, with a class id in each pixel. This looks like a '
            'picture of the classes in colour: use the id files.'
        )
    if raw.dtype == bool:
        raw = raw.astype(np.uint8)
    return raw


def describe_ids(numbers):
    """Write sorted integers shortly: ``[0, 1, 2, 5]`` -> ``0-2, 5``."""
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
