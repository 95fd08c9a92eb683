"""Registry of known weights: one YAML file, and the docs page made of it."""

import re
from pathlib import Path

import yaml

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

UNKNOWN = 'unknown'
_KEYS = (
    'name', 'origin', 'file', 'licence', 'sha256', 'config', 'published',
    'measured',
)  # fmt: skip
_NUMBERS = dict(
    published=('result', 'source'), measured=('result', 'protocol', 'command')
)
_SHA256 = re.compile(r'[0-9a-f]{64}|begins [0-9a-f]{6,63}|unknown')
_HEADER = """\
# Known weights

Made of [model_zoo.yaml](model_zoo.yaml) by `python tools/make_model_zoo.py`;
change it there. "unknown": neither published nor measured. Numbers are
mIoU in percent; those of two [protocols](evaluation.md#protocols) cannot be
compared.

Nothing with the published weights of DINOv2, DINOv3 or EVA02-CLIP, and no
released checkpoint of Rein, SoMA or tqdm, has been run with this code: that
it computes the same is shown on small recorded models, see
[towers](towers.md#what-is-checked).

A file is looked up under its name in the folder of `--pretrained-dir` (or
`CLOUDS_PRETRAINED_DIR`) before any hub is asked; see
[baselines](baselines.md#offline-use).
"""


def read_model_zoo(path: str | Path) -> list[dict]:
    """Read the registry and check its form.

    Args:
        path: The YAML file: ``groups``, each with ``title`` and
            ``entries``; every entry has all keys, ``unknown`` where nothing
            is known.

    Returns:
        The groups.

    Raises:
        UserError: The file cannot be read, or an entry lacks a key, has one
            too many, or a value of another form.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    groups = content.get('groups') if isinstance(content, dict) else None
    if not isinstance(groups, list):
        raise UserError(f'{path} must have a list "groups"')
    seen = set()
    for group in groups:
        if not isinstance(group, dict) or {*group} != {'title', 'entries'}:
            raise UserError(f'{path}: a group has "title" and "entries"')
        for entry in group['entries']:
            _check_entry(entry, path)
            if entry['name'] in seen:
                raise UserError(f'{path}: two entries {entry["name"]!r}')
            seen.add(entry['name'])
    return groups


def _check_entry(entry, path):
    """Refuse an entry of another form."""
    where = f'{path}, entry {entry.get("name")!r}'
    odd = {*entry} ^ {*_KEYS}
    if odd:
        raise UserError(
            f'{where}: {sorted(odd)} missing or too many; an entry has '
            f'{", ".join(_KEYS)}, "{UNKNOWN}" where nothing is known'
        )
    for key, value in entry.items():
        if key not in _NUMBERS and not (isinstance(value, str) and value):
            raise UserError(f'{where}: {key} must be text, got {value!r}')
    if not _SHA256.fullmatch(entry['sha256']):
        raise UserError(
            f'{where}: sha256 must be 64 hexadecimal digits, "begins ..." or '
            f'"{UNKNOWN}", got {entry["sha256"]!r}'
        )
    for key, parts in _NUMBERS.items():
        rows = [] if entry[key] == UNKNOWN else entry[key]
        if not isinstance(rows, list) or any(
            not isinstance(row, dict) or {*row} != {*parts} for row in rows
        ):
            raise UserError(
                f'{where}: {key} must be "{UNKNOWN}" or a list of '
                f'{", ".join(parts)}'
            )


def model_zoo_page(groups: list[dict]) -> str:
    """Write the page.

    Args:
        groups: Of :func:`read_model_zoo`.

    Returns:
        Markdown.
    """
    parts = [_HEADER]
    for group in groups:
        entries = group['entries']
        files = [
            (
                entry['name'],
                _code(entry['config']),
                _origin(entry),
                entry['licence'],
                _code(entry['sha256']),
            )
            for entry in entries
        ]
        head = ('weights', 'config', 'file', 'licence', 'SHA-256')
        parts.append(f'## {group["title"]}\n\n{_table(head, files)}')
        parts += _numbers(entries)
    return '\n'.join(parts)


def _numbers(entries):
    """A table of published and one of measured numbers, where there are."""
    for key, title in (
        ('published', 'Published by their authors'),
        ('measured', 'Measured with this code'),
    ):
        columns = _NUMBERS[key]
        if all(entry[key] == UNKNOWN for entry in entries):
            continue
        rows = []
        for entry in entries:
            known = [] if entry[key] == UNKNOWN else entry[key]
            for row in known:
                values = [
                    _code(row[column]) if column == 'command' else row[column]
                    for column in columns
                ]
                rows.append((entry['name'], *values))
            if not known:
                empty = [''] * (len(columns) - 1)
                rows.append((entry['name'], UNKNOWN, *empty))
        yield f'### {title}\n\n{_table(("weights", *columns), rows)}'


def _origin(entry):
    """Name of the file, linked to where it is published."""
    origin = entry['origin']
    name = origin if entry['file'] == UNKNOWN else _code(entry['file'])
    if not origin.startswith('https://'):
        return name if name == origin else f'{name} ({origin})'
    return f'[{name}]({origin})' if name != origin else f'<{origin}>'


def _code(text):
    return text if text == UNKNOWN or ' of ' in text else f'`{text}`'


def _table(head, rows):
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(
        '| ' + ' | '.join(str(cell) for cell in line) + ' |\n'
        for line in lines
    )


def write_model_zoo(source: str | Path, target: str | Path) -> int:
    """Make the page anew.

    Args:
        source: The YAML file.
        target: The page.

    Returns:
        Number of entries.

    Raises:
        UserError: See :func:`read_model_zoo`.
    """
    groups = read_model_zoo(source)
    with atomic_path(Path(target)) as temporary:
        Path(temporary).write_text(model_zoo_page(groups), encoding='utf-8')
    return sum(len(group['entries']) for group in groups)
