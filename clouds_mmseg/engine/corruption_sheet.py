"""A picture of a set of corrupted images."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clouds_mmseg.datasets.corruption_set import read_entries
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.corruptions import CORRUPTIONS, SEVERITIES
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError, read_image

SHEET_FILE = 'contact_sheet.png'
_WIDTH, _GAP, _MARGIN, _LINE = 200, 4, 130, 20


def write_sheet(folder, source, image_range=None):
    """Draw one image under every corruption that a set has.

    Args:
        folder (str | Path): The set.
        source (str | Path): Folder of the images as they are.
        image_range (Sequence[float], optional): Of these images.

    Returns:
        Path: ``folder/contact_sheet.png``: a row a corruption, a column a
        severity, the image as it is on the left.

    Raises:
        UserError: An image is damaged.
    """
    folder = Path(folder)
    entries = read_entries(folder)
    # An image from the middle: the first of a sequence shows least.
    names = sorted({entry['source'] for entry in entries.values()})
    name = names[len(names) // 2]
    files = {
        tuple(file.split('/')[:2]): file
        for file, entry in entries.items()
        if entry['source'] == name
    }
    rows = [c for c in CORRUPTIONS if any(c == key[0] for key in files)]
    clean = _tile(Path(source, name), image_range)
    height = clean.height + _GAP
    columns = 1 + len(SEVERITIES)
    sheet = Image.new(
        'RGB',
        (_MARGIN + columns * (_WIDTH + _GAP), _LINE + len(rows) * height),
        'white',
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for column, title in enumerate(('clean', *map(str, SEVERITIES))):
        x = _MARGIN + column * (_WIDTH + _GAP)
        draw.text((x, 1), title, 'black', font=font)
    for row, corruption in enumerate(rows):
        y = _LINE + row * height
        draw.text(
            (_GAP, y + height // 3),
            corruption.replace('_', '\n'),
            'black',
            font=font,
        )
        sheet.paste(clean, (_MARGIN, y))
        for column, severity in enumerate(SEVERITIES, 1):
            file = files.get((corruption, str(severity)))
            if file is not None:
                x = _MARGIN + column * (_WIDTH + _GAP)
                sheet.paste(_tile(folder / file), (x, y))
    with atomic_path(folder / SHEET_FILE) as temporary:
        sheet.save(temporary)
    return folder / SHEET_FILE


def _tile(path, image_range=None):
    try:
        image = Image.fromarray(read_image(path, image_range))
    except ImageFileError as error:
        raise UserError(
            f'{error}; --verify finds damaged images and makes them anew'
        ) from error
    height = max(1, round(image.height * _WIDTH / image.width))
    return image.resize((_WIDTH, height), Image.Resampling.BILINEAR)
