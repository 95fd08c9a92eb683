"""Drawings of images and label maps: colours, panels, legends, sheets."""

import functools
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TEXT_COLOR = (30, 30, 30)
_BACKGROUND = (255, 255, 255)
_UNLABELLED = (0, 0, 0)
# Pixels.
_GAP = 6
_FONT_SIZE = 18
_MEDIUM, _SMALL = 14, 10


@functools.cache
def _font(size):
    # Kept: each call would decode the font anew.
    return ImageFont.load_default(size=size)


def colorize(
    label: np.ndarray, palette: Sequence[Sequence[int]]
) -> np.ndarray:
    """Convert a label map to palette colours.

    Args:
        label: (H, W) integer class indices; indices outside the palette, such
            as 255, become black.
        palette: RGB of each class.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    table = np.full((256, 3), _UNLABELLED, np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    label = np.asarray(label)
    valid = (label >= 0) & (label < len(palette))
    return table[np.where(valid, label, 255).astype(np.uint8)]


def resize(
    image: np.ndarray,
    width: int,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Resize an image (H, W, 3) uint8 RGB to a width in pixels."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return Image.fromarray(image).resize((width, height), resampling)


def legend(
    classes: Sequence[str], palette: Sequence[Sequence[int]], width: int
) -> Image.Image:
    """Draw class names beside their colours.

    Args:
        classes: Class names.
        palette: RGB of each class.
        width: Width of the image, pixels. Entries wrap.

    Returns:
        RGB, ``width`` wide, as high as it needs.
    """
    font = _font(_FONT_SIZE - 2)
    swatch = _FONT_SIZE - 2
    positions, height = _legend_layout(classes, width)
    drawing = Image.new('RGB', (width, height), _BACKGROUND)
    pen = ImageDraw.Draw(drawing)
    for name, color, (x, y) in zip(
        (*classes, 'ignored'), (*palette, _UNLABELLED), positions, strict=True
    ):
        pen.rectangle(
            (x, y, x + swatch, y + swatch), tuple(color), outline=_TEXT_COLOR
        )
        pen.text((x + swatch + 4, y - 1), name, _TEXT_COLOR, font=font)
    return drawing


def _legend_layout(classes, width):
    """Return the corner of each swatch of a legend, and its height."""
    font = _font(_FONT_SIZE - 2)
    row, swatch = _FONT_SIZE + 6, _FONT_SIZE - 2
    x, y, positions = _GAP, _GAP, []
    for name in (*classes, 'ignored'):
        needed = swatch + 4 + round(font.getlength(name)) + 12
        if x + needed > width and x > _GAP:
            x, y = _GAP, y + row
        positions.append((x, y))
        x += needed
    return positions, y + row


def strip(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    palette: Sequence[Sequence[int]],
    *,
    width: int,
    caption: str,
    titles: Sequence[str] = ('image', 'label', 'prediction'),
) -> Image.Image:
    """Draw image | label | prediction with a caption above.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) class indices, None if unlabelled.
        prediction: (H, W) class indices.
        palette: RGB of each class.
        width: Width of one image in the strip, pixels.
        caption: Text above all images.
        titles: Text above each image.

    Returns:
        RGB.
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


def panel(
    image: np.ndarray,
    maps: Sequence[np.ndarray],
    palette: Sequence[Sequence[int]],
    *,
    width: int,
    caption: str,
    titles: Sequence[str],
) -> Image.Image:
    """Draw an image and label maps side by side with a caption above.

    Args:
        image: (H, W, 3) uint8 RGB.
        maps: (H, W) class indices each.
        palette: RGB of each class.
        width: Width of one image, pixels.
        caption: Text above all images.
        titles: Text above each image.

    Returns:
        RGB.
    """
    nearest = Image.Resampling.NEAREST
    images = [resize(image, width)]
    images += [resize(colorize(x, palette), width, nearest) for x in maps]
    height = max(image.height for image in images)
    top = 2 * (_FONT_SIZE + 6)
    whole = len(images) * (width + _GAP) + _GAP
    drawing = Image.new('RGB', (whole, height + top + _GAP), _BACKGROUND)
    pen = ImageDraw.Draw(drawing)
    pen.text(
        (_GAP, 3),
        _shorten(caption, drawing.width),
        _TEXT_COLOR,
        _font(_FONT_SIZE),
    )
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        x = _GAP + i * (width + _GAP)
        pen.text(
            (x, _FONT_SIZE + 8), title, _TEXT_COLOR, font=_font(_FONT_SIZE - 2)
        )
        drawing.paste(image, (x, top))
    return drawing


def split_strip(
    drawing: Image.Image, classes: Sequence[str] | None = None
) -> tuple[list[Image.Image], list[tuple[int, int, int]]]:
    """Cut a drawing of :func:`strip` into its three images.

    Args:
        drawing: RGB, as drawn.
        classes: Of the legend that was stacked below; None without legend.

    Returns:
        The images, RGB, label maps in the colours of the palette; and the
        colours of the classes, empty without legend.

    Raises:
        ValueError: It has another layout.
    """
    legend_height, positions = 0, []
    if classes is not None:
        positions, legend_height = _legend_layout(classes, drawing.width)
        # The last one stands for ignored pixels.
        del positions[-1]
    top = 2 * (_FONT_SIZE + 6)
    width, rest = divmod(drawing.width - _GAP, 3)
    width -= _GAP
    height = drawing.height - legend_height - top - _GAP
    gaps = [
        (i * (width + _GAP), top, i * (width + _GAP) + _GAP, top + height)
        for i in range(4)
    ]
    # A legend of another height is found by the line below the images.
    below = (0, top + height, drawing.width, top + height + _GAP)
    white = ((255, 255),) * 3
    if (
        rest
        or min(width, height) < 1
        or any(
            drawing.crop(gap).getextrema() != white for gap in (*gaps, below)
        )
    ):
        raise ValueError('is no image | label | prediction of this version')
    images = [
        drawing.crop((x + _GAP, y, x + _GAP + width, bottom))
        for x, y, _, bottom in gaps[:3]
    ]
    centre = (_FONT_SIZE - 2) // 2
    colors = [
        drawing.getpixel(
            (x + centre, drawing.height - legend_height + y + centre)
        )
        for x, y in positions
    ]
    return images, colors


def _shorten(text, width):
    """Shorten a caption at its front until it fits."""
    font = _font(_FONT_SIZE)
    if font.getlength(text) <= width - 2 * _GAP:
        return text
    while text and font.getlength('...' + text) > width - 2 * _GAP:
        text = text[1:]
    return '...' + text


def stack(drawings: Sequence[Image.Image]) -> Image.Image:
    """Stack images vertically.

    Args:
        drawings: RGB.

    Returns:
        RGB, as wide as the widest.
    """
    width = max(drawing.width for drawing in drawings)
    sheet = Image.new(
        'RGB', (width, sum(d.height for d in drawings)), _BACKGROUND
    )
    y = 0
    for drawing in drawings:
        sheet.paste(drawing, (0, y))
        y += drawing.height
    return sheet


def caption_below(
    image: Image.Image, text: str, *, lines: int = 3
) -> Image.Image:
    """Write a text below an image, wrapped and cut after some lines.

    Args:
        image: RGB.
        text: Letters that Pillow's font does not have become ``?``.
        lines: Number of lines; the height is the same for shorter texts.

    Returns:
        RGB, as wide as the image.
    """
    text = text.encode('latin-1', 'replace').decode('latin-1')
    # An average letter of the font is half as wide as high.
    wrapped = textwrap.wrap(text, max(1, image.width * 2 // _SMALL))[:lines]
    height = image.height + lines * (_SMALL + 2)
    drawing = Image.new('RGB', (image.width, height), _BACKGROUND)
    drawing.paste(image, (0, 0))
    pen = ImageDraw.Draw(drawing)
    for number, line in enumerate(wrapped):
        y = image.height + number * (_SMALL + 2)
        pen.text((1, y), line, _TEXT_COLOR, font=_font(_SMALL))
    return drawing


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
) -> Image.Image:
    """Arrange images in rows and columns, as a contact sheet.

    Args:
        rows: RGB images; None leaves a cell empty, and rows may differ in
            length. Every cell is as wide as the widest image, every row as
            high as its highest.
        row_titles: Texts on the left, one for each row.
        column_titles: Texts above, one for each column.

    Returns:
        RGB.
    """
    font = _font(_MEDIUM)
    images = [image for row in rows for image in row if image is not None]
    width = max(image.width for image in images) + _GAP
    pen = ImageDraw.Draw(Image.new('RGB', (1, 1)))
    left = _GAP
    for title in row_titles:
        right = pen.multiline_textbbox((0, 0), title, font=font)[2]
        left = max(left, round(right) + 2 * _GAP)
    top = _MEDIUM + 2 * _GAP if column_titles else _GAP
    heights = [
        max((image.height for image in row if image is not None), default=0)
        + _GAP
        for row in rows
    ]
    columns = max(map(len, rows))
    sheet = Image.new(
        'RGB', (left + columns * width, top + sum(heights)), _BACKGROUND
    )
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(column_titles):
        x = left + column * width
        pen.text((x, _GAP - 1), title, _TEXT_COLOR, font=font)
    y = top
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if row_titles:
            at = (_GAP, y + height // 3)
            pen.text(at, row_titles[number], _TEXT_COLOR, font=font)
        for column, image in enumerate(row):
            if image is not None:
                sheet.paste(image, (left + column * width, y))
        y += height
    return sheet
