import math

from clouds_mmseg.utils.tables import format_table, percent_cell


def test_the_first_column_is_left_and_none_a_line():
    rows = [['fog', 2, 'few'], ['rain', 10, 'many'], None, ['all', 12, '']]
    table = format_table(['name', 'images', 'how'], rows, left=['how'])
    assert table.splitlines() == [
        '+------+--------+------+',
        '| name | images | how  |',
        '+------+--------+------+',
        '| fog  |      2 | few  |',
        '| rain |     10 | many |',
        '+------+--------+------+',
        '| all  |     12 |      |',
        '+------+--------+------+',
    ]


def test_markdown_is_aligned():
    table = format_table(
        ['', 'mIoU'], [['source', '1.0'], ['all', '22']], markdown=True
    )
    assert table.splitlines() == [
        '|        | mIoU |',
        '| :------|----: |',
        '| source |  1.0 |',
        '| all    |   22 |',
    ]


def test_a_percentage_that_is_none():
    cells = [percent_cell(x) for x in (None, math.nan, 0.0, 12.345, 100)]
    assert cells == ['-', '-', '0.00', '12.35', '100.00']
