"""Decoding of image and label files, the same for every reader.

Rules, the same for training, testing, verification, preparation, corruption
and generation:

- Images are decoded by OpenCV into (H, W, 3) uint8, BGR. An alpha channel
  and ICC and gamma information are ignored, grey is repeated, of a file
  with several images the first is read.
- An EXIF orientation is applied, to images and to labels, each its own.
- 16-bit values are divided by 256. ``sBIT`` of PNG and ``MaxSampleValue`` of
  TIFF do not change that: both specifications say that stored values span
  the whole range, and that the tags must not change what is shown. Files
  that break this rule (12 bits in a 16-bit file) and those whose range the
  format does not define (float, signed, 32 bits) need an image range: the
  values that become 0 and 255. It is never taken from the values of an
  image, which would change the exposure from image to image.
- Labels keep the numbers in the file: indices of palette files, and all bits
  of 16-bit files.
- Files of up to :data:`MAX_PIXELS` pixels are read, more than that is an
  error.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine import fileio
from PIL import Image, UnidentifiedImageError

# Registers the file backend that fileio reads addresses by.
from clouds_mmseg.utils import remote  # noqa: F401
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_files import (
    JPEG,
    PNG,
    damaged_chunk,
    jpeg_end,
    png_chunks,
    truncated,
    without_damaged_chunks,
)

# OpenCV's own limit. Pillow's is 179 megapixels, and for the whole process.
MAX_PIXELS = 2**30
ENDS_EARLY = (
    'is truncated: its compressed data end before the picture does, and '
    'decoders fill the rest'
)

_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_PNM = re.compile(
    rb'P[2356](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)'
    rb'(?:\s|#[^\n]*\n)+(\d+)\s'
)
# Formats whose files may hold more than 8 bits, besides PNG, TIFF and PNM.
_MAYBE_DEEP = (b'\0\0\0\x0cjP', b'\xffO\xffQ', b'#?RAD', b'v/1\x01')
# Images that stay below this everywhere are taken for a wrong range.
_DARKEST = 16
_ORIENTATION, _SAMPLE_FORMAT, _BITS = 274, 339, 258
_SIGNED, _FLOAT = 2, 3
# What libjpeg fills missing data with.
_GREY = 128


class ImageFileError(UserError):
    """A file cannot be used as an image or a label.

    Unless said otherwise the message follows the name of the file: ``is
    truncated: ...``.
    """


def check_image_range(
    image_range: Sequence[float] | None,
) -> tuple[float, float] | None:
    """Check the argument ``image_range``.

    Args:
        image_range: The values in the files that become 0 and 255.

    Returns:
        The same.

    Raises:
        UserError: It is not two finite numbers, the lower one first.
    """
    if image_range is None:
        return None
    try:
        low, high = image_range
        fine = bool(np.isfinite([low, high]).all() and low < high)
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise UserError(
            f'image_range={image_range!r} must be two numbers, the values '
            'that become black and white: (0, 4095) for 12 bits in a 16-bit '
            'file, (0, 1) for floating point values'
        )
    return low, high


def decode_image(
    payload: bytes, image_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Decode the bytes of an image file.

    Args:
        payload: The file.
        image_range: The values that become 0 and 255. Defaults to the range
            of 8 and 16-bit files.

    Returns:
        (H, W, 3) uint8, BGR, upright.

    Raises:
        ImageFileError: It is truncated, no image, too large, or its values
            have no range or do not lie within it.
    """
    payload = bytes(payload)
    problem = truncated(payload)
    if problem:
        raise ImageFileError(problem)
    limits = _pnm_range(payload)
    if image_range is None and limits in (None, (0, 255)):
        if not _is_deep(payload):
            return _decode_8_bits(payload)
    values = _decode_any_depth(payload)
    if values.dtype == np.uint8 and image_range in (None, (0, 255)):
        if limits in (None, (0, 255)):
            return _decode_8_bits(payload)
    if image_range is None and limits:
        return _visible(_scale(values, *limits), values)
    return to_8_bits(values, image_range)


def read_image(
    path: str | Path, image_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Read an image file, local or of any of mmengine's file backends.

    Args:
        path: The file.
        image_range: As in :func:`decode_image`.

    Returns:
        (H, W, 3) uint8, **RGB**, upright.

    Raises:
        ImageFileError: See :func:`decode_image`, or it cannot be opened. The
            message begins with the name of the file.
    """
    try:
        image = decode_image(fileio.get(str(path)), image_range)
    except OSError as error:
        raise ImageFileError(
            f'image {path} cannot be read: {error.strerror or error}'
        ) from error
    except ImageFileError as error:
        raise ImageFileError(f'image {path} {error}') from error
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_8_bits(
    values: np.ndarray, image_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Scale the values of an image file to 0..255.

    Args:
        values: Any shape and number type.
        image_range: What becomes 0 and 255. Defaults to the whole range of
            unsigned 16-bit values; other types have none.

    Returns:
        uint8, of the same shape.

    Raises:
        ImageFileError: There is no range, or a value lies outside of it, is
            NaN or infinite, or no value would become visible.
    """
    if image_range is None and values.dtype != np.uint16:
        raise ImageFileError(
            f'holds {values.dtype} values of {_span(values)}, for which no '
            'format defines black and white: say which values they are with '
            'image_range=(low, high) of the dataset, such as (0, 1)'
        )
    if values.dtype.kind == 'f' and not np.isfinite(values).all():
        raise ImageFileError('holds values that are NaN or infinite')
    low, high = image_range or (0, 65535)
    if values.dtype == np.uint8 and (low, high) != (0, 255):
        raise ImageFileError(
            f'is an 8-bit file, but image_range is ({low}, {high}): files of '
            'several depths cannot be read by one range'
        )
    least, most = values.min(), values.max()
    if least < low or most > high:
        raise ImageFileError(
            f'holds values of {_span(values)}, outside of image_range '
            f'({low}, {high}); give the range that the whole set has'
        )
    scaled = _scale(values, low, high)
    return _visible(scaled, values) if image_range is None else scaled


def stored_maximum(payload: bytes) -> int | None:
    """Return the greatest value in a file of 16 bits.

    Args:
        payload: An image file.

    Returns:
        None for files of 8 bits, and those that say their range.
    """
    if _pnm_range(payload) or not _is_deep(payload):
        return None
    values = _decode_any_depth(payload)
    return int(values.max()) if values.dtype == np.uint16 else None


def _scale(values, low, high):
    bits = int(high).bit_length()
    if (
        values.dtype.kind in 'iu'
        and (low, high) == (0, 2**bits - 1)
        and bits >= 8
    ):
        # As OpenCV does: 16 bits lose the lower eight.
        return (values >> (bits - 8)).astype(np.uint8)
    share = (values.astype(np.float64) - low) / (high - low)
    return np.rint(share * 255).astype(np.uint8)


def _visible(scaled, values):
    """Refuse what would be black although it is not."""
    most = int(values.max())
    if values.dtype == np.uint16 and most and scaled.max() < _DARKEST:
        raise ImageFileError(
            f'is a 16-bit file with values of at most {most}, and would be '
            'black: give the range that the whole set has with image_range '
            'of the dataset, such as image_range=(0, 4095) for 12 bits; if '
            'it is meant to be that dark, image_range=(0, 65535)'
        )
    return scaled


def decode_ids(payload: bytes, channel: str | None = None) -> np.ndarray:
    """Decode the bytes of a label file.

    Args:
        payload: The file.
        channel: ``'first'`` for files with several channels and the id in
            the first one in file order.

    Returns:
        (H, W) uint8, uint16 or int32: the ids as in the file,
        upright.

    Raises:
        ImageFileError: It is truncated, no image, too large, lossy, in
            colour, of several pictures, or holds no integers.
    """
    payload = bytes(payload)
    problem = truncated(payload)
    if problem:
        raise ImageFileError(problem)
    chunk = damaged_chunk(payload)
    if chunk is not None:
        # Pillow reads it into other ids.
        raise ImageFileError(_damaged(chunk))
    if payload.startswith(JPEG):
        raise ImageFileError(
            'is a JPEG file, whose compression changes ids at the borders of '
            'objects: labels must be PNG or another lossless format'
        )
    if channel == 'first':
        return _decode_first_channel(payload)
    try:
        with open_image(payload) as image:
            return _ids_of(image, payload)
    except ImageFileError:
        raise
    except Image.DecompressionBombError:
        return _ids_of_large(payload)
    except Exception as error:
        raise ImageFileError(_undecodable(payload, error)) from error


def open_image(payload: bytes) -> Image.Image:
    """Open a file with Pillow, whatever its size up to our limit.

    Pillow's own limit holds for the process; it is neither changed nor asked
    for the formats that labels have.

    Args:
        payload: The file.

    Returns:
        Not decoded yet.

    Raises:
        ImageFileError: It is larger than :data:`MAX_PIXELS`.
        OSError: It is no image.
    """
    payload = without_damaged_chunks(payload)
    image = None
    for name in ('PNG', 'JPEG', 'TIFF', 'BMP', 'GIF'):
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        if accept(payload[:16]) is not True:
            continue
        try:
            image = factory(io.BytesIO(payload), '')
        except (SyntaxError, IndexError, TypeError, ValueError):
            # Image.open tries others, and says that it knows none.
            break
    if image is None:
        image = Image.open(io.BytesIO(payload))
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ImageFileError(_too_large(width, height))
    return image


def exif_orientation(payload: bytes) -> int:
    """Read the EXIF orientation of a file.

    Args:
        payload: The file.

    Returns:
        1..8; 1 (upright) if there is none. Orientation that stands in
        XMP alone is not read, as OpenCV does not.
    """
    exif = None
    try:
        if payload.startswith(PNG):
            exif = dict(png_chunks(payload)).get(b'eXIf')
        else:
            with open_image(payload) as image:
                if image.format == 'TIFF':
                    return _valid(image.tag_v2.get(_ORIENTATION))
                exif = image.info.get('exif')
        if not exif:
            return 1
        table = Image.Exif()
        table.load(bytes(exif))
        return _valid(table.get(_ORIENTATION))
    except Exception:
        # Metadata that cannot be read is no metadata; decoders go on, too.
        return 1


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as an EXIF orientation says.

    Args:
        pixels: (H, W) or (H, W, C) as stored.
        orientation: 1..8.

    Returns:
        Upright; (W, H) or (W, H, C) for 5..8.

    Source: EXIF 2.32, tag 274.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # Which axes run backwards, after the transposition.
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(pixels)


def _valid(orientation):
    return orientation if orientation in range(1, 9) else 1


def _decode_8_bits(payload):
    # OpenCV leaves the orientation of AVIF to its caller, and that of WebP in
    # some versions.
    ours = payload[4:12] in (b'ftypavif', b'ftypavis') or (
        payload.startswith(b'RIFF')
    )
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if ours else 0)
    image = _imdecode(payload, flags)
    if image is None:
        raise ImageFileError(_undecodable(payload))
    if payload.startswith(JPEG) and _has_grey_corner(image):
        if ends_early(payload, image):
            raise ImageFileError(ENDS_EARLY)
    if ours:
        image = orient(image, exif_orientation(payload))
    return image


def ends_early(payload: bytes, image: np.ndarray) -> bool:
    """Whether the data of a JPEG do not suffice for its pixels.

    Decoders fill the rest and say nothing. Here bytes are put in front of the
    end marker and the file is decoded once more: a decoder that has all its
    pixels skips them, one that lacks data decodes them. A progressive file
    without its last scans is not found: it shows less detail, everywhere.

    Args:
        payload: A JPEG file with an end marker.
        image: (H, W, 3) uint8, BGR, decoded from it.

    Returns:
        True if pixels are missing.
    """
    end = jpeg_end(payload)
    filled = payload[:end] + bytes(range(1, 251)) * 16 + payload[end:]
    again = _imdecode(filled, cv2.IMREAD_COLOR)
    return again is None or not np.array_equal(again, image)


def _has_grey_corner(image):
    """Whether a corner has the colour of what libjpeg fills in."""
    edge = 4
    corners = [
        image[rows, columns]
        for rows in (slice(edge), slice(-edge, None))
        for columns in (slice(edge), slice(-edge, None))
    ]
    return any((corner == _GREY).all() for corner in corners)


def _imdecode(payload, flags):
    """Decode by OpenCV; None if it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
    except cv2.error:
        return None


def _decode_any_depth(payload):
    """Decode into (H, W, 3), BGR, with all bits that are there."""
    values = _imdecode(payload, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if values is None:
        # OpenCV does not repeat grey of every type.
        values = _imdecode(payload, cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ImageFileError(_undecodable(payload))
        if values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=2)
        values = values[..., :3]
    return values


def _is_deep(payload):
    """Whether a file may hold other values than unsigned 8-bit ones."""
    if payload.startswith(PNG):
        return payload[24] > 8
    if payload.startswith(_TIFF):
        try:
            with open_image(payload) as image:
                bits = np.atleast_1d(image.tag_v2.get(_BITS, 1))
                kinds = np.atleast_1d(image.tag_v2.get(_SAMPLE_FORMAT, 1))
        except ImageFileError:
            raise
        except Exception:
            # What Pillow does not know is deep.
            return True
        return bool(
            (bits > 8).any() or np.isin(kinds, (_SIGNED, _FLOAT)).any()
        )
    return payload.startswith(_MAYBE_DEEP)


def _pnm_range(payload):
    """The range that a PGM or PPM file states; None for other formats."""
    match = _PNM.match(payload[:512])
    return (0, int(match[3])) if match else None


def _ids_of(image, payload):
    """The ids in a file that Pillow has opened."""
    count = getattr(image, 'n_frames', 1)
    if count > 1:
        raise ImageFileError(
            f'holds {count} images, and which one is the label cannot be '
            'known: write it as a file of its own'
        )
    raw = np.asarray(image)
    if raw.ndim != 2:
        raise ImageFileError(_in_colour(raw))
    if image.format == 'TIFF':
        # Pillow turns TIFF files itself, and takes signed bytes as unsigned.
        kinds = np.atleast_1d(image.tag_v2.get(_SAMPLE_FORMAT, 1))
        if raw.dtype == np.uint8 and _SIGNED in kinds:
            raw = raw.view(np.int8).astype(np.int32)
    else:
        raw = orient(raw, exif_orientation(payload))
    if raw.dtype == bool:
        raw = raw.astype(np.uint8)
    # Also of the byte order of the machine.
    raw = raw.astype(raw.dtype.newbyteorder('='), copy=False)
    if raw.dtype.kind not in 'iu':
        raise ImageFileError(
            f'holds {raw.dtype} values of {_span(raw)}, but ids are '
            'integers: write it as 8 or 16-bit PNG'
        )
    return raw


def _ids_of_large(payload):
    """The ids in a TIFF file that is too large for Pillow's decoder."""
    raw = _imdecode(payload, cv2.IMREAD_UNCHANGED)
    with open_image(payload) as image:
        palette = image.mode not in ('L', 'I', 'I;16', 'I;16B')
        size = image.size
    if raw is None or raw.ndim != 2 or raw.dtype.kind not in 'iu' or palette:
        raise ImageFileError(
            f'is {size[0]}x{size[1]} pixels, which is read of PNG files, and '
            'of TIFF files with one channel: write it as PNG'
        )
    return raw


def _in_colour(raw):
    count = raw.shape[2]
    said = (
        f'has {count} channels, but a label file has one, with a class id in '
        'each pixel. '
    )
    if count == 2:
        return said + 'The second is alpha: write the first as a grey PNG'
    if (raw[..., :3] == raw[..., :1]).all():
        return said + 'Its colours are grey: write one channel as a grey PNG'
    # Sorting tens of megapixels takes seconds, and a sample says as much.
    few = raw[:: max(1, len(raw) // 200), :: max(1, raw.shape[1] // 200)]
    found = np.unique(few.reshape(-1, count), axis=0)
    shown = ', '.join(str(tuple(map(int, c))) for c in found[:5])
    return (
        said + 'This looks like a picture of the classes in colour '
        f'({shown}{", ..." if len(found) > 5 else ""}): use the id files, or '
        'write for each colour the id of its class'
    )


def _decode_first_channel(payload):
    # Pillow cuts 16-bit colour PNGs down to 8 bits. OpenCV keeps them, with
    # the channels in reverse order.
    if payload.startswith(PNG) and payload[25] == 3:
        raise ImageFileError(
            'is a palette file, but this data set has ids in the first of '
            'several channels'
        )
    raw = _imdecode(payload, cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise ImageFileError(_undecodable(payload))
    if raw.ndim == 3:
        # With an alpha channel the order is B, G, R, A.
        raw = raw[..., 2]
    if raw.dtype.kind not in 'iu':
        raise ImageFileError(f'holds {raw.dtype} values, but ids are integers')
    if not payload.startswith(_TIFF):
        raw = orient(raw, exif_orientation(payload))
    return np.ascontiguousarray(raw)


def _undecodable(payload, error=None):
    """Say why a file cannot be decoded."""
    if not payload:
        return 'is empty (0 bytes)'
    try:
        with open_image(payload):
            pass
    except ImageFileError as too_large:
        return str(too_large)
    except Exception as other:
        error = error or other
    chunk = damaged_chunk(payload)
    if chunk is not None:
        return _damaged(chunk)
    if error is None:
        why = 'OpenCV does not know its format, or it is damaged'
    elif isinstance(error, UnidentifiedImageError):
        # Its own text has an address, and differs each time.
        why = 'no format of images begins like it, or its head is damaged'
    else:
        why = f'{type(error).__name__}: {error}'
    return f'cannot be decoded ({why})'


def _damaged(chunk):
    return f'cannot be decoded: the checksum of its PNG chunk {chunk} is wrong'


def _too_large(width, height):
    return (
        f'is {width}x{height} pixels, more than {MAX_PIXELS} in all, which '
        'is the limit: cut it into tiles'
    )


def _span(values):
    """The least and the greatest of some values, in words."""
    return f'{np.nanmin(values):g}..{np.nanmax(values):g}'
