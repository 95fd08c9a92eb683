import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tiny_run import PALETTE

from clouds_mmseg.utils.cityscapes import CLASSES as CITY
from clouds_mmseg.utils.cityscapes import PALETTE as CITY_PALETTE
from clouds_mmseg.utils.visualization import (
    caption_below,
    colorize,
    grid,
    legend,
    stack,
    strip,
)


@settings(max_examples=30, deadline=None)
@given(
    label=hnp.arrays(
        st.sampled_from([np.uint8, np.int64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.integers(0, 255),
    )
)
def test_each_pixel_has_the_colour_of_its_class(label):
    painted = colorize(label, PALETTE)
    assert painted.dtype == np.uint8
    for index in np.ndindex(label.shape):
        value = int(label[index])
        want = PALETTE[value] if value < len(PALETTE) else [0, 0, 0]
        assert painted[index].tolist() == want


def test_the_panel_shows_image_label_and_prediction():
    image = np.full((8, 16, 3), 77, np.uint8)
    label = np.zeros((8, 16), int)
    prediction = np.ones((8, 16), int)
    drawing = np.asarray(
        strip(image, label, prediction, PALETTE, width=64, caption='day')
    )
    row = drawing[-20]
    assert row[6 + 32].tolist() == [77] * 3
    assert row[6 + 70 + 32].tolist() == PALETTE[0]
    assert row[6 + 140 + 32].tolist() == PALETTE[1]
    # The caption is above, in ink.
    assert (drawing[:20] < 100).any()


def test_an_unlabelled_image_has_a_black_label():
    prediction = np.ones((8, 8), int)
    drawing = np.asarray(
        strip(
            np.full((8, 8, 3), 9, np.uint8),
            None,
            prediction,
            PALETTE,
            width=40,
            caption='a caption that is much too long for this panel ' * 3,
        )
    )
    assert drawing[-20, 6 + 46 + 20].tolist() == [0, 0, 0]


@pytest.mark.parametrize('width', [200, 800, 1600])
def test_the_legend_names_every_class_in_its_width(width):
    drawing = np.asarray(legend(CITY, CITY_PALETTE, width))
    assert drawing.shape[1] == width
    colors = {tuple(c) for c in drawing.reshape(-1, 3).tolist()}
    assert {tuple(c) for c in CITY_PALETTE} <= colors


def test_drawings_are_stacked():
    sheet = stack(
        [Image.new('RGB', (4, 2), (1, 2, 3)), Image.new('RGB', (6, 3))]
    )
    assert sheet.size == (6, 5)
    assert sheet.getpixel((0, 0)) == (1, 2, 3)
    assert sheet.getpixel((5, 0)) == (255, 255, 255)
    assert sheet.getpixel((5, 4)) == (0, 0, 0)


def test_a_grid_has_every_image_in_its_cell():
    reds = [Image.new('RGB', (8, 4), (200, n, 0)) for n in range(5)]
    high = Image.new('RGB', (8, 9), (200, 9, 0))
    rows = [[reds[0], None, reds[1]], [high, reds[2]], [reds[3], reds[4]]]
    plain = np.asarray(grid(rows))
    # A gap of 6 around and between cells of 8 x 4, one row 9 high.
    assert plain.shape == (6 + 4 + 6 + 9 + 6 + 4 + 6, 6 + 3 * 14, 3)
    for (x, y), color in {
        (0, 0): 0, (2, 0): 1, (0, 1): 9, (1, 1): 2, (0, 2): 3, (1, 2): 4,
    }.items():  # fmt: skip
        top, left = (6, 16, 31)[y], 6 + 14 * x
        assert (plain[top : top + 4, left : left + 8] == (200, color, 0)).all()
    assert (plain[6:10, 20:28] == 255).all()  # the empty cell
    titled = np.asarray(
        grid(rows, row_titles=['a', 'two\nlines', 'b'], column_titles='xyz')
    )
    height, width = plain.shape[0] - 6, plain.shape[1] - 6
    assert (titled[-height:, -width:] == plain[-height:, -width:]).all()
    assert (titled[:-height] < 99).any()  # titles above
    assert (titled[-height:, :-width] < 99).any()  # and on the left


def test_a_caption_is_wrapped_below_its_image():
    image = Image.new('RGB', (60, 20), (0, 200, 0))
    drawings = [
        np.asarray(caption_below(image, text))
        for text in ('', '\u96e8 and fog', 'many words ' * 30)
    ]
    for drawing in drawings:
        assert drawing.shape == (20 + 3 * 12, 60, 3)
        assert (drawing[:20] == (0, 200, 0)).all()
    ink = [(drawing[20:] < 99).any(axis=(1, 2)) for drawing in drawings]
    assert not ink[0].any()
    assert ink[1][:12].any() and not ink[1][12:].any()
    assert ink[2][24:].any()
