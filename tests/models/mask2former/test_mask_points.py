import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import read_points
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former.point_sampling import (
    choose_uncertain_points,
    point_sample,
    point_sample_columns,
    point_sample_labels,
)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_reading_labels_equals_reading_every_mask(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, height, width), generator=generator)
    image = torch.tensor([1, 0, 1])
    points = torch.rand(3, 20, 2, generator=generator)
    # Borders and corners: half of what is read there lies outside.
    points[:, :4] = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]])
    ids, weights = point_sample_labels(labels, image, points)
    for k in range(4):
        ours = ((ids == k) * weights).sum(-1)
        masks = (labels[image] == k).float()
        expected = read_points(masks[:, None], points)[:, 0]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_reading_maps_equals_grid_sample_and_accepts_none():
    maps, points = torch.randn(2, 3, 5, 4), torch.rand(2, 9, 2)
    read = point_sample(maps, points)
    torch.testing.assert_close(read, read_points(maps, points))
    assert point_sample(maps[:0], points[:0]).shape == (0, 3, 9)


def test_points_are_chosen_where_the_mask_is_undecided():
    torch.manual_seed(0)
    # Undecided on the left edge alone.
    logits = torch.linspace(0, 10, 32).expand(4, 32, 32)
    candidates = torch.rand(1200, 2)
    points = choose_uncertain_points(logits, candidates, 300)
    assert points.shape == (4, 300, 2)
    # The 300 nearest to the edge lie in the first quarter, but for some at
    # the other borders, past which all is zero.
    assert points[..., 0].mean() < 0.16
    assert choose_uncertain_points(logits, candidates, 0).shape == (4, 0, 2)
    every = choose_uncertain_points(logits, candidates, 1200)
    assert every[0].sum(0).allclose(candidates.sum(0))


def test_no_mask_gives_no_points():
    points = choose_uncertain_points(
        torch.zeros(0, 4, 4), torch.rand(24, 2), 6
    )
    assert points.shape == (0, 6, 2)


def test_columns_equal_maps_in_any_layout():
    torch.manual_seed(0)
    maps, points = torch.randn(2, 3, 5, 4), torch.rand(2, 9, 2)
    points[:, :2] = torch.tensor([[0, 0], [1, 1]])
    expected = read_points(maps, points).transpose(1, 2)
    for layout in (torch.contiguous_format, torch.channels_last):
        read = point_sample_columns(
            maps.contiguous(memory_format=layout), points
        )
        torch.testing.assert_close(read, expected)


def test_masks_choose_among_the_same_candidates():
    """Drawing for each mask took longer than all else."""
    torch.manual_seed(0)
    logits, candidates = torch.randn(50, 8, 8), torch.rand(192, 2)
    with TensorSizes() as sizes:
        points = choose_uncertain_points(logits, candidates, 48)
    assert points.shape == (50, 48, 2)
    # A number for each mask and candidate, not two.
    assert max(sizes.seen) == 50 * 192
