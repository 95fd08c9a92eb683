"""Results as text tables."""

import math

from prettytable import PrettyTable


def _cell(value):
    if value is None or math.isnan(value):
        return '-'
    return f'{value:.2f}'


def domain_table(reports, mean):
    """Draw a row per domain and one for their mean.

    Args:
        reports (dict[str, dict]): Domain -> ``images`` (int) and ``metrics``
            (name -> percent).
        mean (dict[str, float]): Name -> percent.

    Returns:
        str: The table.
    """
    names = list(mean)
    table = PrettyTable(['domain', 'images', *names])
    table.align = 'r'
    table.align['domain'] = 'l'
    for domain, report in reports.items():
        cells = [_cell(report['metrics'][name]) for name in names]
        table.add_row([domain, report['images'], *cells])
    if len(reports) > 1:
        table.add_divider()
        cells = [_cell(mean[name]) for name in names]
        table.add_row([f'mean of {len(reports)}', '', *cells])
    return table.get_string()


def class_table(reports, classes):
    """Draw a row per class and a column per domain.

    Args:
        reports (dict[str, dict]): Domain -> ``class_iou`` (class -> percent,
            None where the class does not occur).
        classes (Sequence[str]): The rows.

    Returns:
        str: The table.
    """
    table = PrettyTable(['class', *reports])
    table.align = 'r'
    table.align['class'] = 'l'
    for name in classes:
        cells = [
            _cell(report.get('class_iou', {}).get(name))
            for report in reports.values()
        ]
        table.add_row([name, *cells])
    return table.get_string()
