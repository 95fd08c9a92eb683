"""Results under corruptions as text tables."""

import math

from prettytable import PrettyTable

from clouds_mmseg.evaluation.tables import percent_cell
from clouds_mmseg.utils.corruptions import CATEGORIES, CLEAN, split_domain


def corruption_table(summary):
    """Draw a row per corruption, a column per severity, and the means.

    Args:
        summary (dict): See
            :func:`clouds_mmseg.evaluation.corruption_metric.summarize`.

    Returns:
        str: The table, and a line with the clean images below.
    """
    severities = list(summary['severity'])
    table = PrettyTable(['corruption', *map(str, severities), 'mean'])
    table.align = 'r'
    table.align['corruption'] = 'l'
    for category, names in CATEGORIES.items():
        present = [name for name in names if name in summary['grid']]
        for name in present:
            row = summary['grid'][name]
            cells = [percent_cell(row.get(s)) for s in severities]
            mean = percent_cell(summary['corruption'][name])
            table.add_row([name, *cells, mean])
        if present:
            cells = [
                percent_cell(_severity_mean(summary['grid'], present, s))
                for s in severities
            ]
            mean = percent_cell(summary['category'][category])
            table.add_row([f'mean of {category}', *cells, mean], divider=True)
    cells = [percent_cell(value) for value in summary['severity'].values()]
    count = len(summary['grid'])
    what = f'mean of {count} corruption{"s" if count != 1 else ""}'
    table.add_row([what, *cells, percent_cell(summary['overall'])])
    line = f'{summary["images"]} images a cell'
    if not math.isnan(summary['clean']):
        line += (
            f'; clean {summary["clean"]:.2f}, kept under corruption '
            f'{summary["retention"]:.1f} % of it'
        )
    return f'{table.get_string()}\n{line}'


def _severity_mean(grid, names, severity):
    values = [grid[n][severity] for n in names if severity in grid[n]]
    return sum(values) / len(values) if values else None


def class_by_category_table(reports, classes):
    """Draw a row per class and a column per category of corruptions.

    Args:
        reports (dict[str, dict]): Domain -> ``class_iou`` (class -> percent,
            None where the class does not occur).
        classes (Sequence[str]): The rows.

    Returns:
        str: The table.
    """
    columns = {CLEAN: [CLEAN]} if CLEAN in reports else {}
    for category, names in CATEGORIES.items():
        domains = [
            domain
            for domain in reports
            if (split_domain(domain) or ('',))[0] in names
        ]
        if domains:
            columns[category] = domains
    table = PrettyTable(['class', *columns])
    table.align = 'r'
    table.align['class'] = 'l'
    for name in classes:
        cells = []
        for domains in columns.values():
            values = [
                reports[d].get('class_iou', {}).get(name) for d in domains
            ]
            values = [v for v in values if v is not None]
            mean = sum(values) / len(values) if values else None
            cells.append(percent_cell(mean))
        table.add_row([name, *cells])
    return table.get_string()
