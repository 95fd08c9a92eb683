"""Results as text tables."""

import math

from prettytable import PrettyTable


def percent_cell(value):
    """Write a percentage, ``-`` for None and NaN."""
    if value is None or math.isnan(value):
        return '-'
    return f'{value:.2f}'


def domain_table(reports, mean, source_domains=()):
    """Draw a row per domain and one for the mean over the targets.

    Args:
        reports (dict[str, dict]): Domain -> ``images`` (int), ``metrics``
            (name -> percent) and, where there is one, ``class_iou``: a mean
            over part of the classes says so.
        mean (dict[str, float]): Name -> percent, over the domains that are
            not sources.
        source_domains (Sequence[str]): Domains the model was trained on.

    Returns:
        str: The table.
    """
    names = list(next(iter(reports.values()))['metrics']) if reports else []
    counts = {domain: _classes_in_mean(r) for domain, r in reports.items()}
    # Of interest where a mean is over fewer classes than the model has.
    partial = any(c and c[0] < c[1] for c in counts.values())
    columns = ['classes in mean'] if partial else []
    table = PrettyTable(['domain', 'images', *columns, *names])
    table.align = 'r'
    table.align['domain'] = 'l'
    targets = 0
    for domain, report in reports.items():
        is_source = domain in source_domains
        targets += not is_source
        cells = [percent_cell(report['metrics'][name]) for name in names]
        label = f'{domain} (source)' if is_source else domain
        if partial:
            cells.insert(0, '{} of {}'.format(*counts[domain]))
        table.add_row([label, report['images'], *cells])
    if targets > 1:
        table.add_divider()
        cells = [percent_cell(mean[name]) for name in names]
        what = ' targets' if source_domains else ''
        blanks = [''] * (1 + len(columns))
        table.add_row([f'mean of {targets}{what}', *blanks, *cells])
    return table.get_string()


def _classes_in_mean(report):
    """Number of classes that have an IoU, and of all; None without IoU."""
    values = report.get('class_iou')
    if not values:
        return None
    return sum(v is not None for v in values.values()), len(values)


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
            percent_cell(report.get('class_iou', {}).get(name))
            for report in reports.values()
        ]
        table.add_row([name, *cells])
    return table.get_string()
