"""The regions of the classes, read at the points of the masks they train.

Letters: B images, T regions, M pairs of a query and a region, P points.
"""

import torch

from clouds_mmseg.models.mask2former.points import read_maps

# More classes than there may be: comparing 16 bits is faster than 64.
_ABOVE = 1 << 15


def read_regions(labels, matches, points, outputs, weights=None):
    """Read the region that each matched mask should show.

    Every output of the head is matched with the same regions: the mask of a
    region is made once, and read at the points of all outputs together.

    Args:
        labels (Tensor): (B, H, W) int64.
        matches (Matches): M pairs.
        points (Tensor): (M, P, 2), xy in [0, 1].
        outputs (int): Number of outputs the pairs come from.
        weights (Tensor, optional): (B, H, W) float32, of each pixel.

    Returns:
        tuple[Tensor, Tensor | None]: How much of the four pixels around each
        point the region covers, zero outside of the image, and their mean
        weight. Both (M, P) float32; the second is None without ``weights``.
    """
    count = points.shape[1]
    regions, region = torch.unique(
        matches.image * _ABOVE + matches.target, return_inverse=True
    )
    image, target = regions // _ABOVE, regions % _ABOVE
    # One row of points a region, whichever outputs it was matched in.
    places = points.new_zeros(len(regions), outputs, count, 2)
    places[region, matches.output] = points

    def read(maps, outside):
        found = read_maps(maps[:, None], places.flatten(1, 2), outside)
        found = found.reshape(len(regions), outputs, count)
        return found[region, matches.output]

    masks = labels.short()[image] == target.short()[:, None, None]
    covered = read(masks.float(), 'zeros')
    if weights is None:
        return covered, None
    return covered, read(weights[image], 'border')
