"""Label maps by name: which names of a data set make up a class."""

from pathlib import Path

from clouds_mmseg.datasets.label_table import MAX_ID
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import name_list, near_names
from clouds_mmseg.utils.text_files import read_json


def read_names(names):
    """Read what the ids in label files are called.

    Args:
        names (dict | Sequence[str] | str | Path): Name -> id, or name -> ids;
            or the names in the order of their ids 0, 1, 2, ...; or a JSON
            file with either.

    Returns:
        dict[str, tuple[int]]: Name -> ids in 0..65535.

    Raises:
        UserError: The file cannot be read, a name occurs twice, or an id is
            no integer in 0..65535 or has two names.
    """
    where = 'names'
    if isinstance(names, (str, Path)):
        where = f'the table of names {names}'
        if not Path(names).is_file():
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


def map_labels(classes, names, label_map=None):
    """Translate a label map by name into ids.

    Args:
        classes (Sequence[str]): The classes of the model.
        names (dict[str, tuple[int]]): See :func:`read_names`.
        label_map (dict[str, Sequence[str]], optional): Class -> the names
            that make it up; an empty list for a class that does not occur.
            A class that it leaves out is the name that it has itself.

    Returns:
        tuple[dict[int, int], dict[str, tuple[int]]]: Id in the label files
        -> class index; and the names that no class takes, with their ids.

    Raises:
        UserError: Classes or names are unknown, a name belongs to two
            classes, or a class has no name.
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
    wanted = {name: label_map.get(name, [name]) for name in classes}
    for name, parts in wanted.items():
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
    for index, (name, parts) in enumerate(wanted.items()):
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
