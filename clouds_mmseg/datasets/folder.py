"""Your own images and classes."""

from functools import lru_cache

from mmengine.logging import MMLogger, print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.data_root import find_beside_data
from clouds_mmseg.datasets.label_map import map_labels, read_names
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import name_list


@DATASETS.register_module()
class FolderDataset(DGDataset):
    """A folder of images, a folder of labels, and classes of your own.

    Layout: ``images/**/*.png`` and, under the same names,
    ``labels/**/*.png``: one channel (grey or palette), an id in each pixel.
    Give ``data_prefix`` and the suffixes if yours differ. An id is the index
    of its class, unless ``names`` and ``label_map`` (by name) or ``ids`` (by
    number) say otherwise.

    Args:
        metainfo (dict): ``classes`` (names) and optionally ``palette`` (an
            RGB triple for each).
        domain (str): Name under which results are reported.
        data_root (str, optional): See :class:`DGDataset`.
        names (dict | Sequence[str] | str, optional): What the ids in the
            label files are called, see
            :func:`~clouds_mmseg.datasets.label_map.read_names`. Names that
            no class takes are ignored, and logged. A file lies where its
            path says, from the working folder or below ``data_root``.
        label_map (dict[str, Sequence[str]], optional): Class -> names that
            make it up: ``{'road': ['lane marking', 'road']}``. A class that
            is left out is the name that it has itself.
        ids (dict[int, int], optional): Id in the label files -> class index,
            in place of ``names``. Defaults to id = index.
        ignored (Sequence[int]): Further ids in the label files, which are
            neither trained on nor evaluated. 255 always is, unless a class
            has it.
        **kwargs: See :class:`DGDataset`.

    Raises:
        UserError: A name is unknown or belongs to two classes, ``metainfo``
            names no classes, ``ids`` maps to a class that does not exist, or
            arguments exclude each other.
    """

    METAINFO = dict()

    def __init__(
        self,
        *,
        data_root=None,
        metainfo=None,
        names=None,
        label_map=None,
        ids=None,
        ignored=(),
        **kwargs,
    ):
        if not metainfo or not metainfo.get('classes'):
            raise UserError(
                "FolderDataset needs metainfo=dict(classes=['name', ...]): "
                'the classes in the order of their indices'
            )
        classes = name_list(metainfo['classes'], 'metainfo.classes')
        left = {}
        if names is not None:
            if ids is not None:
                raise UserError(
                    'FolderDataset takes names or ids, not both: they say '
                    'the same'
                )
            if isinstance(names, str):
                names = find_beside_data(names, data_root)
            ids, left = map_labels(classes, read_names(names), label_map)
        elif label_map is not None:
            raise UserError(
                'label_map of FolderDataset needs names: what the ids in the '
                'label files are called, such as names=dict(road=0)'
            )
        elif ids is None:
            ids = range(len(classes))
            ids = dict(zip(ids, ids, strict=True))
        if not isinstance(ids, dict):
            raise UserError(
                f'ids={ids!r} of FolderDataset is no table id in the label '
                'files -> class index, such as {7: 0, 8: 1}'
            )
        if isinstance(ignored, (str, dict)) or not all(
            type(number) is int for number in ignored
        ):
            raise UserError(
                f'ignored={ignored!r} of FolderDataset is no list of ids, '
                'such as [11]'
            )
        wrong = {i: c for i, c in ids.items() if not 0 <= c < len(classes)}
        if wrong:
            raise UserError(
                f'ids={wrong} of FolderDataset point outside its '
                f'{len(classes)} classes (indices 0..{len(classes) - 1})'
            )
        self._ids = dict(ids)
        # What was asked for, without the names that no class takes.
        self.ignored = frozenset(ignored)
        self._ignored = set(ignored).union(*left.values())
        super().__init__(data_root=data_root, metainfo=metainfo, **kwargs)
        if left:
            _say_once(
                f'FolderDataset (domain {self.domain}): no class takes '
                f'{", ".join(left)}: ignored'
            )

    def label_ids(self, metainfo):
        """Return id in the label file -> class index."""
        return self._ids

    def ignored_ids(self):
        """Return the ids given as ignored, and 255."""
        return self._ignored | ({IGNORE} - set(self._ids))


@lru_cache(maxsize=1024)
def _say(text, logger):
    """Log a text; a test set is opened for checks, val and test alike."""
    print_log(text, logger=logger)


def _say_once(text):
    """Log a text, unless the log of this run has it already."""
    _say(text, MMLogger.get_current_instance())
