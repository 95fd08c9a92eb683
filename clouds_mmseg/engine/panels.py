"""Draw an image, its label and a prediction side by side.

Sizes: H, W are rows and columns of the image; images are (H, W, 3) uint8
RGB, label maps (H, W) integer class indices.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK = (30, 30, 30)
_PAPER = (255, 255, 255)
_UNLABELLED = (0, 0, 0)
_GAP = 6
_TEXT = 18


def _font(size):
    return ImageFont.load_default(size=size)


def colorize(label, palette):
    """Paint a label map.

    Args:
        label (np.ndarray): (H, W) integer class indices; indices outside
            the palette, such as 255, become black.
        palette (Sequence[Sequence[int]]): RGB of each class.

    Returns:
        np.ndarray: (H, W, 3) uint8 RGB.
    """
    table = np.full((256, 3), _UNLABELLED, np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    label = np.asarray(label)
    inside = (label >= 0) & (label < len(palette))
    return table[np.where(inside, label, 255).astype(np.uint8)]


def _fit(picture, width, resampling=Image.Resampling.NEAREST):
    """Scale an RGB array to a width; the colours of labels never mix."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return Image.fromarray(picture).resize((width, height), resampling)


def legend(classes, palette, width):
    """Draw the names of classes beside their colours.

    Args:
        classes (Sequence[str]): Names.
        palette (Sequence[Sequence[int]]): RGB of each class.
        width (int): Width of the drawing, pixels. Entries wrap.

    Returns:
        PIL.Image.Image: RGB, ``width`` wide, as high as it needs.
    """
    font = _font(_TEXT - 2)
    row, chip = _TEXT + 6, _TEXT - 2
    x, y, places = _GAP, _GAP, []
    for name in (*classes, 'ignored'):
        needed = chip + 4 + round(font.getlength(name)) + 12
        if x + needed > width and x > _GAP:
            x, y = _GAP, y + row
        places.append((x, y))
        x += needed
    drawing = Image.new('RGB', (width, y + row), _PAPER)
    pen = ImageDraw.Draw(drawing)
    for name, color, (x, y) in zip(
        (*classes, 'ignored'), (*palette, _UNLABELLED), places, strict=True
    ):
        pen.rectangle((x, y, x + chip, y + chip), tuple(color), outline=_INK)
        pen.text((x + chip + 4, y - 1), name, _INK, font=font)
    return drawing


def strip(
    image,
    label,
    prediction,
    palette,
    *,
    width,
    caption,
    titles=('image', 'label', 'prediction'),
):
    """Draw image | label | prediction with a caption above.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB.
        label (np.ndarray | None): (H, W) class indices, None if unlabelled.
        prediction (np.ndarray): (H, W) class indices.
        palette (Sequence[Sequence[int]]): RGB of each class.
        width (int): Width of one picture in the strip, pixels.
        caption (str): What is shown.
        titles (Sequence[str]): What is written above each picture.

    Returns:
        PIL.Image.Image: RGB.
    """
    titles = list(titles)
    if label is None:
        label = np.full(prediction.shape, 255)
        titles[1] = 'no label'
    return panel(
        image,
        [label, prediction],
        palette,
        width=width,
        caption=caption,
        titles=titles,
    )


def panel(image, maps, palette, *, width, caption, titles):
    """Draw an image and label maps side by side with a caption above.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB.
        maps (Sequence[np.ndarray]): (H, W) class indices each.
        palette (Sequence[Sequence[int]]): RGB of each class.
        width (int): Width of one picture, pixels.
        caption (str): What is shown.
        titles (Sequence[str]): What is written above each picture.

    Returns:
        PIL.Image.Image: RGB.
    """
    pictures = [_fit(image, width, Image.Resampling.LANCZOS)]
    pictures += [_fit(colorize(x, palette), width) for x in maps]
    height = max(picture.height for picture in pictures)
    top = 2 * (_TEXT + 6)
    whole = len(pictures) * (width + _GAP) + _GAP
    drawing = Image.new('RGB', (whole, height + top + _GAP), _PAPER)
    pen = ImageDraw.Draw(drawing)
    pen.text((_GAP, 3), _shorten(caption, drawing.width), _INK, _font(_TEXT))
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        x = _GAP + i * (width + _GAP)
        pen.text((x, _TEXT + 8), title, _INK, font=_font(_TEXT - 2))
        drawing.paste(picture, (x, top))
    return drawing


def _shorten(text, width):
    """Cut a caption at its front until it fits."""
    font = _font(_TEXT)
    if font.getlength(text) <= width - 2 * _GAP:
        return text
    while text and font.getlength('...' + text) > width - 2 * _GAP:
        text = text[1:]
    return '...' + text


def stack(drawings):
    """Put drawings below one another.

    Args:
        drawings (Sequence[PIL.Image.Image]): RGB.

    Returns:
        PIL.Image.Image: RGB, as wide as the widest.
    """
    width = max(drawing.width for drawing in drawings)
    sheet = Image.new('RGB', (width, sum(d.height for d in drawings)), _PAPER)
    y = 0
    for drawing in drawings:
        sheet.paste(drawing, (0, y))
        y += drawing.height
    return sheet
