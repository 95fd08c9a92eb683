"""Drawings taken apart, and error maps."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from tiny_run import CLASSES, PALETTE

from clouds_mmseg.report.pictures import (
    IGNORED,
    RIGHT,
    WRONG,
    error_map,
    evenly,
    map_uri,
    read_panel,
)
from clouds_mmseg.utils.visualization import (
    colorize,
    legend,
    split_strip,
    stack,
    strip,
)


def decode(uri):
    kind, _, text = uri.partition(',')
    assert kind.startswith('data:image/') and kind.endswith(';base64')
    return Image.open(io.BytesIO(base64.b64decode(text))).convert('RGB')


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 250, (20, 40, 3), np.uint8)
    label, prediction = rng.integers(0, 3, (2, 20, 40)).astype(np.uint8)
    label[:3] = 255
    row = strip(image, label, prediction, PALETTE, width=40, caption='a')
    return image, label, prediction, row


def test_a_drawing_comes_apart_as_it_was_put_together(drawn):
    image, label, prediction, row = drawn
    # Wraps into several lines.
    drawing = stack([row, legend(CLASSES, PALETTE, row.width)])
    parts, colors = split_strip(drawing, CLASSES)
    want = [image, colorize(label, PALETTE), colorize(prediction, PALETTE)]
    for part, expected in zip(parts, want, strict=True):
        np.testing.assert_array_equal(np.asarray(part), expected)
    assert [list(color) for color in colors] == PALETTE
    bare, none = split_strip(row)
    assert none == [] and bare[2].tobytes() == parts[2].tobytes()


def test_another_layout_is_refused(drawn):
    *_, row = drawn
    drawing = stack([row, legend(CLASSES, PALETTE, row.width)])
    for wrong, classes in (
        (drawing, ['a'] * 20),
        (drawing, None),
        (row, CLASSES),
        (row.resize((77, 60)), None),
        (Image.new('RGB', (3, 3)), None),
    ):
        with pytest.raises(ValueError, match='is no image'):
            split_strip(wrong, classes)


def test_drawings_of_a_run_and_files_that_are_none(panel, tmp_path):
    parts, _ = split_strip(panel('dusk'), CLASSES)
    assert {part.size for part in parts} == {(128, 128)}
    for name, content in (('a.png', b''), ('b.png', b'\x89PNG\r\n\x1a\n12')):
        (tmp_path / name).write_bytes(content)
        assert read_panel(tmp_path / name, CLASSES) is None
    assert read_panel(tmp_path / 'none.png', CLASSES) is None


def test_an_error_map_marks_what_is_wrong():
    label = np.array([[[0, 0, 0], [9, 9, 9], [9, 9, 9]]], np.uint8)
    prediction = np.array([[[1, 1, 1], [9, 9, 9], [9, 9, 8]]], np.uint8)
    drawn = error_map(label, prediction)
    assert [tuple(c) for c in drawn[0].tolist()] == [IGNORED, RIGHT, WRONG]


def test_maps_are_encoded_without_loss(drawn):
    _, label, *_ = drawn
    image = Image.fromarray(colorize(label, PALETTE))
    assert decode(map_uri(image)).tobytes() == image.tobytes()
    large = image.resize((1400, 700), Image.Resampling.NEAREST)
    small = decode(map_uri(large))
    assert small.size == (512, 256)
    assert {c for _, c in small.getcolors()} == {
        c for _, c in image.getcolors()
    }


def test_evenly():
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly(list(range(11)), 3) == [0, 5, 10]
    assert evenly([1, 2], 1) == [2] and evenly([1], 0) == []
