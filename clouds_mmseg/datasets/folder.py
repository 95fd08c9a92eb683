"""Your own images and classes."""

from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.utils.cityscapes import IGNORE


@DATASETS.register_module()
class FolderDataset(DGDataset):
    """A folder of images, a folder of labels, and classes of your own.

    Layout: ``images/**/*.png`` and, under the same names,
    ``labels/**/*.png``: one channel (grey or palette), the class index in
    each pixel. Give ``data_prefix`` and the suffixes if yours differ.

    Args:
        metainfo (dict): ``classes`` (names) and optionally ``palette`` (an
            RGB triple for each).
        domain (str): Name under which results are reported.
        ids (dict[int, int], optional): Id in the label files -> class index.
            Defaults to id = index.
        ignored (Sequence[int]): Further ids in the label files, which are
            neither trained on nor evaluated. 255 always is, unless ``ids``
            maps it.
        **kwargs: See :class:`DGDataset`.

    Raises:
        ValueError: ``metainfo`` names no classes, or ``ids`` maps to a class
            that does not exist.
    """

    METAINFO = dict()

    def __init__(self, *, metainfo=None, ids=None, ignored=(), **kwargs):
        if not metainfo or not metainfo.get('classes'):
            raise ValueError(
                "FolderDataset needs metainfo=dict(classes=['name', ...]): "
                'the classes in the order of their indices'
            )
        classes = metainfo['classes']
        if ids is None:
            ids = range(len(classes))
            ids = dict(zip(ids, ids, strict=True))
        wrong = {i: c for i, c in ids.items() if not 0 <= c < len(classes)}
        if wrong:
            raise ValueError(
                f'ids={wrong} of FolderDataset point outside its '
                f'{len(classes)} classes (indices 0..{len(classes) - 1})'
            )
        self._ids = dict(ids)
        self._ignored = set(ignored)
        super().__init__(metainfo=metainfo, **kwargs)

    def label_ids(self, metainfo):
        """Return id in the label file -> class index."""
        return self._ids

    def ignored_ids(self):
        """Return the ids given as ignored, and 255."""
        return self._ignored | ({IGNORE} - set(self._ids))
