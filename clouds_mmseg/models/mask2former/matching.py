"""Which query answers for which class of an image: bipartite matching.

Source: Mask2Former (arXiv 2112.01527), section 3.2.3 and 3.3; the matching
is DETR's (arXiv 2005.12872), section 3.1.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clouds_mmseg.models.mask2former.points import (
    read_columns,
    read_labels,
)


class Matches(NamedTuple):
    """Matched pairs of all outputs, ordered by output, image and query.

    Every field is (M,) int64 on the device of the predictions.
    """

    output: Tensor
    image: Tensor
    query: Tensor
    target: Tensor  # the class of the pair


def matching_costs(cls_logits, mask_logits, labels, points, weights):
    """Cost of giving each class to each query, for one output of the head.

    Args:
        cls_logits (Tensor): (B, Q, K + 1) float32, the last one "no object".
        mask_logits (Tensor): (B, Q, h, w) float32, without gradient.
        labels (Tensor): (B, H, W) int64 in [0, K]; K is ignored.
        points (Tensor): (B, P, 2), xy in [0, 1], where masks are compared.
        weights (tuple[float, float, float]): Of class, mask and dice cost.

    Returns:
        Tensor: (B, Q, K).
    """
    num_classes = cls_logits.shape[-1] - 1
    count = points.shape[1]
    image = torch.arange(len(labels), device=labels.device)
    ids, shares = read_labels(labels, image, points)
    targets = shares.new_zeros((len(labels), num_classes + 1, count))
    for corner in range(4):
        targets.scatter_add_(
            1, ids[:, None, :, corner], shares[:, None, :, corner]
        )
    targets = targets[:, :-1].transpose(1, 2)  # (B, P, K)
    logits = read_columns(mask_logits, points).transpose(1, 2)  # (B, Q, P)
    # t * softplus(-x) + (1 - t) * softplus(x) = softplus(x) - t * x
    cross_entropy = F.softplus(logits).sum(-1, keepdim=True)
    mask_cost = (cross_entropy - logits @ targets) / count
    inside = logits.sigmoid()
    total = inside.sum(-1, keepdim=True) + targets.sum(1, keepdim=True)
    dice_cost = 1 - (2 * (inside @ targets) + 1) / (total + 1)
    class_cost = -cls_logits.softmax(-1)[..., :-1]
    by_class, by_mask, by_dice = weights
    return by_class * class_cost + by_mask * mask_cost + by_dice * dice_cost


def assign(costs, present):
    """Find the cheapest one-to-one assignment for each output and image.

    Args:
        costs (Tensor): (outputs, B, Q, K).
        present (Tensor): (B, K) bool, the classes that an image shows.

    Returns:
        Matches: On the device of ``costs``.
    """
    device = costs.device
    # A diverging run has its loss reported by the trainer; the solver, which
    # refuses such costs, is not where it should end.
    costs = torch.nan_to_num(costs, nan=1e6, posinf=1e6, neginf=-1e6)
    costs, present = costs.cpu().numpy(), present.cpu().numpy()
    pairs = []
    for output, of_output in enumerate(costs):
        for image, of_image in enumerate(of_output):
            classes = np.flatnonzero(present[image])
            query, column = linear_sum_assignment(of_image[:, classes])
            pair = np.empty((4, len(query)), dtype=np.int64)
            pair[0], pair[1] = output, image
            pair[2], pair[3] = query, classes[column]
            pairs.append(pair)
    pairs = np.concatenate(pairs, axis=1)
    return Matches(*torch.from_numpy(pairs).to(device).unbind())


def matched_masks(mask_logits, matches):
    """Gather the masks of all pairs.

    Args:
        mask_logits (list[Tensor]): (B, Q, h, w) of each output.
        matches (Matches): All M pairs, ordered by output.

    Returns:
        Tensor: (M, h, w) float32. With no pair at all it still hangs on the
        predictions, so that their gradient is zero and not missing.
    """
    counts = matches.output.bincount(minlength=len(mask_logits)).tolist()
    return torch.cat(
        [
            logits[image, query].float()
            for logits, image, query in zip(
                mask_logits,
                matches.image.split(counts),
                matches.query.split(counts),
                strict=True,
            )
        ]
    )


def count_masks(present):
    """Number of target masks, averaged over the ranks and at least one.

    Args:
        present (Tensor): (B, K) bool.

    Returns:
        Tensor: () float32.
    """
    count = present.sum().float()
    all_reduce(count, op='mean')
    return count.clamp(min=1)
