"""The regions of the classes are read as masks of each pair would be."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import read_points
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former.criterion import (
    Matches,
    point_sample_regions,
)
from clouds_mmseg.models.mask2former.point_sampling import corner_pixels

CLASSES, OUTPUTS = 4, 3


def draw(height, width, seed, pairs=7):
    """Labels, pairs of which none is there twice, and their points."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(
        0, CLASSES + 1, (2, height, width), generator=generator
    )
    every = torch.cartesian_prod(
        torch.arange(OUTPUTS), torch.arange(2), torch.arange(CLASSES)
    )
    chosen = torch.randperm(len(every), generator=generator)[:pairs]
    output, image, target = every[chosen.sort().values].unbind(1)
    matches = Matches(output, image, torch.zeros_like(image), target)
    points = torch.rand(pairs, 20, 2, generator=generator)
    # Borders and corners: half of what is read there lies outside.
    points[:, :4] = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]])
    return labels, matches, points


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
def test_equal_to_a_mask_of_every_pair(height, width, seed, pairs):
    labels, matches, points = draw(height, width, seed, pairs)
    weights = torch.rand(labels.shape)
    covered, counts = point_sample_regions(
        labels, matches, points, OUTPUTS, weights
    )
    masks = (labels[matches.image] == matches.target[:, None, None]).float()
    if pairs:
        expected = read_points(masks[:, None], points)[:, 0]
        torch.testing.assert_close(covered, expected, atol=1e-5, rtol=0)
    assert covered.shape == counts.shape == (pairs, 20)
    # The mean of those of the four pixels that lie inside of the image.
    index, bilinear = corner_pixels(labels.shape[1:], matches.image, points)
    mean = (bilinear * weights.flatten()[index]).sum(-1) / bilinear.sum(-1)
    torch.testing.assert_close(counts, mean, atol=1e-4, rtol=0)


def test_a_region_is_drawn_once_for_all_outputs():
    labels = torch.arange(2).repeat_interleave(8).repeat(1, 16, 1)
    output = torch.arange(OUTPUTS).repeat_interleave(2)
    target = torch.arange(2).repeat(OUTPUTS)
    zero = torch.zeros_like(output)
    matches = Matches(output, zero, zero, target)
    with TensorSizes() as sizes:
        point_sample_regions(labels, matches, torch.rand(6, 5, 2), OUTPUTS)
    # Two regions of 16 x 16 pixels, matched in three outputs.
    assert max(sizes.seen) == 2 * 256
