import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clouds_mmseg.refine.sam_prompts import (
    CENTER_RADIUS,
    POINT_MODES,
    Component,
    erode,
    sample_points,
    sample_prompts,
)

MASKS = hnp.arrays(
    bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
)


def ranks(mask, seed=0):
    return np.random.default_rng(seed).random(mask.shape)


def sample(mask, count, seed=0, **options):
    """Points as (x, y), as sample_prompts gives them; or None."""
    points = sample_points(mask, count, ranks(mask, seed), **options)
    return None if points is None else points[:, ::-1]


def component(label, mask):
    """A component of a full-size mask, in its box."""
    y, x = np.nonzero(mask)
    box = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    return Component(label, box, mask[box])


@settings(max_examples=60, deadline=None)
@given(
    MASKS,
    st.integers(1, 6),
    st.sampled_from(POINT_MODES),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 10),
)
def test_points_are_distinct_pixels_of_the_mask(
    mask, count, mode, erosion, seed
):
    points = sample(mask, count, seed, mode=mode, erosion=erosion)
    if points is None:
        assert (
            mode == 'center'
            or erosion == 3
            or mask.sum() < count
            or (mode == 'largest_component')
        )
        return
    assert points.shape == (count, 2)
    x, y = points.T
    assert mask[y, x].all()
    assert len({*zip(x, y, strict=True)}) == count
    if erosion == 3:
        padded = np.pad(mask, 1)
        for x_, y_ in zip(x, y, strict=True):
            assert padded[y_ : y_ + 3, x_ : x_ + 3].all()


def test_points_are_xy():
    mask = np.zeros((40, 8), bool)
    mask[30:, 2:4] = True
    points = sample(mask, 10)
    assert points[:, 0].max() <= 3 and points[:, 1].min() >= 30


def test_points_cover_the_mask_evenly():
    mask = np.ones((10, 10), bool)
    counts = np.zeros((10, 10))
    for seed in range(400):
        x, y = sample(mask, 5, seed).T
        counts[y, x] += 1
    assert counts.min() >= 5 and counts.max() <= 45  # 20 expected


def test_center_stays_near_the_centre_of_mass():
    mask = np.zeros((100, 100), bool)
    mask[10:90, 20:60] = True
    mask[95:, 95:] = True
    points = sample(mask, 50, mode='center')
    distance = np.linalg.norm(points - [39.5, 49.5], axis=1)
    assert distance.max() < CENTER_RADIUS
    assert distance.max() > CENTER_RADIUS / 2


def test_a_ring_has_no_points_at_its_centre():
    y, x = np.mgrid[:60, :60]
    radius = np.hypot(y - 30, x - 30)
    ring = (radius > 20) & (radius < 25)
    assert sample(ring, 5, mode='center') is None
    assert sample(ring, 5, mode='random') is not None


def test_largest_component_leaves_the_smaller_parts_out():
    # Two blocks joined by a bridge that the erosion breaks; the smaller one
    # is numbered last.
    mask = np.zeros((20, 40), bool)
    mask[2:18, 2:18] = True
    mask[2:10, 28:36] = True
    mask[5, 18:28] = True
    for seed in range(20):
        points = sample(mask, 10, seed, mode='largest_component', erosion=3)
        assert points[:, 0].max() < 18
    # Without erosion it is one component.
    points = sample(mask, 190, mode='largest_component')
    assert points[:, 0].max() > 27


def test_erosion_counts_the_outside_as_background():
    mask = np.ones((5, 6), bool)
    assert erode(mask, 3).sum() == 3 * 4
    assert erode(mask, 0) is mask and erode(mask, 1) is mask


@pytest.mark.parametrize('pixels', [4, 5])
def test_a_component_without_room_is_skipped(pixels):
    mask = np.zeros((9, 9), bool)
    mask[4, :pixels] = True
    points = sample(mask, 5)
    assert (points is None) == (pixels < 5)


def test_a_skipped_component_does_not_shift_the_others():
    large = np.zeros((3, 12, 12), bool)
    large[0, :6], large[1, 4, :3], large[2, 7:] = True, True, True
    components = [
        component(k, m) for k, m in zip((1, 4, 6), large, strict=True)
    ]
    points, classes = sample_prompts(components, (12, 12), 5, seed=[3])
    assert classes.tolist() == [1, 6]
    assert points.shape == (2, 5, 2) and points.dtype == np.float32
    assert (points[0][:, 1] < 6).all() and (points[1][:, 1] >= 7).all()
    # Nor their draws: the same with room for all.
    large[1, 4, :6] = True
    components[1] = component(4, large[1])
    more, classes = sample_prompts(components, (12, 12), 5, seed=[3])
    assert classes.tolist() == [1, 4, 6]
    np.testing.assert_array_equal(more[[0, 2]], points)


def test_points_stay_while_their_component_changes_elsewhere():
    mask = np.zeros((40, 50), bool)
    mask[5:30, 8:40] = True
    before, _ = sample_prompts([component(2, mask)], mask.shape, 5, [0])
    changed = mask.copy()
    changed[3:5, 8:40] = True
    lost = ranks(mask, [0]) > np.sort(ranks(mask, [0])[mask])[4]
    changed[5:7] &= ~lost[5:7]
    gained = ranks(mask, [0]) < np.sort(ranks(mask, [0])[mask])[4]
    changed[3:5] &= ~gained[3:5]
    assert changed.sum() != mask.sum()
    after, _ = sample_prompts([component(9, changed)], mask.shape, 5, [0])
    np.testing.assert_array_equal(before, after)
    x, y = before[0, 0].astype(int)
    changed[y, x] = False
    after, _ = sample_prompts([component(2, changed)], mask.shape, 5, [0])
    assert (before != after).any()


@pytest.mark.parametrize('mode', ['random', 'center'])
def test_points_of_a_box_are_those_of_the_whole_map(mode):
    mask = np.zeros((60, 50), bool)
    mask[20:50, 18:44] = True
    points, _ = sample_prompts(
        [component(1, mask)], mask.shape, 5, [7], mode=mode, erosion=3
    )
    plain = sample(mask, 5, [7], mode=mode, erosion=3)
    np.testing.assert_array_equal(points[0], plain)


def test_no_component_gives_empty_arrays():
    points, classes = sample_prompts([], (4, 4), 5, seed=[0])
    assert points.shape == (0, 5, 2) and classes.shape == (0,)


def test_draws_depend_on_the_seed_alone():
    full = [component(0, np.ones((30, 30), bool))]
    first, _ = sample_prompts(full, (30, 30), 5, seed=[1, 2**100])
    np.random.seed(5)
    again, _ = sample_prompts(full, (30, 30), 5, seed=[1, 2**100])
    other, _ = sample_prompts(full, (30, 30), 5, seed=[1, 3])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
