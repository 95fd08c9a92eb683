"""Bipartite matching and losses of Mask2Former for semantic segmentation."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clouds_mmseg.models.mask2former.arguments import (
    check_loss,
    read_class_weights,
    refuse_unknown,
)
from clouds_mmseg.models.mask2former.point_sampling import (
    point_sample,
    point_sample_columns,
    point_sample_labels,
    sample_uncertain_points,
)

# More classes than there may be: comparing 16 bits is faster than 64.
_ABOVE = 1 << 15


def point_sample_regions(labels, matches, points, outputs, weights=None):
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
        found = point_sample(maps[:, None], places.flatten(1, 2), outside)
        found = found.reshape(len(regions), outputs, count)
        return found[region, matches.output]

    masks = labels.short()[image] == target.short()[:, None, None]
    covered = read(masks.float(), 'zeros')
    if weights is None:
        return covered, None
    return covered, read(weights[image], 'border')


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
    ids, shares = point_sample_labels(labels, image, points)
    targets = shares.new_zeros((len(labels), num_classes + 1, count))
    for corner in range(4):
        targets.scatter_add_(
            1, ids[:, None, :, corner], shares[:, None, :, corner]
        )
    targets = targets[:, :-1].transpose(1, 2)  # (B, P, K)
    logits = point_sample_columns(mask_logits, points).transpose(
        1, 2
    )  # (B, Q, P)
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


def predict_matched_masks(mask_embeds, mask_features, matches):
    """Predict the masks of the matched pairs, with a gradient.

    All masks are needed to match them, to classify the queries and to build
    the attention masks, and none of that has a gradient. The losses compare
    the matched masks alone, some 15 of 100: predicting these again costs less
    than carrying the gradient of all.

    Args:
        mask_embeds (list[Tensor]): (B, Q, C) of each output.
        mask_features (Tensor): (B, C, h, w).
        matches (Matches): M pairs.

    Returns:
        Tensor: (M, h, w) logits. With no pair at all it still hangs on the
        predictions, so that their gradient is zero and not missing.
    """
    embeds = torch.stack(mask_embeds)
    embeds = embeds[matches.output, matches.image, matches.query]  # (M, C)
    # One product for each image, of all its pairs in all outputs.
    order = matches.image.argsort(stable=True)
    counts = matches.image.bincount(minlength=len(mask_features)).tolist()
    masks = torch.cat(
        [
            pairs @ features
            for pairs, features in zip(
                embeds[order].split(counts),
                mask_features.flatten(2),
                strict=True,
            )
        ]
    )
    masks = masks[order.argsort()]
    return masks.unflatten(1, mask_features.shape[-2:])


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


class MaskCriterion:
    """Match queries with the classes of each image and compare the pairs.

    The target masks of an image are the regions of the classes its label
    shows. Source: Mask2Former (arXiv 2112.01527), section 3.3 and 4.1.

    The random points are drawn in :meth:`sample_matching_points` and
    :meth:`sample_loss_points`; everything else is a function of its arguments.

    Args:
        num_classes (int): K.
        ignore_index (int): Label of pixels that belong to no class.
        class_weight (float | Sequence[float]): A number: weight of the
            cross entropy over classes, in the loss and in the matching. A
            list: how much each of the K classes counts inside the cross
            entropy, optionally with "no object" as the last, K + 1. As in
            mmdet's and MMSegmentation's head, the sum over queries is
            divided by the sum of their weights, and the matching does not
            use them.
        class_loss_weight (float, optional): Where ``class_weight`` is a
            list: what it is where it is a number; 2 by default.
        mask_weight (float): Weight of the binary cross entropy of masks.
        dice_weight (float): Weight of the dice loss of masks.
        no_object_weight (float, optional): Weight of "no object" among the
            classes; 0.1 by default, or the last of K + 1 in
            ``class_weight``.
        num_points (int): Points at which two masks are compared.
        oversample_ratio (float): Candidates for each point of the losses.
        importance_sample_ratio (float): Share of undecided points.
        ignore_unlabelled (bool): Leave pixels of ``ignore_index`` out of the
            mask losses. Mask2Former and CLOUDS do not: there they lie
            outside of every mask.

    Raises:
        ValueError: For an option outside its range.
        UserError: For an option that does not exist, and for class weights
            that do not fit the classes.
    """

    def __init__(
        self,
        *,
        num_classes,
        ignore_index=255,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=None,
        class_loss_weight=None,
        num_points=12544,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        ignore_unlabelled=False,
        **unknown,
    ):
        refuse_unknown('loss of CLOUDSHead', unknown, MaskCriterion.__init__)
        class_weight, self.class_weights = read_class_weights(
            num_classes, class_weight, class_loss_weight, no_object_weight
        )
        check_loss(
            num_points=num_points,
            oversample_ratio=oversample_ratio,
            importance_sample_ratio=importance_sample_ratio,
            class_weight=class_weight,
            mask_weight=mask_weight,
            dice_weight=dice_weight,
        )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.weights = (class_weight, mask_weight, dice_weight)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.ignore_unlabelled = ignore_unlabelled

    def __call__(
        self,
        cls_logits,
        mask_logits,
        labels,
        weights=None,
        *,
        mask_embeds=None,
        mask_features=None,
    ):
        """Compute the weighted losses of all outputs.

        Args:
            cls_logits (list[Tensor]): (B, Q, K + 1) of each output.
            mask_logits (list[Tensor]): (B, Q, h, w) of each output.
            labels (Tensor): (B, H, W) int64 in [0, K) or ``ignore_index``.
            weights (Tensor, optional): (B, H, W) float32, how much each
                pixel counts in the mask losses. Matching does not use them.
            mask_embeds (list[Tensor], optional): (B, Q, C) of each output,
                and ``mask_features`` (B, C, h, w), whose product the masks
                are: the masks of the matched pairs are then predicted again
                with a gradient, and ``mask_logits`` need none. By default
                the gradient flows through ``mask_logits``.

        Returns:
            dict[str, Tensor]: ``loss_cls``, ``loss_mask``, ``loss_dice`` of
            the last output, and ``d<i>.`` before the name for the others.

        Raises:
            ValueError: For a label that is no class.
        """
        with torch.autocast(labels.device.type, enabled=False):
            cls_logits = [x.float() for x in cls_logits]
            labels, present = self.prepare_labels(labels)
            points = self.sample_matching_points(len(cls_logits), labels)
            matches = self.match(
                cls_logits, mask_logits, labels, present, points
            )
            if mask_embeds is None:
                masks = matched_masks(mask_logits, matches)
            else:
                masks = predict_matched_masks(
                    mask_embeds, mask_features, matches
                ).float()
            losses = zip(
                self.class_losses(cls_logits, matches),
                *self.mask_losses(
                    masks,
                    labels,
                    matches,
                    self.sample_loss_points(masks),
                    len(cls_logits),
                    count_masks(present),
                    self.pixel_weights(labels, weights),
                ),
                strict=True,
            )
            return self._named(list(losses))

    def _named(self, losses):
        names = ('loss_cls', 'loss_mask', 'loss_dice')
        named = {}
        for index, values in enumerate(losses):
            last = index == len(losses) - 1
            prefix = '' if last else f'd{index}.'
            for name, weight, value in zip(
                names, self.weights, values, strict=True
            ):
                named[prefix + name] = weight * value
        return named

    def prepare_labels(self, labels):
        """Fold the ignored label to K and see which classes are present.

        Args:
            labels (Tensor): (B, H, W) int64.

        Returns:
            tuple[Tensor, Tensor]: Labels (B, H, W) in [0, K], and (B, K)
            bool.

        Raises:
            ValueError: For a label that is no class.
        """
        ignored = labels == self.ignore_index
        wrong = ((labels < 0) | (labels >= self.num_classes)) & ~ignored
        if wrong.any():
            raise ValueError(
                f'labels hold the ids {labels[wrong].unique().tolist()}; '
                f'they must be below num_classes={self.num_classes} or equal '
                f'to ignore_index={self.ignore_index}: map them when they '
                'are loaded.'
            )
        labels = labels.masked_fill(ignored, self.num_classes)
        present = torch.zeros(
            (len(labels), self.num_classes + 1),
            dtype=torch.bool,
            device=labels.device,
        )
        present.scatter_(1, labels.flatten(1), True)
        return labels, present[:, :-1]

    def pixel_weights(self, labels, weights=None):
        """How much each pixel counts in the mask losses.

        Args:
            labels (Tensor): (B, H, W) int64 in [0, K]; K is ignored.
            weights (Tensor, optional): (B, H, W) float32.

        Returns:
            Tensor | None: (B, H, W) float32; None where all count alike.
        """
        if not self.ignore_unlabelled:
            return weights
        labelled = (labels < self.num_classes).float()
        return labelled if weights is None else labelled * weights

    def sample_matching_points(self, outputs, labels):
        """Draw points evenly: (outputs, B, num_points, 2), xy in [0, 1]."""
        return torch.rand(
            outputs, len(labels), self.num_points, 2, device=labels.device
        )

    @torch.no_grad()
    def sample_loss_points(self, masks):
        """Draw points for masks (M, h, w): (M, num_points, 2)."""
        return sample_uncertain_points(
            masks,
            count=self.num_points,
            oversample_ratio=self.oversample_ratio,
            importance_ratio=self.importance_sample_ratio,
        )

    @torch.no_grad()
    def match(self, cls_logits, mask_logits, labels, present, points):
        """Match each output by itself.

        Args:
            cls_logits (list[Tensor]): (B, Q, K + 1) of each output.
            mask_logits (list[Tensor]): (B, Q, h, w) of each output.
            labels (Tensor): (B, H, W) int64 in [0, K]; K is ignored.
            present (Tensor): (B, K) bool.
            points (Tensor): (outputs, B, P, 2), xy in [0, 1].

        Returns:
            Matches: All pairs.
        """
        costs = [
            matching_costs(c, m.float(), labels, p, self.weights)
            for c, m, p in zip(cls_logits, mask_logits, points, strict=True)
        ]
        return assign(torch.stack(costs), present)

    def class_losses(self, cls_logits, matches):
        """Cross entropy of each output; unmatched queries are "no object".

        Args:
            cls_logits (list[Tensor]): (B, Q, K + 1) of each output.
            matches (Matches): All pairs.

        Returns:
            Tensor: (outputs,), not weighted.
        """
        logits = torch.stack(cls_logits)
        targets = matches.target.new_full(logits.shape[:3], self.num_classes)
        targets[matches.output, matches.image, matches.query] = matches.target
        weight = logits.new_tensor(self.class_weights)
        value = F.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), weight, reduction='none'
        )
        value = value.view(len(logits), -1).sum(1)
        # Zero if "no object" weighs nothing and no class is matched.
        total = weight[targets].flatten(1).sum(1)
        return value / total.clamp(min=1e-6)

    def mask_losses(
        self,
        masks,
        labels,
        matches,
        points,
        outputs,
        num_masks,
        weights=None,
    ):
        """Binary cross entropy and dice loss of the matched masks.

        Args:
            masks (Tensor): (M, h, w) float32, the matched masks as logits.
            labels (Tensor): (B, H, W) int64 in [0, K].
            matches (Matches): All M pairs.
            points (Tensor): (M, P, 2), xy in [0, 1].
            outputs (int): Number of outputs the pairs come from.
            num_masks (Tensor): (), what the sum over pairs is divided by.
            weights (Tensor, optional): (B, H, W) float32, of each pixel.

        Returns:
            tuple[Tensor, Tensor]: Both (outputs,), not weighted.
        """
        logits = point_sample(masks[:, None], points)[:, 0]  # (M, P)
        targets, counts = point_sample_regions(
            labels, matches, points, outputs, weights
        )
        entropy = F.binary_cross_entropy_with_logits(
            logits, targets, reduction='none'
        )
        inside = logits.sigmoid()
        if counts is not None:
            entropy, inside = entropy * counts, inside * counts
            targets = targets * counts
        entropy = entropy.mean(1)
        overlap = (inside * targets).sum(1)
        dice = 1 - (2 * overlap + 1) / (inside.sum(1) + targets.sum(1) + 1)
        return tuple(
            value.new_zeros(outputs).index_add(0, matches.output, value)
            / num_masks
            for value in (entropy, dice)
        )
