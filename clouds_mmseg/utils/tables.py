"""Tables of results for the terminal and for Markdown."""

from collections.abc import Collection, Iterable, Sequence

from prettytable import PrettyTable, TableStyle


def format_table(
    columns: Sequence[str],
    rows: Iterable[Sequence | None],
    *,
    left: Collection[str] = (),
    markdown: bool = False,
) -> str:
    """Format a table: the first column aligned left, the others right.

    Args:
        columns: Titles, all different.
        rows: The cells of each row; None draws a line.
        left: Further columns that are aligned left.
        markdown: For Markdown, which has no lines.

    Returns:
        The table, without a newline at its end.
    """
    table = PrettyTable(list(columns))
    if markdown:
        table.set_style(TableStyle.MARKDOWN)
    table.align = 'r'
    for column in (columns[0], *left):
        table.align[column] = 'l'
    for row in rows:
        if row is None:
            table.add_divider()
        else:
            table.add_row(list(row))
    return table.get_string()


def percent_cell(value: float | None) -> str:
    """Format a percentage; ``-`` for None and NaN."""
    # NaN alone differs from itself.
    return '-' if value is None or value != value else f'{value:.2f}'
