"""Dataset of a user's own images and classes."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.labels import MAX_ID
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.data_root import find_beside_data, is_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import name_list, near_names
from clouds_mmseg.utils.text_files import read_json


@DATASETS.register_module()
class FolderDataset(DGDataset):
    """A folder of images, a folder of labels, and user-defined classes.

    Layout: ``images/**/*.png`` and, under the same names,
    ``labels/**/*.png``: one channel (grey or palette), an id in each pixel.
    Give ``data_prefix`` and the suffixes if yours differ. An id is the index
    of its class, unless ``names`` and ``label_map`` (by name) or ``ids`` (by
    number) say otherwise.

    Args:
        metainfo: ``classes`` (names) and optionally ``palette`` (an RGB triple
            for each).
        domain: Name under which results are reported.
        data_root: See :class:`DGDataset`.
        names: What the ids in the label files are called, see
            :func:`~clouds_mmseg.datasets.folder.read_names`. Names that no
            class takes are ignored, and logged. A file is looked for from
            the working folder, then below ``data_root``.
        label_map: Class -> names that make it up: ``{'road': ['lane marking',
            'road']}``. A class that is left out consists of the name equal to
            its own.
        ids: Id in the label files -> class index, in place of ``names``.
            Defaults to id = index.
        ignored: Further ids in the label files, which are neither trained on
            nor evaluated. 255 always is, unless a class has it.
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
        data_root: str | None = None,
        metainfo: dict | None = None,
        names: dict | Sequence[str] | str | None = None,
        label_map: dict[str, Sequence[str]] | None = None,
        ids: dict[int, int] | None = None,
        ignored: Sequence[int] = (),
        **kwargs: Any,
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
        # As given, without the names that no class takes.
        self.ignored = frozenset(ignored)
        self._ignored = set(ignored).union(*left.values())
        super().__init__(data_root=data_root, metainfo=metainfo, **kwargs)
        if left:
            _say_once(
                f'FolderDataset (domain {self.domain}): no class takes '
                f'{", ".join(left)}: ignored'
            )

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return id in the label file -> class index."""
        return self._ids

    def ignored_ids(self) -> set[int]:
        """Return the ids given as ignored, and 255."""
        return self._ignored | ({IGNORE} - set(self._ids))


def read_names(
    names: dict | Sequence[str] | str | Path,
) -> dict[str, tuple[int, ...]]:
    """Read the table of names of the ids in label files.

    Args:
        names: Name -> id, or name -> ids; or the names in the order of their
            ids 0, 1, 2, ...; or a JSON file with either.

    Returns:
        Name -> ids in 0..65535.

    Raises:
        UserError: The file cannot be read, a name occurs twice, or an id is no
            integer in 0..65535 or has two names.
    """
    where = 'names'
    if isinstance(names, (str, Path)):
        where = f'the table of names {names}'
        if not is_file(names):
            raise UserError(
                f'{where} does not exist: names= takes a JSON file such as '
                '{"road": 0, "lane marking": 1}, or such a table, or a list'
            )
        names = read_json(names, 'the table of names')
    if isinstance(names, (list, tuple)):
        names = name_list(names, where)
        names = {name: index for index, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise UserError(
            f'{where} must be a table name -> id, such as '
            f'{{"road": 0, "lane marking": 1}}; got {names!r}'
        )
    table, owner = {}, {}
    for name, ids in names.items():
        ids = tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)
        for number in ids:
            if type(number) is not int or not 0 <= number <= MAX_ID:
                raise UserError(
                    f'{where}: {name!r} has the id {number!r}; ids are '
                    f'integers in 0..{MAX_ID}, what a 16-bit label file holds'
                )
            if number in owner:
                raise UserError(
                    f'{where}: the id {number} is both {owner[number]!r} and '
                    f'{name!r}'
                )
            owner[number] = name
        table[name] = ids
    return table


def map_labels(
    classes: Sequence[str],
    names: dict[str, tuple[int, ...]],
    label_map: dict[str, Sequence[str]] | None = None,
) -> tuple[dict[int, int], dict[str, tuple[int, ...]]]:
    """Translate a label map from names to ids.

    Args:
        classes: The classes of the model.
        names: See :func:`read_names`.
        label_map: Class -> the names that make it up; an empty list for a
            class that does not occur. A class that it leaves out is the name
            that it has itself.

    Returns:
        Id in the label files -> class index; and the names that no class
        takes, with their ids.

    Raises:
        UserError: Classes or names are unknown, a name belongs to two classes,
            or a class has no name.
    """
    if not isinstance(label_map or {}, dict):
        raise UserError(
            f'label_map={label_map!r} is a {type(label_map).__name__}, not a '
            "table class -> names, such as dict(road=['lane marking'])"
        )
    label_map = {
        key: [value]
        if isinstance(value, str)
        else name_list(value, f'label_map[{key!r}]')
        for key, value in (label_map or {}).items()
    }
    _refuse_unknown('label_map has classes', label_map, classes)
    members = {name: label_map.get(name, [name]) for name in classes}
    for name, parts in members.items():
        unknown = [part for part in parts if part not in names]
        if name not in label_map and unknown:
            raise UserError(
                f'the class {name!r} is no name of the label files'
                + near_names([name], names)
                + '. Say in label_map what it is made of, with [] if it does '
                f'not occur: label_map={{{name!r}: [...]}}'
            )
        _refuse_unknown(f'label_map[{name!r}] has names', parts, names)
    ids, owner = {}, {}
    for index, (name, parts) in enumerate(members.items()):
        for part in parts:
            if part in owner:
                raise UserError(
                    f'the name {part!r} belongs to two classes: '
                    f'{owner[part]!r} and {name!r}; a pixel can have one'
                )
            owner[part] = name
            ids.update(dict.fromkeys(names[part], index))
    left = {name: names[name] for name in names if name not in owner}
    return ids, left


def _refuse_unknown(what, found, known):
    unknown = [name for name in found if name not in known]
    if unknown:
        raise UserError(
            f'{what} that do not exist: {", ".join(map(repr, unknown))}'
            + near_names(unknown, known)
        )


@lru_cache(maxsize=1024)
def _say(text, logger):
    """Log a text; a test set is opened for checks, val and test alike."""
    print_log(text, logger=logger)


def _say_once(text):
    """Log a text, unless the log of this run has it already."""
    _say(text, MMLogger.get_current_instance())
