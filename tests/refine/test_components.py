import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import find_components as find_plainly

from clouds_mmseg.refine.sam_prompts import find_components


def stacked(label, area, **options):
    """Classes and full-size masks."""
    components = find_components(label, area, **options)
    masks = [c.full_mask(label.shape) for c in components]
    masks = np.array(masks, bool).reshape(-1, *label.shape)
    return np.array([c.label for c in components], int), masks


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 999),
    st.integers(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_components_cover_what_is_large_enough(height, width, seed, area):
    label = np.random.default_rng(seed).integers(0, 3, (height, width))
    label[label == 2] = 255
    classes, masks = stacked(label, area)
    assert masks.shape == (len(classes), height, width)
    assert (np.diff(classes) >= 0).all()
    for k, mask in zip(classes, masks, strict=True):
        assert mask.sum() > area and (label[mask] == k).all()
        # Nothing of the class touches it by a side.
        grown = np.zeros_like(mask)
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        assert not (grown & ~mask & (label == k)).any()
    assert (masks.sum(0) <= 1).all()
    if area == 0:
        assert masks.any(0).sum() == (label != 255).sum()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_one_pass_equals_a_pass_a_class(height, width, seed):
    rng = np.random.default_rng(seed)
    label = rng.choice(
        [0, 5, 18, 255], (height, width), p=[0.6, 0.2, 0.1, 0.1]
    )
    classes, masks = stacked(label, 1)
    expected, plain = find_plainly(label, 1)
    assert classes.tolist() == [*expected]
    assert all((a == b).all() for a, b in zip(masks, plain, strict=True))


def test_a_box_is_no_larger_than_its_component():
    label = np.full((9, 12), 255, np.uint8)
    label[2:5, 3:9] = 4
    label[4, 3] = 255
    (component,) = find_components(label, 5)
    assert component.box == (slice(2, 5), slice(3, 9))
    assert component.mask.sum() == 17 and component.label == 4


def test_corners_do_not_connect_and_the_area_must_be_exceeded():
    label = np.full((4, 4), 255)
    label[:2, :2] = 7
    label[2:, 2:] = 7
    classes, masks = stacked(label, 3)
    assert classes.tolist() == [7, 7]
    assert masks[0, 0, 0] and masks[1, 3, 3]
    assert not find_components(label, 4)


def test_nothing_to_find():
    assert find_components(np.full((3, 5), 255, np.uint8), 0) == []
    classes, _ = stacked(np.full((3, 5), 255), 0, ignore_index=0)
    assert classes.tolist() == [255]


@pytest.mark.parametrize('label', [np.zeros((1, 2, 2), int), np.zeros((2, 2))])
def test_what_is_no_label_map_is_named(label):
    with pytest.raises(ValueError, match=r'\(H, W\).*got \('):
        find_components(label, 0)
