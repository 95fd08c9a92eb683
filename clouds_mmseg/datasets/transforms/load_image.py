"""Reading of images."""

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.registry import TRANSFORMS

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.utils.image_files import truncated
from clouds_mmseg.utils.images import (
    ImageFileError,
    check_image_range,
    decode_image,
    exif_orientation,
    orient,
)

_ADVICE = "Replace the file, or name it in the dataset's skip list."
# Backends of mmcv that leave EXIF orientation to their caller.
_NOT_TURNED = ('turbojpeg', 'tifffile')


@TRANSFORMS.register_module()
class LoadSegImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` by the rules of :mod:`~.utils.images`.

    Errors name the file. A file that breaks off is an error here: OpenCV
    before version 5 fills the rest of such an image with grey or black and
    says nothing.

    Args:
        image_range (Sequence[float], optional): The values in the files that
            become 0 and 255. Defaults to ``image_range`` of the dataset.
        **kwargs: Of mmcv's class. With another ``color_type`` or
            ``imdecode_backend`` than the defaults, depth is that backend's.

    Raises:
        ValueError: ``ignore_empty=True``, which would replace images that
            cannot be read by others, without a word.
    """

    def __init__(self, image_range=None, **kwargs):
        super().__init__(**kwargs)
        if self.ignore_empty:
            raise ValueError(
                'LoadSegImage does not take ignore_empty=True: images that '
                'cannot be read would be replaced by others without a word; '
                'name them in skip of the dataset'
            )
        self.image_range = check_image_range(image_range)

    def transform(self, results):
        """Add ``img`` ((H, W, 3) uint8, BGR), ``img_shape``, ``ori_shape``.

        Raises:
            DataError: The file is missing, incomplete or not an image, or
                its values do not lie in the image range.
        """
        path = results['img_path']
        payload = read_file(path, 'image', self.backend_args)
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
        if self.imdecode_backend in _NOT_TURNED:
            image = orient(image, exif_orientation(payload))
        return image


def read_file(path: str, kind: str, backend_args: dict | None = None) -> bytes:
    """Read the bytes of a file of a dataset.

    Args:
        path: The file.
        kind: 'image' or 'label', for the message.
        backend_args: Of mmengine's file backend.

    Returns:
        The file.

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
