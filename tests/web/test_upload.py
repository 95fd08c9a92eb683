"""Files of strangers: refused with one message, or read rightly."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import decode_image
from clouds_mmseg.web.upload import (
    Limits,
    RefusedUpload,
    read_upload,
    reduce_image,
)

LIMITS = Limits(megabytes=1, megapixels=1)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope='module')
def picture():
    """A smooth image, so that lossy formats stay near it."""
    y, x = np.mgrid[:48, :64]
    image = np.stack([x * 3, y * 4, 255 - x * 2], axis=-1)
    return Image.fromarray(image.astype(np.uint8))


def head_of_png(width, height):
    """A PNG file that says its size, with the pixels left out."""
    head = struct.pack('>II5B', width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b'\0' * 1000)
    chunks = [(b'IHDR', head), (b'IDAT', data), (b'IEND', b'')]
    parts = [
        struct.pack('>I', len(body))
        + name
        + body
        + struct.pack('>I', zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def bomb(picture):
    """20,000 x 20,000 pixels in a file of 50 kB."""
    data = zlib.compress(bytes(20_000 * (20_000 // 8 + 1)), 9)
    head = struct.pack('>II5B', 20_000, 20_000, 1, 0, 0, 0, 0)
    parts = [
        struct.pack('>I', len(body))
        + name
        + body
        + struct.pack('>I', zlib.crc32(name + body))
        for name, body in [(b'IHDR', head), (b'IDAT', data), (b'IEND', b'')]
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def tiled_tiff(picture):
    """A small TIFF file whose single tile says that it is huge."""
    payload = bytearray(saved(picture, 'TIFF'))
    (start,) = struct.unpack_from('<I', payload, 4)
    (count,) = struct.unpack_from('<H', payload, start)
    entries = [
        struct.unpack_from('<HHI4s', payload, start + 2 + 12 * index)
        for index in range(count)
    ]
    kept = [entry for entry in entries if entry[0] not in (273, 278, 279)]
    for tag, value in ((322, 60_000), (323, 60_000), (324, 8), (325, 9216)):
        kept.append((tag, 4, 1, struct.pack('<I', value)))
    kept.sort(key=lambda entry: entry[0])
    offset = len(payload)
    payload[4:8] = struct.pack('<I', offset)
    payload += struct.pack('<H', len(kept))
    payload += b''.join(struct.pack('<HHI4s', *entry) for entry in kept)
    return bytes(payload + b'\0' * 4)


def many_scans(picture):
    payload = saved(picture, 'JPEG', progressive=True)
    begin = payload.rindex(b'\xff\xda')
    return payload[:-2] + payload[begin:-2] * 200 + payload[-2:]


REFUSED = {
    'empty': (lambda p: b'', 'The file is empty'),
    'text': (lambda p: b'no image', 'is no image that this page reads'),
    'svg': (
        lambda p: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        r'Vector drawings \(SVG, PDF\)',
    ),
    'postscript': (
        lambda p: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
        'is no image that this page reads',
    ),
    'large file': (
        lambda p: saved(p, 'PNG') + b'\0' * 1_150_000,
        'has 1.1 MB, more than the 1 MB',
    ),
    'bomb': (bomb, '20000 x 20000 pixels, more than the 1 megapixels'),
    'head of a bomb': (
        lambda p: head_of_png(2**31 - 1, 2**31 - 1),
        'more than the 1 megapixels|head is damaged',
    ),
    'tile of a bomb': (tiled_tiff, 'tiles of this TIFF file are too large'),
    'scans': (many_scans, 'scans, more than the 100'),
    'line': (
        lambda p: saved(Image.new('RGB', (100_000, 1)), 'PNG'),
        '100000 x 1 pixels: its shorter side must have',
    ),
    'strip': (
        lambda p: saved(Image.new('RGB', (1000, 20)), 'PNG'),
        'at most 16 times as many',
    ),
    'truncated jpeg': (
        lambda p: saved(p, 'JPEG', quality=95)[:-300],
        'This JPEG file is truncated',
    ),
    'truncated png': (
        lambda p: saved(p, 'PNG')[:-30],
        'This PNG file (is truncated|cannot be decoded)',
    ),
    'head alone': (lambda p: saved(p, 'PNG')[:20], 'head is damaged'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused(name, picture):
    make, message = REFUSED[name]
    with pytest.raises(RefusedUpload, match=message) as caught:
        read_upload(make(picture), LIMITS)
    text = str(caught.value)
    assert '\n' not in text and '/' not in text and len(text) < 300


def test_nothing_is_decoded_before_the_size_is_checked(picture, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        'clouds_mmseg.web.upload.decode_image',
        lambda payload: decoded.append(payload) or decode_image(payload),
    )
    for make in (bomb, tiled_tiff, many_scans):
        with pytest.raises(RefusedUpload):
            read_upload(make(picture), LIMITS)
    assert not decoded
    read_upload(saved(picture, 'PNG'), LIMITS)
    assert len(decoded) == 1


def turned(picture):
    exif = Image.Exif()
    exif[274] = 6
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    return saved(stored, 'JPEG', quality=95, exif=exif)


def transparent(picture):
    image = picture.convert('RGBA')
    image.putalpha(128)
    return saved(image, 'PNG')


def deep(picture):
    values = np.asarray(picture).astype(np.uint16) * 257
    return cv2.imencode('.png', values[..., ::-1])[1].tobytes()


def moving(picture, kind):
    other = Image.new('RGB', picture.size, (255, 255, 255))
    return saved(
        picture, kind, save_all=True, append_images=[other], duration=100
    )


def polyglot(picture):
    """A JPEG that is a web page too."""
    return saved(picture, 'JPEG', quality=95) + b'<script>alert(1)</script>'


# Greatest mean difference of a pixel's values.
READ = {
    'png': (lambda p: saved(p, 'PNG'), 0),
    'bmp': (lambda p: saved(p, 'BMP'), 0),
    'tiff': (lambda p: saved(p, 'TIFF'), 0),
    'jpeg': (lambda p: saved(p, 'JPEG', quality=95), 3),
    'webp': (lambda p: saved(p, 'WEBP', quality=95), 4),
    'alpha': (transparent, 0),
    '16 bit': (deep, 0),
    'turned': (turned, 3),
    'cmyk': (lambda p: saved(p.convert('CMYK'), 'JPEG', quality=95), 6),
    'gif': (lambda p: moving(p, 'GIF'), 12),
    'moving webp': (lambda p: moving(p, 'WEBP'), 6),
    'polyglot': (polyglot, 3),
}


@pytest.mark.parametrize('name', READ)
def test_read(name, picture):
    make, tolerance = READ[name]
    image = read_upload(make(picture), LIMITS)
    expected = np.asarray(picture)
    assert image.dtype == np.uint8 and image.shape == expected.shape
    difference = np.abs(image.astype(int) - expected).mean()
    assert difference <= tolerance


def test_large_images_are_reduced(picture):
    image = np.asarray(picture)
    assert reduce_image(image, 1) is image
    small = reduce_image(image, 48 * 64 / 4 / 1e6)
    assert small.shape == (24, 32, 3)
    assert np.allclose(small.mean((0, 1)), image.mean((0, 1)), atol=1)


def test_limits():
    assert '20 MB and 50 megapixels' in Limits().describe()
    for name in ('megabytes', 'megapixels', 'predicted_megapixels'):
        with pytest.raises(UserError, match=f'{name} must be above 0, got 0'):
            Limits(**{name: 0})
    with pytest.raises(UserError, match='must be above 0, got nan'):
        Limits(megabytes=float('nan'))
