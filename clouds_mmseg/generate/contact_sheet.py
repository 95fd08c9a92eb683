"""A picture of a bank: a few of its images with their prompts."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.bank_manifest import read_entries
from clouds_mmseg.utils.images import read_image

SHEET_FILE = 'contact_sheet.png'
_WIDTH = 256
_LINES, _LINE_HEIGHT, _MARGIN = 3, 12, 6


def write_contact_sheet(root, *, count=24, columns=4):
    """Write ``contact_sheet.png`` into a bank.

    The images are spread evenly over the bank.

    Args:
        root (str | Path): Folder of the bank.
        count (int): Images at most.
        columns (int): Of the sheet.

    Returns:
        Path: The file.
    """
    root = Path(root)
    entries = list(read_entries(root).values())
    count = min(count, len(entries))
    chosen = [entries[i * len(entries) // count] for i in range(count)]
    tiles = [_tile(root, entry) for entry in chosen]
    columns = min(columns, count)
    rows = [tiles[i : i + columns] for i in range(0, count, columns)]
    width = columns * (_WIDTH + _MARGIN) + _MARGIN
    heights = [max(tile.height for tile in row) + _MARGIN for row in rows]
    sheet = Image.new('RGB', (width, sum(heights) + _MARGIN), 'white')
    y = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (_MARGIN + column * (_WIDTH + _MARGIN), y))
        y += height
    path = root / SHEET_FILE
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return path


def _tile(root, entry):
    image = Image.fromarray(read_image(root / entry['file']))
    height = max(1, round(image.height * _WIDTH / image.width))
    image = image.resize((_WIDTH, height), Image.BILINEAR)
    tile = Image.new('RGB', (_WIDTH, height + _LINES * _LINE_HEIGHT), 'white')
    tile.paste(image, (0, 0))
    text = f'{entry["index"]}: {entry["prompt"]}'
    # The built-in font has Latin letters only.
    text = text.encode('latin-1', 'replace').decode('latin-1')
    lines = textwrap.wrap(text, 46)[:_LINES]
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        draw.text(
            (1, height + number * _LINE_HEIGHT), line, fill='black',
            font=ImageFont.load_default(10),
        )  # fmt: skip
    return tile
