"""What is found out about one image and its label."""

import io
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from clouds_mmseg.datasets.labels import build_label_table, table_digest
from clouds_mmseg.datasets.sample_check import (
    Pair,
    SampleCheck,
    changed_files,
    stamp,
)
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.image_files import damaged_chunk

TABLE = build_label_table({7: 0, 8: 1, 26: 13}, [0, 255])
PAIR = Pair('images/00001.png', 'labels/00001.png')


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 30, (9, 11), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'png')
    return stream.getvalue()


PNG = png()


@settings(max_examples=60, deadline=None)
# The last four are the checksum of an end that has no content.
@given(place=st.integers(8, len(PNG) - 5), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_png_is_found(place, bit):
    payload = bytearray(PNG)
    payload[place] ^= 1 << bit
    assert damaged_chunk(bytes(payload)) is not None


@given(keep=st.integers(8, len(PNG) - 1))
def test_every_cut_of_a_png_is_found(keep):
    assert damaged_chunk(PNG[:keep]) is not None


def test_whole_files_and_other_formats_pass():
    assert damaged_chunk(PNG) is None
    assert damaged_chunk(PNG + b'\0' * 40) is None
    assert damaged_chunk(b'\xff\xd8\xff and so on') is None
    assert damaged_chunk(b'') is None


@pytest.fixture
def found(pairs):
    """Check the pair; returns the report."""
    return lambda **kwargs: SampleCheck(str(pairs), TABLE, **kwargs)(PAIR)


def test_a_good_pair(pairs, found, files):
    report = found()
    assert report.findings == []
    assert report.size == files.shape[::-1]
    assert len(report.digest) == 32
    # Four ids over 240 pixels, in turn.
    assert report.pixels[[0, 1, 13, 255]].tolist() == [60] * 4
    assert report.pixels.sum() == 240
    assert report.stamps == {
        path: stamp(str(pairs / path)) for path in (PAIR.image, PAIR.label)
    }


@pytest.mark.parametrize('kind', ['image', 'label'])
def test_a_damaged_file_is_told_from_its_partner(pairs, found, truncate, kind):
    truncate(pairs / getattr(PAIR, kind))
    (finding,) = found().findings
    assert finding.kind == kind
    assert finding.message.startswith(f'{kind} {kind}s/00001.png is truncated')
    # Where the files are now is no part of what was found.
    assert str(pairs) not in finding.message
    assert finding.file == getattr(PAIR, kind)
    assert (finding.image, finding.label) == (PAIR.image, PAIR.label)


def test_both_files_damaged_are_two_findings(pairs, found, truncate):
    truncate(pairs / PAIR.image)
    truncate(pairs / PAIR.label)
    assert [f.kind for f in found().findings] == ['image', 'label']


def test_a_flipped_bit_that_pillow_reads_over(pairs, found):
    path = pairs / PAIR.label
    payload = bytearray(path.read_bytes())
    # The checksum itself: the pixels are as they were.
    payload[-13] ^= 1
    path.write_bytes(payload)
    Image.open(path).load()
    (finding,) = found().findings
    assert finding.kind == 'label'
    assert 'checksum of its PNG chunk IDAT' in finding.message


def test_an_image_of_another_size(pairs, found, files):
    files.image(pairs / PAIR.image, 5, 5)
    (finding,) = found().findings
    assert finding.kind == 'size'
    assert finding.file == PAIR.label
    assert '20x12' in finding.message and '5x5' in finding.message


def rewrite(path, **options):
    with Image.open(path) as picture:
        picture.load()
    picture.save(path, **options)


@pytest.mark.parametrize('orientation', [2, 3])
def test_a_turned_image_with_an_upright_label(pairs, found, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    rewrite(pairs / PAIR.image, exif=exif)
    (finding,) = found().findings
    assert finding.kind == 'orientation' and not finding.is_error
    assert f'EXIF orientation {orientation}' in finding.message
    # A label that is turned likewise agrees.
    rewrite(pairs / PAIR.label, exif=exif)
    assert found().findings == []


def test_an_image_that_lies_on_its_side(pairs, found):
    exif = Image.Exif()
    exif[274] = 6
    rewrite(pairs / PAIR.image, exif=exif)
    turned, size = found().findings
    assert (turned.kind, size.kind) == ('orientation', 'size')
    assert 'image has EXIF orientation 6' in size.message
    assert 'turn the label' in size.message


def test_data_behind_the_end(pairs, found):
    for name in (PAIR.image, PAIR.label):
        path = pairs / name
        path.write_bytes(path.read_bytes() + b'ftypmp42' * 2000)
    assert found().findings == []


def test_an_image_that_is_black(pairs, found, files):
    Image.fromarray(np.full((*files.shape, 3), 9, np.uint8)).save(
        pairs / PAIR.image
    )
    assert [f.kind for f in found().findings] == ['dark']


def test_a_progressive_jpeg_that_ends_early(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'JPEG', progressive=True)
    payload = stream.getvalue()
    (tmp_path / 'a.jpg').write_bytes(payload)
    check = SampleCheck(str(tmp_path), TABLE)
    assert check(Pair('a.jpg')).findings == []
    (tmp_path / 'a.jpg').write_bytes(
        payload[: len(payload) // 2] + b'\xff\xd9'
    )
    (finding,) = check(Pair('a.jpg')).findings
    assert finding.kind == 'image' and 'truncated' in finding.message


def test_12_bits_need_a_range(tmp_path):
    values = np.linspace(0, 4000, 640, dtype=np.uint16).reshape(20, 32)
    Image.fromarray(values).save(tmp_path / 'a.png')
    (finding,) = SampleCheck(str(tmp_path), TABLE)(Pair('a.png')).findings
    assert finding.kind == 'image' and 'image_range' in finding.message
    check = SampleCheck(str(tmp_path), TABLE, image_range=(0, 4095))
    assert check(Pair('a.png')).findings == []
    # 14 bits are found when all images are known.
    Image.fromarray(values * 4).save(tmp_path / 'a.png')
    report = SampleCheck(str(tmp_path), TABLE)(Pair('a.png'))
    assert report.findings == [] and report.maximum == 16000


def test_ids_that_are_not_defined(pairs, found, files):
    files.label(pairs / PAIR.label, files.label_of([7, 99]))
    report = found()
    (finding,) = report.findings
    assert finding.kind == 'ids'
    assert 'ids outside the classes: 99' in finding.message
    assert report.pixels is None


def test_a_label_without_any_class(pairs, found, files):
    files.label(pairs / PAIR.label, np.zeros(files.shape))
    (finding,) = found().findings
    assert finding.kind == 'all_ignored'
    assert not finding.is_error


def test_a_file_that_vanishes_meanwhile(pairs, found):
    (pairs / PAIR.image).unlink()
    report = found()
    assert [f.kind for f in report.findings] == ['image']
    assert report.stamps[PAIR.image] is None


def test_labels_alone(pairs, truncate):
    truncate(pairs / PAIR.image)
    check = SampleCheck(str(pairs), TABLE)
    report = check(Pair('', PAIR.label))
    assert report.findings == [] and report.size is None
    # To a worker process and back.
    again = pickle.loads(pickle.dumps(check))(Pair('', PAIR.label))
    assert again.pixels.tolist() == report.pixels.tolist()


def test_16_bit_labels_of_synthia(tmp_path, files):
    files.label(tmp_path / 'a.png', files.label_of([7, 26]), 'synthia')
    check = SampleCheck(str(tmp_path), TABLE, 'first')
    assert check(Pair('', 'a.png')).pixels[[0, 13]].tolist() == [120, 120]


def test_stamps_notice_changes(tmp_path):
    for name in 'ab':
        (tmp_path / name).write_text('x')
    stamps = {name: stamp(tmp_path / name) for name in 'ab'}
    assert changed_files(tmp_path, stamps) == []
    (tmp_path / 'a').unlink()
    (tmp_path / 'b').write_text('xy')
    assert changed_files(tmp_path, stamps) == ['a', 'b']


def test_an_error_keeps_its_kind_across_processes():
    error = pickle.loads(pickle.dumps(DataError('Bad.', 'Do.', kind='size')))
    assert (str(error), error.finding, error.kind) == (
        'Bad. Do.',
        'Bad.',
        'size',
    )


def test_digests_tell_tables_and_channels_apart():
    other = build_label_table({7: 0, 8: 1, 26: 12}, [0, 255])
    digests = {
        table_digest(TABLE, None),
        table_digest(TABLE, 'first'),
        table_digest(other, None),
    }
    assert len(digests) == 3
