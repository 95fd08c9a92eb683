"""Measurements as tables and as JSON."""

import json
import platform
from pathlib import Path

import mmengine
import torch

from benchmark.measure import Measurement
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.device import device_name
from clouds_mmseg.utils.tables import format_table
from clouds_mmseg.version import __version__

OURS, REFERENCE, CHANGED = 'ours', 'plain', 'changed'


def rows_of(measurements: dict[str, Measurement]) -> list[dict]:
    """Convert measurements to rows, one per quantity.

    Args:
        measurements: Measurements of ``ours``, and optionally of ``plain``,
            the reference implementation, and of ``changed``, ours with other
            settings.

    Returns:
        ``name``, ``unit``, a value for each case, ``ratio``: the reference
        divided by ours, and ``increase``: changed divided by ours.
    """
    quantities = [
        ('median', 's', {k: m.median for k, m in measurements.items()}),
        ('spread', 's', {k: m.spread for k, m in measurements.items()}),
        ('peak memory', 'B', {k: m.peak for k, m in measurements.items()}),
    ]
    parts = dict.fromkeys(p for m in measurements.values() for p in m.parts)
    for part in parts:
        values = {k: m.parts.get(part) for k, m in measurements.items()}
        quantities.append((part, 's', values))
    if parts:
        rest = {
            k: max(m.whole - sum(m.parts.values()), 0.0)
            for k, m in measurements.items()
        }
        quantities.append(('rest', 's', rest))
    return [_row(*quantity) for quantity in quantities]


def _row(name, unit, values):
    row = dict(name=name, unit=unit, **values)
    # A ratio of spreads is meaningless.
    if name != 'spread' and values.get(REFERENCE) and values.get(OURS):
        row['ratio'] = values[REFERENCE] / values[OURS]
    if name != 'spread' and values.get(CHANGED) and values.get(OURS):
        row['increase'] = values[CHANGED] / values[OURS]
    return row


def environment() -> dict:
    """Collect machine and versions that the measurements depend on.

    Returns:
        The machine and the versions.
    """
    return dict(
        machine=device_name(),
        threads=torch.get_num_threads(),
        versions=dict(
            clouds_mmseg=__version__,
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            python=platform.python_version(),
        ),
    )


def table_of(
    rows: list[dict], measurements: dict[str, Measurement] | None = None
) -> str:
    """Format rows as a table.

    Args:
        rows: Rows of :func:`rows_of`, or any dicts with equal keys. ``work``
            and ``unit`` are not shown as columns.
        measurements: Measurements that give the shares of the parts.

    Returns:
        The table.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [c for c in columns if c not in ('work', 'unit')]
    cells = [[_cell(row, c, measurements) for c in columns] for row in rows]
    return format_table(columns, cells)


def _cell(row, column, measurements):
    value = row.get(column)
    if value is None:
        return ''
    if isinstance(value, str):
        return value
    if column in ('ratio', 'increase'):
        return f'{value:.2f}'
    if column == 'share':
        return f'{value:.0%}'
    unit = 's' if column == 'floor' else row.get('unit')
    measured = (measurements or {}).get(column)
    if measured is not None and row['name'] in {*measured.parts, 'rest'}:
        return f'{value:.3f} s {value / measured.whole:4.0%}'
    if unit == 'B' and isinstance(value, int):
        return f'{value / 2**20:,.0f} MiB'
    if unit == 'FLOP':
        return f'{value / 1e9:,.1f} GFLOP'
    if isinstance(value, float):
        return f'{value:.3f}' + (f' {unit}' if unit else '')
    return str(value)


def write_json(path: str | Path, **content) -> None:
    """Write the report to a JSON file atomically.

    Args:
        path: Path of the file.
        **content: JSON values.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + '\n')
