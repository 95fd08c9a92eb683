"""How image and label files become arrays."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from clouds_mmseg.utils import images
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import (
    ImageFileError,
    check_image_range,
    decode_ids,
    decode_image,
    ends_early,
    exif_orientation,
    orient,
    read_image,
    stored_maximum,
    to_8_bits,
)

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(
    RNG.integers(0, 255, (6, 9, 3), dtype=np.uint8), (90, 60)
)  # fmt: skip
IDS = RNG.integers(0, 40, (12, 20), dtype=np.uint8)
DEEP = np.arange(4000, dtype=np.uint16).reshape(40, 100)


def encode(pixels, kind, **options):
    stream = io.BytesIO()
    picture = pixels
    if isinstance(pixels, np.ndarray):
        picture = Image.fromarray(pixels)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def by_opencv(suffix, pixels):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def with_chunk(payload, name, data, checksum=None):
    """Put a chunk behind the header of a PNG."""
    body = name + data
    checksum = zlib.crc32(body) if checksum is None else checksum
    chunk = struct.pack('>I', len(data)) + body + struct.pack('>I', checksum)
    return payload[:33] + chunk + payload[33:]


def refusal(function, *args):
    with pytest.raises(ImageFileError) as caught:
        function(*args)
    return str(caught.value)


class TestOrientation:
    @pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP', 'AVIF'])
    @pytest.mark.parametrize('orientation', range(1, 9))
    def test_images(self, kind, orientation):
        try:
            payload = encode(PIXELS, kind, exif=turned(orientation))
        except KeyError:
            pytest.skip(f'Pillow without {kind}')
        assert exif_orientation(payload) == orientation
        stored = decode_image(encode(PIXELS, kind))
        np.testing.assert_array_equal(
            decode_image(payload), orient(stored, orientation)
        )

    @pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    @pytest.mark.parametrize('orientation', range(1, 9))
    def test_labels_and_16_bit_images(self, kind, dtype, orientation):
        ids = IDS.astype(dtype) * (1 if dtype == np.uint8 else 1000)
        payload = encode(ids, kind, exif=turned(orientation))
        upright = orient(ids, orientation)
        np.testing.assert_array_equal(decode_ids(payload), upright)
        grey = upright if dtype == np.uint8 else upright >> 8
        np.testing.assert_array_equal(decode_image(payload)[..., 0], grey)

    @pytest.mark.parametrize('orientation', range(1, 9))
    def test_first_channel(self, orientation):
        payload = encode(PIXELS, 'PNG', exif=turned(orientation))
        np.testing.assert_array_equal(
            decode_ids(payload, 'first'), orient(PIXELS[..., 0], orientation)
        )

    @given(
        hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3)),
        st.integers(1, 8),
    )
    def test_every_orientation_can_be_undone(self, pixels, orientation):
        back = {6: 8, 8: 6}.get(orientation, orientation)
        again = orient(orient(pixels, orientation), back)
        np.testing.assert_array_equal(again, pixels)

    def test_what_is_no_orientation(self):
        assert exif_orientation(encode(PIXELS, 'PNG', exif=turned(9))) == 1
        assert exif_orientation(b'no image') == 1
        damaged = with_chunk(encode(PIXELS, 'PNG'), b'eXIf', b'II*\0', 1)
        assert exif_orientation(damaged) == 1


class TestWhatDecodersRead:
    """Never an error for a file that they read well."""

    KINDS = dict(
        grey=lambda p: encode(p.convert('L'), 'JPEG'),
        progressive=lambda p: encode(p, 'JPEG', progressive=True),
        cmyk=lambda p: encode(p.convert('CMYK'), 'JPEG'),
        restarts=lambda p: encode(p, 'JPEG', restart_marker_rows=1),
        behind_the_end=lambda p: encode(p, 'JPEG') + b'x' * 9000,
        motion_photo=lambda p: encode(p, 'JPEG') + b'ftyp' + b'\xff\xd8' * 99,
        extra_bytes=lambda p: encode(p, 'JPEG')[:-2] + b'abc\xff\xd9',
        mpo=lambda p: encode(p, 'MPO', save_all=True, append_images=[p]),
        two_pages=lambda p: encode(
            p, 'TIFF', save_all=True, append_images=[p]
        ),
        animated=lambda p: encode(p, 'PNG', save_all=True, append_images=[p]),
        png_and_more=lambda p: encode(p, 'PNG') + b'\0' * 9000,
        palette=lambda p: encode(p.convert('P'), 'PNG'),
        alpha=lambda p: encode(p.convert('RGBA'), 'PNG'),
        grey_alpha=lambda p: encode(p.convert('LA'), 'PNG'),
        bilevel=lambda p: encode(p.convert('1'), 'PNG'),
        bad_text=lambda p: with_chunk(encode(p, 'PNG'), b'tEXt', b'a\0b', 1),
        bad_gamma=lambda p: with_chunk(
            encode(p, 'PNG'), b'gAMA', b'\0\0\0\1', 1
        ),
        bad_end=lambda p: encode(p, 'PNG')[:-1] + b'\0',
        bmp_length=lambda p: b'BM\xff\xff\xff\x7f' + encode(p, 'BMP')[6:],
    )

    @pytest.mark.parametrize('kind', KINDS)
    def test_images(self, kind):
        payload = self.KINDS[kind](Image.fromarray(PIXELS))
        known = cv2.imdecode(np.frombuffer(payload, np.uint8), 1)
        assert known is not None
        np.testing.assert_array_equal(decode_image(payload), known)

    @pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'BMP'])
    def test_grey_at_the_edge_is_no_damage(self, kind):
        pixels = np.full((48, 64, 3), 128, np.uint8)
        pixels[16:32, 16:48] = PIXELS[:16, :32]
        payload = encode(pixels, kind)
        known = cv2.imdecode(np.frombuffer(payload, np.uint8), 1)
        np.testing.assert_array_equal(decode_image(payload), known)

    def test_labels_with_damaged_metadata(self):
        payload = with_chunk(encode(IDS, 'PNG'), b'tEXt', b'a\0b', 1)
        np.testing.assert_array_equal(decode_ids(payload), IDS)
        np.testing.assert_array_equal(
            decode_ids(encode(IDS, 'PNG') + b'x' * 9000), IDS
        )


class TestTruncated:
    @pytest.mark.parametrize('progressive', [False, True])
    @settings(max_examples=30, deadline=None)
    @given(share=st.floats(0.01, 0.999))
    def test_every_cut_of_a_jpeg(self, progressive, share):
        payload = encode(PIXELS, 'JPEG', progressive=progressive)
        cut = payload[: max(3, int(len(payload) * share))]
        assert 'truncated' in refusal(decode_image, cut)
        start = payload.index(b'\xff\xda') + 14
        cut = payload[: start + int((len(payload) - start) * share)]
        # Room that a file system had reserved.
        assert 'truncated' in refusal(decode_image, cut + b'\0' * 5000)
        # A whole picture behind it does not make the first one whole.
        refusal(decode_image, cut + b'\0' * 9 + payload)

    @pytest.mark.parametrize('subsampling', [0, 2])
    @pytest.mark.parametrize('share', [0.5, 0.7, 0.95])
    def test_grey_lower_half(self, subsampling, share):
        """Both decoders return such a picture without a word."""
        payload = encode(PIXELS, 'JPEG', quality=95, subsampling=subsampling)
        cut = payload[: int(len(payload) * share)] + b'\xff\xd9'
        assert (cv2.imdecode(np.frombuffer(cut, np.uint8), 1) == 128).any()
        assert 'decoders fill the rest' in refusal(decode_image, cut)

    def test_progressive_cut_inside_of_a_scan(self):
        payload = encode(PIXELS, 'JPEG', progressive=True)
        assert not ends_early(payload, decode_image(payload))
        cut = payload[: len(payload) // 2] + b'\xff\xd9'
        image = cv2.imdecode(np.frombuffer(cut, np.uint8), 1)
        assert ends_early(cut, image)

    @pytest.mark.parametrize('kind', ['PNG', 'BMP', 'WEBP', 'GIF', 'TIFF'])
    def test_other_formats(self, kind):
        payload = encode(PIXELS, kind)
        refusal(decode_image, payload[: len(payload) // 2])
        refusal(decode_ids, payload[: len(payload) // 2])

    def test_no_image(self):
        for payload in (b'', b'<html>', b'\xff\xd8\xff', b'BM', images.PNG):
            text = refusal(decode_image, payload)
            refusal(decode_ids, payload)
            # The same words each time, so that a finding stays accepted.
            assert '0x' not in text


class TestDepth:
    def test_12_bits_in_16_are_refused_until_the_range_is_known(self):
        for payload in (
            by_opencv('.png', DEEP),
            by_opencv('.png', np.dstack([DEEP] * 3)),
            encode(DEEP, 'TIFF'),
        ):
            text = refusal(decode_image, payload)
            assert 'at most 3999' in text and 'image_range=(0, 4095)' in text
            image = decode_image(payload, (0, 4095))
            np.testing.assert_array_equal(image[..., 1], DEEP >> 4)
            # Said to be that dark.
            image = decode_image(payload, (0, 65535))
            np.testing.assert_array_equal(image[..., 1], DEEP >> 8)

    def test_exposure_does_not_depend_on_the_image(self):
        bright = decode_image(by_opencv('.png', DEEP), (0, 4095))
        dark = decode_image(by_opencv('.png', DEEP // 16), (0, 4095))
        assert bright.max() == 249 and dark.max() == 15

    @pytest.mark.parametrize('suffix', ['.png', '.jp2'])
    def test_16_bits_as_opencv_reads_them(self, suffix):
        values = RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16)
        payload = by_opencv(suffix, values)
        known = cv2.imdecode(np.frombuffer(payload, np.uint8), 1)
        np.testing.assert_array_equal(decode_image(payload), known)

    def test_significant_bits_of_png_change_nothing(self):
        payload = by_opencv('.png', DEEP * 16)
        plain = decode_image(payload)
        tagged = with_chunk(payload, b'sBIT', b'\x0c')
        np.testing.assert_array_equal(decode_image(tagged), plain)

    @pytest.mark.parametrize('most', [100, 255, 4095, 65535])
    def test_pgm_says_its_range(self, most):
        values = np.linspace(0, most, 12).astype('>u2').reshape(3, 4)
        kind = 'u1' if most < 256 else '>u2'
        head = f'P5\n# made by hand\n4 3\n{most}\n'.encode()
        image = decode_image(head + values.astype(kind).tobytes())
        assert image.min() == 0 and image.max() == 255

    def test_an_image_of_zeros_is_one(self):
        assert not decode_image(by_opencv('.png', DEEP * 0)).any()

    @pytest.mark.parametrize('dtype', [np.float32, np.int32])
    def test_types_without_a_range(self, dtype):
        payload = encode(DEEP.astype(dtype), 'TIFF')
        assert 'image_range' in refusal(decode_image, payload)
        image = decode_image(payload, (0, 3999))
        np.testing.assert_array_equal(
            image[..., 0], np.rint(DEEP / 3999 * 255)
        )

    def test_values_outside_and_not_finite(self):
        whole = by_opencv('.png', DEEP * 16)
        assert '0..63984' in refusal(decode_image, whole, (0, 4095))
        for odd in (np.nan, np.inf, -np.inf):
            values = DEEP.astype(np.float32)
            values[3, 4] = odd
            payload = encode(values, 'TIFF')
            assert 'NaN or inf' in refusal(decode_image, payload, (0, 9e9))

    def test_8_bit_files_in_a_set_of_12_bits(self):
        text = refusal(decode_image, encode(PIXELS, 'JPEG'), (0, 4095))
        assert 'is an 8-bit file' in text
        decode_image(encode(PIXELS, 'JPEG'), (0, 255))

    @given(
        hnp.arrays(np.uint16, (3, 4), elements=st.integers(0, 1023)),
        st.floats(-50, 0),
        st.floats(1023, 5000),
    )
    def test_scaling(self, values, low, high):
        scaled = to_8_bits(values, (low, high))
        exact = (values - low) / (high - low) * 255
        assert scaled.dtype == np.uint8
        # A range of whole bits drops the lower ones.
        assert (np.abs(scaled - exact) < 1.01).all()
        order = np.argsort(values.ravel(), kind='stable')
        assert (np.diff(scaled.ravel()[order].astype(int)) >= 0).all()

    def test_stored_maximum(self):
        assert stored_maximum(by_opencv('.png', DEEP)) == 3999
        assert stored_maximum(encode(PIXELS, 'JPEG')) is None
        assert stored_maximum(encode(PIXELS, 'TIFF')) is None

    @pytest.mark.parametrize('wrong', [5, (1,), (2, 1), (0, np.nan), 'ab'])
    def test_a_range_that_is_none(self, wrong):
        with pytest.raises(UserError, match='two numbers'):
            check_image_range(wrong)
        assert check_image_range([0, 1]) == (0, 1)
        assert check_image_range(None) is None


class TestIds:
    @pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
    @given(ids=hnp.arrays(np.uint16, (4, 5)))
    @settings(max_examples=20, deadline=None)
    def test_16_bits_are_kept(self, kind, ids):
        got = decode_ids(encode(ids, kind))
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got, ids)

    @pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'GIF', 'BMP'])
    def test_palette_indices(self, kind):
        picture = Image.fromarray(IDS)
        picture.putpalette([(7 * i + 99) % 256 for i in range(768)])
        np.testing.assert_array_equal(decode_ids(encode(picture, kind)), IDS)

    @pytest.mark.parametrize('bits', [1, 2, 4])
    def test_palette_of_few_bits(self, bits):
        ids = IDS % 2**bits
        picture = Image.fromarray(ids)
        picture.putpalette([(7 * i + 99) % 256 for i in range(768)])
        payload = encode(picture, 'PNG', bits=bits)
        assert payload[24] == bits
        np.testing.assert_array_equal(decode_ids(payload), ids)

    def test_negative_ids_stay_negative(self):
        ids = IDS.astype(np.int32) - 1
        np.testing.assert_array_equal(decode_ids(encode(ids, 'TIFF')), ids)
        signed = encode(IDS, 'TIFF', tiffinfo={339: 2})
        assert decode_ids(signed).dtype == np.int32

    @pytest.mark.parametrize(
        'words, picture, kind',
        [
            ('lossy|JPEG', IDS, 'JPEG'),
            ('integers', IDS.astype(np.float32), 'TIFF'),
            ('classes in colour', PIXELS, 'PNG'),
            ('colours are grey', np.dstack([IDS] * 3), 'PNG'),
            ('alpha', np.dstack([IDS, IDS]), 'PNG'),
        ],
    )
    def test_what_holds_no_ids(self, words, picture, kind):
        text = refusal(decode_ids, encode(picture, kind))
        assert any(word in text for word in words.split('|'))

    def test_colours_are_named(self):
        colours = np.zeros((4, 4, 3), np.uint8)
        colours[2:] = 128, 64, 32
        text = refusal(decode_ids, encode(colours, 'PNG'))
        assert '(0, 0, 0), (128, 64, 32)' in text

    @pytest.mark.parametrize('kind', ['TIFF', 'PNG', 'GIF'])
    def test_several_pictures(self, kind):
        first, second = Image.fromarray(IDS), Image.fromarray(IDS[::-1])
        payload = encode(first, kind, save_all=True, append_images=[second])
        assert 'holds 2 images' in refusal(decode_ids, payload)

    def test_palette_where_channels_are_meant(self):
        payload = encode(Image.fromarray(PIXELS).convert('P'), 'PNG')
        assert 'palette' in refusal(decode_ids, payload, 'first')

    @settings(max_examples=60, deadline=None)
    @given(place=st.integers(33, 200), bit=st.integers(0, 7))
    def test_no_flipped_bit_becomes_another_id(self, place, bit):
        payload = bytearray(encode(IDS, 'PNG'))
        payload[place] ^= 1 << bit
        try:
            found = decode_ids(bytes(payload))
        except ImageFileError:
            return
        np.testing.assert_array_equal(found, IDS)


class TestSize:
    def test_labels_above_the_limit_of_pillow(self, monkeypatch):
        # The very same code path, without 200 megapixels.
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50)
        for kind in ('PNG', 'TIFF', 'BMP'):
            payload = encode(IDS, kind)
            with pytest.raises(Image.DecompressionBombError):
                Image.open(io.BytesIO(payload))
            np.testing.assert_array_equal(decode_ids(payload), IDS)
            assert decode_image(payload).shape == (*IDS.shape, 3)
        payload = encode(IDS, 'JPEG', exif=turned(6))
        assert exif_orientation(payload) == 6
        picture = Image.fromarray(IDS)
        picture.putpalette([7] * 768)
        assert 'PNG' in refusal(decode_ids, encode(picture, 'TIFF'))

    def test_our_own_limit(self):
        header = struct.pack('>IIBBBBB', 40000, 40000, 8, 0, 0, 0, 0)
        payload = images.PNG
        for name, data in (
            (b'IHDR', header),
            # As many bytes as so many pixels need at the least.
            (b'IDAT', bytes(1_600_000)),
            (b'IEND', b''),
        ):
            payload += struct.pack('>I', len(data)) + name + data
            payload += struct.pack('>I', zlib.crc32(name + data))
        for function in (decode_image, decode_ids):
            text = refusal(function, payload)
            assert '40000x40000' in text and 'tiles' in text

    @pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
    def test_a_header_that_promises_too_many_pixels(self, kind):
        payload = bytearray(encode(IDS, kind))
        if kind == 'PNG':
            payload[16:24] = struct.pack('>II', 30000, 30000)
            payload[29:33] = struct.pack('>I', zlib.crc32(payload[12:29]))
        else:
            place = payload.index(b'\xff\xc0')
            payload[place + 5 : place + 9] = struct.pack('>HH', 30000, 30000)
        for function in (decode_image, decode_ids):
            text = refusal(function, bytes(payload))
            assert '30000x30000' in text and 'cannot hold' in text


def test_reading_names_what_is_wrong(tmp_path):
    path = tmp_path / 'a.png'
    assert 'cannot be read: No such file' in refusal(read_image, path)
    path.write_bytes(encode(PIXELS, 'PNG'))
    np.testing.assert_array_equal(read_image(path), PIXELS)
