"""Another version of an image with the label of the first."""

import os
from pathlib import Path

from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class TakeImageFrom(BaseTransform):
    """Let the next step load the image of the same name in another folder.

    Stands before ``LoadSegImage``.

    Args:
        source (str): Folder of the data set's images.
        folder (str): Folder with the same tree of PNG files.
    """

    def __init__(self, source, folder):
        self.source = source
        self.folder = folder

    def transform(self, results):
        """Replace ``img_path``."""
        below = os.path.relpath(results['img_path'], self.source)
        path = Path(self.folder, below).with_suffix('.png')
        results['img_path'] = str(path)
        # What depth the files have that it was made of does not matter.
        results.pop('image_range', None)
        return results

    def __repr__(self):
        return (
            f'{type(self).__name__}(source={self.source!r}, '
            f'folder={self.folder!r})'
        )
