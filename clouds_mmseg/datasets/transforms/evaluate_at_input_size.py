"""Comparison at the size of the network's input."""

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class EvaluateAtInputSize(BaseTransform):
    """Let prediction and label be compared at the resized size.

    mmseg resizes predictions to ``ori_shape`` before the metric sees them.
    This sets ``ori_shape`` to the size of the resized image. It stands after
    ``Resize``, which must stand after the labels were loaded, so that they
    are resized too. BDD100K, Mapillary and ACDC are evaluated so by the
    official CLOUDS code.
    """

    def transform(self, results):
        """Set ``ori_shape`` to ``img_shape``.

        Raises:
            ValueError: The label does not have the size of the image.
        """
        shape = tuple(results['img_shape'][:2])
        label = results.get('gt_seg_map')
        if label is not None and label.shape != shape:
            raise ValueError(
                f'EvaluateAtInputSize: the label is {label.shape}, the image '
                f'{shape} (height, width). LoadSegLabels must stand before '
                'Resize in this pipeline.'
            )
        results['ori_shape'] = shape
        return results

    def __repr__(self):
        return f'{type(self).__name__}()'
