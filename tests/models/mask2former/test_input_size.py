import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds_mmseg.models.mask2former.mask_head import input_size
from clouds_mmseg.utils.errors import UserError

SIDE = st.integers(8, 300)
ROUND = st.sampled_from([math.floor, math.ceil])


def feature(size, rounding):
    return tuple(rounding(side / 4) for side in size)


@given(SIDE, SIDE, st.integers(0, 40), st.integers(0, 40), ROUND)
def test_whole_mode_with_padding(height, width, below, right, rounding):
    """As stack_batch writes it at test time."""
    padded = (height + below, width + right)
    meta = dict(
        img_shape=(height, width),
        pad_shape=padded,
        img_padding_size=(0, right, 0, below),
    )
    assert input_size([meta] * 2, feature(padded, rounding), 4) == padded


@given(SIDE, SIDE, ROUND)
def test_whole_mode_without_padding(height, width, rounding):
    size = (height, width)
    for meta in (
        dict(img_shape=size),
        dict(img_shape=size, pad_shape=None),
        # The Pad transform records channels.
        dict(img_shape=size, pad_shape=(*size, 3)),
    ):
        assert input_size([meta], feature(size, rounding), 4) == size


@given(SIDE, SIDE, st.data(), ROUND)
def test_slide_mode(height, width, data, rounding):
    """slide_inference changes img_shape of the first image alone."""
    crop = tuple(data.draw(st.integers(8, s)) for s in (height, width))
    whole = (height, width)
    metas = [
        dict(img_shape=crop, pad_shape=whole),
        dict(img_shape=whole, pad_shape=whole),
    ]
    size = input_size(metas, feature(crop, rounding), 4, slide=True)
    assert size == crop


def test_a_training_batch_of_unlabelled_images():
    """Each of another size; stack_batch knows of no pad_shape then."""
    metas = [
        dict(img_shape=(30, 64), pad_shape=None, padding_size=(0, 0, 0, 34)),
        dict(img_shape=(64, 50), pad_shape=None, padding_size=(0, 14, 0, 0)),
    ]
    assert input_size(metas, (16, 16), 4) == (64, 64)
    for meta in metas:
        del meta['padding_size']
    assert input_size(metas, (16, 16), 4) == (64, 64)


def test_a_stale_pad_shape_is_passed_over():
    meta = dict(img_shape=(40, 40), pad_shape=(100, 100))
    assert input_size([meta], (10, 10), 4) == (40, 40)
    assert input_size([meta], (25, 25), 4, slide=True) == (100, 100)


@pytest.mark.parametrize(
    'meta', [dict(img_shape=(40, 40)), dict(ori_shape=(80, 80))]
)
def test_sizes_that_do_not_fit_are_named(meta):
    with pytest.raises(UserError, match=r'\(20, 20\) at stride 4'):
        input_size([meta], (20, 20), 4)
