"""A contact sheet of the benchmark: domains in rows, scenes in columns."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clouds_mmseg.datasets.toycity.layouts import DOMAINS, Sample
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import LABEL_ID_TO_TRAIN_ID, PALETTE

MARGIN = 4
CAPTION = 18


def write_contact_sheet(root, path, *, counts, columns=6):
    """Draw images beside their labels in the colours of Cityscapes.

    Args:
        root (str | Path): Folder written by ``write_toycity``.
        path (str | Path): The picture to write.
        counts (dict[str, int]): Images by domain.
        columns (int): Scenes of each domain.
    """
    root = Path(root)
    first = Image.open(root / Sample(DOMAINS[0], 0).image)
    width, height = first.size
    columns = min(columns, max(counts.values()))
    sheet = Image.new(
        'RGB',
        (
            columns * (2 * width + MARGIN) + MARGIN,
            len(DOMAINS) * (height + CAPTION + MARGIN) + MARGIN,
        ),
        'white',
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    y = MARGIN
    for domain in DOMAINS:
        draw.text((MARGIN, y), domain, 'black', font)
        y += CAPTION
        for column in range(min(columns, counts[domain])):
            sample = Sample(domain, column)
            x = MARGIN + column * (2 * width + MARGIN)
            sheet.paste(Image.open(root / sample.image), (x, y))
            label = np.array(Image.open(root / sample.label))
            colours = _colours(domain.startswith('source'))[label]
            sheet.paste(Image.fromarray(colours), (x + width, y))
        y += height + MARGIN
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _colours(label_ids):
    """RGB (256, 3) by the ids that the domain's files hold."""
    table = np.zeros((256, 3), np.uint8)
    if label_ids:
        for label_id, train_id in LABEL_ID_TO_TRAIN_ID.items():
            table[label_id] = PALETTE[train_id]
    else:
        table[: len(PALETTE)] = PALETTE
    return table
