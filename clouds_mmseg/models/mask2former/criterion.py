"""Bipartite matching and losses of Mask2Former for semantic segmentation.

Letters: B images of H x W pixels, Q queries, K classes, P points, M matched
pairs; h and w of a mask. An "output" is the prediction for the learned
queries or after a decoder layer; each has its own matching and losses.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    choose_uncertain_points,
    point_sample,
    point_sample_columns,
    point_sample_labels,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.step_draws import ImageDraws

# Bound on the number of classes: comparing 16 bits is faster than 64.
_MAX_CLASSES = 1 << 15


class Matches(NamedTuple):
    """Matched pairs of all outputs, ordered by output, image and query.

    Every field is (M,) int64 on the device of the predictions.

    Attributes:
        output: Index of the output.
        image: Index of the image in the batch.
        query: Index of the query.
        target: Class that the query is matched with.
    """

    output: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


class LossWeights(NamedTuple):
    """How much pixels, regions and images count in the losses.

    The losses are divided by what they would be divided by if all weights
    were 1, so that a lower weight makes them smaller. Matching uses none of
    them.

    Attributes:
        pixels: (B, H, W) float32, weight of each pixel in the mask losses;
            None if all are 1.
        regions: (B, K) float32, weight of the region of each class: in the
            cross entropy of the query that is matched with it, and in its
            mask and dice losses. None if all are 1.
        dice: (B,) float32, factor of the dice losses of an image. None if all
            are 1.
    """

    pixels: Tensor | None = None
    regions: Tensor | None = None
    dice: Tensor | None = None


class MaskCriterion:
    """Match queries with the classes of each image; losses of the pairs.

    The target masks of an image are the regions of the classes in its label.
    Source: Mask2Former (arXiv 2112.01527), section 3.3 and 4.1.

    Random numbers are drawn in :meth:`sample_matching_points` and
    :meth:`sample_loss_points` only; everything else is a function of its
    arguments.

    Args:
        num_classes: K.
        ignore_index: Label of pixels that belong to no class.
        class_weight: A number: weight of the cross entropy over classes, in
            the loss and in the matching. A list: the weight of each of the K
            classes inside of the cross entropy, optionally with that of "no
            object" as the last, K + 1. As in mmdet's and MMSegmentation's
            head, the sum over queries is divided by the sum of their
            weights, and the matching does not use them.
        mask_weight: Weight of the binary cross entropy of masks.
        dice_weight: Weight of the dice loss of masks.
        no_object_weight: Weight of "no object" among the classes; by default
            0.1, or the last of K + 1 in ``class_weight``.
        class_loss_weight: Weight of the cross entropy over classes where
            ``class_weight`` is a list; 2 by default.
        num_points: Points at which two masks are compared.
        oversample_ratio: Candidates for the uncertain points of the losses,
            as a multiple of ``num_points``.
        importance_sample_ratio: Share of the points that are the most
            uncertain candidates.
        assignment: ``'hungarian'``, the cheapest one-to-one matching; or
            ``'fixed'``: query k is matched with class k where the image shows
            it, whatever it predicts (tqdm, ECCV 2024). With n times as many
            queries as classes each class is matched n times.
        ignore_unlabelled: Exclude pixels of ``ignore_index`` from the mask
            losses. Mask2Former and CLOUDS count them as outside of every
            mask.
        **unknown: None; an option of another project is an error that names
            the one of this class.

    Raises:
        UserError: For an option outside its range.
        UserError: For an option that does not exist, and for class weights
            that do not fit the classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int = 255,
        class_weight: float | Sequence[float] = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float | None = None,
        class_loss_weight: float | None = None,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        assignment: str = 'hungarian',
        ignore_unlabelled: bool = False,
        **unknown: Any,
    ):
        refuse_unknown('decode_head.loss', unknown, MaskCriterion.__init__)
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
        if assignment not in ('hungarian', 'fixed'):
            raise UserError(
                "loss.assignment must be 'hungarian' or 'fixed', got "
                f'{assignment!r}'
            )
        self.assignment = assignment
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.weights = (class_weight, mask_weight, dice_weight)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.ignore_unlabelled = ignore_unlabelled

    def __call__(
        self,
        cls_logits: list[Tensor],
        mask_logits: list[Tensor],
        labels: Tensor,
        weights: LossWeights | None = None,
        *,
        soft_labels: Tensor | None = None,
        mask_embeds: list[Tensor] | None = None,
        mask_features: Tensor | list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted losses of all outputs.

        Args:
            cls_logits: (B, Q, K + 1) of each output.
            mask_logits: (B, Q, h, w) of each output.
            labels: (B, H, W) int64 in [0, K) or ``ignore_index``.
            weights: Of pixels, regions and images; all 1 by default.
            soft_labels: (B, K, H, W) float in [0, 1], the share of each class
                in each pixel. If given, these are the target masks of the
                mask losses; ``labels`` still tell the classes of an image and
                are what the matching compares with.
            mask_embeds: (B, Q, C) of each output. If given, together with
                ``mask_features``, the masks of the matched pairs are
                predicted from them again, with a gradient, and
                ``mask_logits`` need none. By default the gradient flows
                through ``mask_logits``.
            mask_features: (B, C, h, w), those of all outputs; or a list with
                one of each output.

        Returns:
            ``loss_cls``, ``loss_mask``, ``loss_dice`` of the last output, and
            ``d<i>.`` before the name for the others.

        Raises:
            UserError: For a label that is not a class.
        """
        weights = weights or LossWeights()
        with torch.autocast(labels.device.type, enabled=False):
            cls_logits = [x.float() for x in cls_logits]
            labels, present = self.prepare_labels(labels)
            count = count_masks(present)
            queries = cls_logits[0].shape[1]
            if self.assignment == 'fixed':
                matches = assign_fixed(present, queries, len(cls_logits))
                repeats = queries // self.num_classes
                count = count * repeats
                pairs = present.sum(1) * repeats
                draws = ImageDraws(pairs.tolist(), labels.device)
            else:
                pairs = present.sum(1).clamp(max=queries)
                draws = ImageDraws(pairs.tolist(), labels.device)
                points = self.sample_matching_points(len(cls_logits), draws)
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
                self.class_losses(cls_logits, matches, weights.regions),
                *self.mask_losses(
                    masks,
                    labels,
                    matches,
                    self.sample_loss_points(masks, len(cls_logits), draws),
                    len(cls_logits),
                    count,
                    weights._replace(
                        pixels=self.pixel_weights(labels, weights.pixels)
                    ),
                    soft_labels=soft_labels,
                ),
                strict=True,
            )
            return self._named(list(losses))

    def _named(self, losses):
        """Weight the losses of each output and give them their names."""
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

    def prepare_labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Map the ignored label to K and find the classes of each image.

        Args:
            labels: (B, H, W) int64.

        Returns:
            Labels (B, H, W) in [0, K], and (B, K) bool, true where the image
            shows the class.

        Raises:
            UserError: For a label that is not a class.
        """
        ignored = labels == self.ignore_index
        wrong = ((labels < 0) | (labels >= self.num_classes)) & ~ignored
        if wrong.any():
            raise UserError(
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

    def pixel_weights(
        self, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor | None:
        """Compute the weight of each pixel in the mask losses.

        Args:
            labels: (B, H, W) int64 in [0, K]; K is ignored.
            weights: (B, H, W) float32.

        Returns:
            (B, H, W) float32; None if all weights are equal.
        """
        if not self.ignore_unlabelled:
            return weights
        labelled = (labels < self.num_classes).float()
        return labelled if weights is None else labelled * weights

    def sample_matching_points(
        self, outputs: int, draws: ImageDraws
    ) -> Tensor:
        """Draw points uniformly: (outputs, B, num_points, 2), xy in [0, 1]."""
        return draws.images(outputs, self.num_points, 2)

    @torch.no_grad()
    def sample_loss_points(
        self, masks: Tensor, outputs: int, draws: ImageDraws
    ) -> Tensor:
        """Draw points for the matched masks, most where they are uncertain.

        Args:
            masks: (M, h, w), ordered by output and image.
            outputs: Number of outputs.
            draws: With as many rows an image as it has pairs in an output.

        Returns:
            (M, num_points, 2), xy in [0, 1].
        """
        num_uncertain = int(self.importance_sample_ratio * self.num_points)
        candidates = draws.common(
            int(self.num_points * self.oversample_ratio), 2
        )
        chosen = choose_uncertain_points(masks, candidates, num_uncertain)
        uniform = draws.rows(outputs, self.num_points - num_uncertain, 2)
        return torch.cat([chosen, uniform], dim=1)

    @torch.no_grad()
    def match(
        self,
        cls_logits: list[Tensor],
        mask_logits: list[Tensor],
        labels: Tensor,
        present: Tensor,
        points: Tensor,
    ) -> Matches:
        """Match queries with classes, in each output separately.

        Args:
            cls_logits: (B, Q, K + 1) of each output.
            mask_logits: (B, Q, h, w) of each output.
            labels: (B, H, W) int64 in [0, K]; K is ignored.
            present: (B, K) bool.
            points: (outputs, B, P, 2), xy in [0, 1].

        Returns:
            All pairs.
        """
        costs = [
            matching_costs(c, m.float(), labels, p, self.weights)
            for c, m, p in zip(cls_logits, mask_logits, points, strict=True)
        ]
        return assign(torch.stack(costs), present)

    def class_losses(
        self,
        cls_logits: list[Tensor],
        matches: Matches,
        regions: Tensor | None = None,
    ) -> Tensor:
        """Cross entropy of each output; unmatched queries are "no object".

        Args:
            cls_logits: (B, Q, K + 1) of each output.
            matches: All pairs.
            regions: (B, K) float32, see :class:`LossWeights`.

        Returns:
            (outputs,), not weighted by ``class_weight``.
        """
        logits = torch.stack(cls_logits)
        targets = matches.target.new_full(logits.shape[:3], self.num_classes)
        targets[matches.output, matches.image, matches.query] = matches.target
        weight = logits.new_tensor(self.class_weights)
        value = F.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), weight, reduction='none'
        )
        value = value.view(targets.shape)
        if regions is not None:
            scale = torch.ones_like(value)
            scale[matches.output, matches.image, matches.query] = regions[
                matches.image, matches.target
            ]
            value = value * scale
        value = value.flatten(1).sum(1)
        # Zero if "no object" has the weight 0 and no class is matched.
        total = weight[targets].flatten(1).sum(1)
        all_reduce(total, op='mean')
        return value / total.clamp(min=1e-6)

    def mask_losses(
        self,
        masks: Tensor,
        labels: Tensor,
        matches: Matches,
        points: Tensor,
        outputs: int,
        num_masks: Tensor,
        weights: LossWeights | None = None,
        *,
        soft_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Binary cross entropy and dice loss of the matched masks.

        Args:
            masks: (M, h, w) float32, the logits of the matched masks.
            labels: (B, H, W) int64 in [0, K].
            matches: All M pairs.
            points: (M, P, 2), xy in [0, 1].
            outputs: Number of outputs.
            num_masks: (), divisor of the sum over pairs.
            weights: Of pixels, regions and images.
            soft_labels: As for :meth:`__call__`.

        Returns:
            Both losses, (outputs,) each, not weighted.
        """
        weights = weights or LossWeights()
        logits = point_sample(masks[:, None], points)[:, 0]  # (M, P)
        targets, counts = point_sample_regions(
            labels,
            matches,
            points,
            outputs,
            weights.pixels,
            soft_labels=soft_labels,
        )
        entropy = F.binary_cross_entropy_with_logits(
            logits, targets, reduction='none'
        )
        probabilities = logits.sigmoid()
        if counts is not None:
            entropy, probabilities = entropy * counts, probabilities * counts
            targets = targets * counts
        entropy = entropy.mean(1)
        overlap = (probabilities * targets).sum(1)
        dice = 1 - (2 * overlap + 1) / (
            probabilities.sum(1) + targets.sum(1) + 1
        )
        if weights.regions is not None:
            region = weights.regions[matches.image, matches.target]
            entropy, dice = entropy * region, dice * region
        if weights.dice is not None:
            dice = dice * weights.dice[matches.image]
        return tuple(
            value.new_zeros(outputs).index_add(0, matches.output, value)
            / num_masks
            for value in (entropy, dice)
        )


def matching_costs(
    cls_logits: Tensor,
    mask_logits: Tensor,
    labels: Tensor,
    points: Tensor,
    weights: tuple[float, float, float],
) -> Tensor:
    """Compute the cost of matching each query with each class, of one output.

    Args:
        cls_logits: (B, Q, K + 1) float32, the last one "no object".
        mask_logits: (B, Q, h, w) float32, without gradient.
        labels: (B, H, W) int64 in [0, K]; K is ignored.
        points: (B, P, 2), xy in [0, 1], where masks are compared.
        weights: Of class, mask and dice cost.

    Returns:
        (B, Q, K).
    """
    num_classes = cls_logits.shape[-1] - 1
    count = points.shape[1]
    image = torch.arange(len(labels), device=labels.device)
    ids, bilinear = point_sample_labels(labels, image, points)
    targets = bilinear.new_zeros((len(labels), num_classes + 1, count))
    for corner in range(4):
        targets.scatter_add_(
            1, ids[:, None, :, corner], bilinear[:, None, :, corner]
        )
    targets = targets[:, :-1].transpose(1, 2)  # (B, P, K)
    logits = point_sample_columns(mask_logits, points).transpose(
        1, 2
    )  # (B, Q, P)
    # t * softplus(-x) + (1 - t) * softplus(x) = softplus(x) - t * x
    cross_entropy = F.softplus(logits).sum(-1, keepdim=True)
    mask_cost = (cross_entropy - logits @ targets) / count
    probabilities = logits.sigmoid()
    total = probabilities.sum(-1, keepdim=True) + targets.sum(1, keepdim=True)
    dice_cost = 1 - (2 * (probabilities @ targets) + 1) / (total + 1)
    class_cost = -cls_logits.softmax(-1)[..., :-1]
    class_weight, mask_weight, dice_weight = weights
    return (
        class_weight * class_cost
        + mask_weight * mask_cost
        + dice_weight * dice_cost
    )


def assign(costs: Tensor, present: Tensor) -> Matches:
    """Find the cheapest one-to-one assignment for each output and image.

    Args:
        costs: (outputs, B, Q, K).
        present: (B, K) bool, the classes that an image shows.

    Returns:
        The pairs, on the device of ``costs``.
    """
    device = costs.device
    # The solver refuses NaN; a diverged run is to be reported by its loss
    # instead.
    costs = torch.nan_to_num(costs, nan=1e6, posinf=1e6, neginf=-1e6)
    costs, present = costs.cpu().numpy(), present.cpu().numpy()
    pairs = []
    for output, output_costs in enumerate(costs):
        for image, image_costs in enumerate(output_costs):
            classes = np.flatnonzero(present[image])
            query, column = linear_sum_assignment(image_costs[:, classes])
            pair = np.empty((4, len(query)), dtype=np.int64)
            pair[0], pair[1] = output, image
            pair[2], pair[3] = query, classes[column]
            pairs.append(pair)
    pairs = np.concatenate(pairs, axis=1)
    return Matches(*torch.from_numpy(pairs).to(device).unbind())


def assign_fixed(present: Tensor, queries: int, outputs: int) -> Matches:
    """Match query k, K + k, 2 K + k ... with class k, without any cost.

    Args:
        present: (B, K) bool, the classes that an image shows.
        queries: Q, at least K. Those beyond the last whole multiple of K are
            never matched.
        outputs: Number of outputs; each has the same matches.

    Returns:
        The pairs, on the device of ``present``.

    Raises:
        UserError: There are fewer queries than classes.
    """
    classes = present.shape[1]
    if queries < classes:
        raise UserError(
            f"loss.assignment='fixed' needs a query for each class, and there "
            f'are {queries} for {classes} classes: give num_queries={classes}'
        )
    each = present.repeat(1, queries // classes)
    output, image, query = each.expand(outputs, -1, -1).nonzero().unbind(1)
    return Matches(output, image, query, query % classes)


def matched_masks(mask_logits: list[Tensor], matches: Matches) -> Tensor:
    """Gather the masks of all pairs.

    Args:
        mask_logits: (B, Q, h, w) of each output.
        matches: All M pairs, ordered by output.

    Returns:
        (M, h, w) float32. Without any pair it is still part of the graph, so
        that the gradient of the predictions is zero and not missing.
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


def predict_matched_masks(
    mask_embeds: list[Tensor],
    mask_features: Tensor | list[Tensor],
    matches: Matches,
) -> Tensor:
    """Predict the masks of the matched pairs, with a gradient.

    All masks are needed for the matching, the classification and the
    attention masks, none of which has a gradient. The losses use the matched
    masks only, some 15 of 100: predicting these again costs less than
    computing the gradient of all.

    Args:
        mask_embeds: (B, Q, C) of each output.
        mask_features: (B, C, h, w), or a list with one of each output.
        matches: M pairs, ordered by output.

    Returns:
        (M, h, w) logits. Without any pair they are still part of the graph,
        so that the gradient of the predictions is zero and not missing.
    """
    if not isinstance(mask_features, Tensor):
        counts = matches.output.bincount(minlength=len(mask_embeds)).tolist()
        parts = zip(*(values.split(counts) for values in matches), strict=True)
        return torch.cat(
            [
                predict_matched_masks(
                    [embed],
                    features,
                    Matches(*part)._replace(output=torch.zeros_like(part[0])),
                )
                for embed, features, part in zip(
                    mask_embeds, mask_features, parts, strict=True
                )
            ]
        )
    embeds = torch.stack(mask_embeds)
    embeds = embeds[matches.output, matches.image, matches.query]  # (M, C)
    # One matrix product for each image, with its pairs of all outputs.
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


def point_sample_regions(
    labels: Tensor,
    matches: Matches,
    points: Tensor,
    outputs: int,
    weights: Tensor | None = None,
    *,
    soft_labels: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Sample the target mask of each matched pair.

    All outputs are matched with the same regions (the pixels of one class in
    one image): the mask of a region is created once and sampled at the points
    of all outputs together.

    Args:
        labels: (B, H, W) int64.
        matches: M pairs.
        points: (M, P, 2), xy in [0, 1].
        outputs: Number of outputs.
        weights: (B, H, W) float32, of each pixel.
        soft_labels: (B, K, H, W) float, the target masks; by default those
            of ``labels``.

    Returns:
        The target mask at each point, bilinear and zero outside of the image,
        and the weight there. Both (M, P) float32; the second is None without
        ``weights``.
    """
    count = points.shape[1]
    regions, region = torch.unique(
        matches.image * _MAX_CLASSES + matches.target, return_inverse=True
    )
    image, target = regions // _MAX_CLASSES, regions % _MAX_CLASSES
    # Each region has room for the points of all outputs; those that it is
    # not matched in stay zero.
    region_points = points.new_zeros(len(regions), outputs, count, 2)
    region_points[region, matches.output] = points

    def sample(maps, padding_mode):
        sampled = point_sample(
            maps[:, None], region_points.flatten(1, 2), padding_mode
        )
        sampled = sampled.reshape(len(regions), outputs, count)
        return sampled[region, matches.output]

    if soft_labels is None:
        masks = labels.short()[image] == target.short()[:, None, None]
    else:
        masks = soft_labels[image, target]
    covered = sample(masks.float(), 'zeros')
    if weights is None:
        return covered, None
    return covered, sample(weights[image], 'border')


def count_masks(present: Tensor) -> Tensor:
    """Count target masks: the mean over the ranks, at least one.

    Args:
        present: (B, K) bool.

    Returns:
        () float32.
    """
    count = present.sum().float()
    all_reduce(count, op='mean')
    return count.clamp(min=1)
