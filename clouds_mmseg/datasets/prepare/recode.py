"""Lossless copies of images that are faster to decode than PNG."""

import io
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.utils import images

# Formats of --recode: OpenCV, which decodes images in training, reads both.
RECODES = ('bmp', 'webp')


def recoded(path, kind):
    """Name the copy of an image.

    Args:
        path (str): The image, or only the end of its path.
        kind (str | None): One of :data:`RECODES`; None: as published.

    Returns:
        str: With the suffix of the format.
    """
    return f'{path.rpartition(".")[0]}.{kind}' if kind else path


def recode_rules(rules, kind):
    """Give the images of a layout the names of their copies.

    Args:
        rules (Sequence[Rule]): Of the layout.
        kind (str | None): See :func:`recoded`.

    Returns:
        list[Rule]: Labels are left alone.
    """
    return [
        replace(rule, target=recoded(rule.target, kind))
        if rule.part == 'image'
        else rule
        for rule in rules
    ]


def decode_image(payload, name):
    """Decode an image as ``LoadSegImage`` does.

    Args:
        payload (bytes): The file.
        name (str): Of the file, for messages.

    Returns:
        np.ndarray: (H, W, 3) uint8, BGR.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        return images.decode_image(payload)
    except images.ImageFileError as error:
        raise DataError(f'image {name} {error}') from error


def encode_exactly(image, kind, name):
    """Encode an image so that decoding gives the very same pixels.

    Args:
        image (np.ndarray): (H, W, 3) uint8, BGR.
        kind (str): One of :data:`RECODES`.
        name (str): Of the published file, for messages.

    Returns:
        bytes: The file.

    Raises:
        DataError: The format cannot hold it.
    """
    if kind == 'webp':
        out = io.BytesIO()
        rgb = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        # The least effort: the files of the greatest are some tenth smaller,
        # decode no faster and take several times as long to write.
        try:
            rgb.save(out, 'WEBP', lossless=True, quality=0, method=0)
        except (OSError, ValueError) as error:
            raise DataError(
                f'image {name} cannot be written as WebP ({error})'
            ) from error
        payload = out.getvalue()
    else:
        payload = cv2.imencode('.bmp', image)[1].tobytes()
    if not np.array_equal(decode_image(payload, name), image):
        raise DataError(
            f'image {name} changes when it is written as {kind}: give '
            'another format as --recode, or none'
        )
    return payload
