"""Reading of images."""

from mmcv.transforms import LoadImageFromFile
from mmseg.registry import TRANSFORMS

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.transforms.integrity import require_complete


@TRANSFORMS.register_module()
class LoadSegImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, with errors that name the file.

    A file that breaks off is an error here. OpenCV before version 5 fills the
    rest of such an image with grey or black and says nothing.
    """

    def transform(self, results):
        """Add ``img`` ((H, W, 3) uint8, BGR), ``img_shape``, ``ori_shape``.

        Raises:
            DataError: The file is missing, incomplete or not an image.
        """
        path = results['img_path']
        require_complete(path, 'image')
        try:
            return super().transform(results)
        except Exception as error:
            raise DataError(
                f'image {path} cannot be decoded '
                f'({type(error).__name__}: {error}).',
                "Replace the file, or name it in the dataset's skip list.",
            ) from error
