"""Reports as text for a terminal."""

from prettytable import PrettyTable

from clouds_mmseg.datasets.verify.findings import (
    ACCEPTED,
    ERRORS,
    FIXED,
    MOVABLE,
    OPEN,
    WARNINGS,
)

# Lines of one kind; the rest is in the report.
_SHOWN = 20
# Columns of classes that fit with the numbers of images.
_WIDE = 3


def counted(number, noun):
    """Write a number with its noun: ``1 error``, ``2 errors``."""
    return f'{number} {noun}' + ('' if number == 1 else 's')


def reports_text(reports):
    """Say what was found.

    Args:
        reports (list[SetReport]): All of one verification.

    Returns:
        str: Tables, then every kind of error and warning with its files.
    """
    parts = [_sets_table(reports), _class_table(reports)]
    parts += [_findings(r) for r in reports if r.findings]
    kept = dict.fromkeys(r.kept_at for r in reports if r.kept_at)
    if kept:
        parts.append('\n  '.join(['The reports:', *kept]))
    lost = dict.fromkeys(r.root for r in reports if r.key and not r.kept_at)
    if lost:
        head = (
            'No report could be written for these folders, and training will '
            'not know of this; --report-dir DIR keeps reports elsewhere:'
        )
        parts.append('\n  '.join([head, *lost]))
    return '\n'.join(part for part in parts if part)


def advice_text(reports, command):
    """Say what can be done about open errors.

    Args:
        reports (list[SetReport]): All of one verification.
        command (str): The command that made them, without ``--fix``.

    Returns:
        str: Empty if nothing is to be done.
    """
    errors = [f for r in reports for f in r.open_errors]
    if not errors:
        return ''
    lines = ['Training refuses this data. What can be done:']
    if any(f.kind in (*MOVABLE, 'orphan') for f in errors):
        lines.append(f'  move the bad files aside:   {command} --fix')
    if any(f.kind != 'layout' for f in errors):
        lines.append(f'  train on it as it is:       {command} --accept')
    lines.append(f'  mend it, and verify again:  {command}')
    return '\n'.join(lines)


def _sets_table(reports):
    table = PrettyTable(
        ['set', 'images', 'expected', 'sizes', 'errors', 'warnings']
    )
    table.align = 'r'
    table.align['set'] = table.align['sizes'] = 'l'
    for report in reports:
        sizes = [f'{size}' for size in list(report.sizes)[:2]]
        if len(report.sizes) > 2:
            sizes.append(f'{len(report.sizes) - 2} more')
        table.add_row(
            [
                report.name,
                report.images,
                '' if report.expected is None else report.expected,
                ', '.join(sizes),
                _errors_cell(report),
                len(report.warnings),
            ]
        )
    return table.get_string()


def _errors_cell(report):
    words = [str(len(report.open_errors))]
    for state in (ACCEPTED, FIXED):
        number = sum(f.state == state for f in report.errors)
        if number:
            words.append(f'{number} {state}')
    return ' + '.join(words) if words[0] != '0' else ', '.join(words[1:]) or 0


def _class_table(reports):
    """Share of the labelled pixels and number of images, by class."""
    reports = [r for r in reports if sum(r.pixels)]
    if not reports:
        return ''
    narrow = len(reports) > _WIDE
    head = '% of pixels' if narrow else '% of pixels (images)'
    table = PrettyTable([head, *_short_names(reports)])
    table.align = 'r'
    table.align[head] = 'l'
    for name in dict.fromkeys(c for r in reports for c in r.classes):
        table.add_row([name, *(_class_cell(r, name, narrow) for r in reports)])
    table.add_divider()
    table.add_row(['ignored', *(_ignored_cell(r) for r in reports)])
    return table.get_string()


def _short_names(reports):
    """The names of the sets without the word that all begin with."""
    names = [report.name for report in reports]
    words = {name.split()[0] for name in names}
    if len(words) > 1 or not all(' ' in name for name in names):
        return names
    return [name.split(' ', 1)[1] for name in names]


def _class_cell(report, name, narrow):
    if name not in report.classes:
        return ''
    index = report.classes.index(name)
    if not report.pixels[index]:
        return '-'
    share = f'{100 * report.pixels[index] / sum(report.pixels):.3f}'
    return share if narrow else f'{share} ({report.images_with[index]})'


def _ignored_cell(report):
    every = report.ignored + sum(report.pixels)
    return f'{100 * report.ignored / every:.3f}'


def _findings(report):
    lines = []
    for kind, what in (ERRORS | WARNINGS).items():
        for state in (OPEN, ACCEPTED, FIXED):
            mine = [
                f
                for f in report.findings
                if f.kind == kind and f.state == state
            ]
            if not mine:
                continue
            word = 'error' if kind in ERRORS else 'warning'
            word = word if state == OPEN else f'{state} {word}'
            lines.append(f'{report.name}: {word}: {what}: {len(mine)}')
            lines += [f'  {f.message}' for f in mine[:_SHOWN]]
            if len(mine) > _SHOWN:
                lines.append(f'  and {len(mine) - _SHOWN} more')
    return '\n'.join(lines)
