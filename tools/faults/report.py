"""Results of the campaign as JSON and as the tables of a page."""

import json
from collections.abc import Iterable
from pathlib import Path

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.tables import format_table
from clouds_mmseg.utils.text_files import split_marked
from faults.campaign import Record
from faults.commands import COMMANDS

MARKS = ('<!-- begin: tools/faults.py -->', '<!-- end: tools/faults.py -->')
TITLES = {
    'SIGKILL': 'Kills',
    'disk': 'Disk',
    'clock': 'Clock',
    'two runs': 'Two runs at once',
    'memory': 'Worker processes',
    'shared': 'Processes that share work (`--shared`)',
    'store': 'Processes that share work in an object store',
}


def write_docs(folder: Path, found: Iterable[Record]) -> None:
    """Add results to ``reliability.json`` and make the tables anew.

    Args:
        folder: With ``reliability.md``.
        found: Replace older results of the same fault and command.
    """
    page = folder / 'reliability.md'
    before, after = split_marked(page, MARKS)
    path = folder / 'reliability.json'
    stored = json.loads(path.read_text()) if path.is_file() else []
    records = {r.key: r for r in [Record(**x) for x in stored] + [*found]}
    rows = [vars(record) for record in records.values()]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + '\n')
    tables = describe(records.values())
    with atomic_path(page) as temporary:
        temporary.write_text(f'{before}\n\n{tables}\n\n{after}')


def describe(records: Iterable[Record]) -> str:
    """Format tables of records, one a part of the campaign; Markdown."""
    records = list(records)
    parts = []
    for group, title in TITLES.items():
        of_group = [record for record in records if record.group == group]
        if not of_group:
            continue
        trials = sum(record.trials for record in of_group)
        failed = sum(len(record.failed) for record in of_group)
        parts.append(
            f'### {title}: {trials} trials, {failed} failed\n\n'
            + _table(of_group)
        )
    return '\n\n'.join(parts)


def _table(records):
    """Rows are faults, columns commands, cells passed of trials."""
    names = [n for n in COMMANDS if any(r.command == n for r in records)]
    rows = []
    for fault in dict.fromkeys(record.fault for record in records):
        cells = {r.command: r for r in records if r.fault == fault}
        rows.append([fault, *(_cell(cells.get(name)) for name in names)])
    return format_table(['fault', *names], rows, markdown=True)


def _cell(record):
    if record is None:
        return ''
    return f'{record.trials - len(record.failed)}/{record.trials}'
