"""A second view of an image, for the teacher."""

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepCleanView(BaseTransform):
    """Keep the image as it is now beside what becomes of it.

    The teacher of self-training labels this view; the student sees the
    further transforms. The step stands after those that resize or crop and
    before ``RandomFlip`` and the photometric ones: the teacher's label is
    mirrored as the student's view was, so the clean view must not be.
    ``PackDGInputs`` puts it into the data sample as ``clean_img``.
    """

    def transform(self, results):
        """Add ``clean_img``: a copy of ``img``, (H, W, 3) uint8, BGR.

        Raises:
            ValueError: The image was flipped already.
        """
        if results.get('flip'):
            raise ValueError(
                'KeepCleanView must stand before RandomFlip in the pipeline: '
                f'the image {results.get("img_path")} is flipped already, '
                'and its label would be mirrored once more'
            )
        results['clean_img'] = results['img'].copy()
        return results

    def __repr__(self):
        return f'{type(self).__name__}()'
