"""Matching and losses: every mask is made, every image is by itself."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment


def read_points(maps, points):
    """Maps (N, C, h, w) at points (N, P, 2) in [0, 1]: (N, C, P)."""
    grid = 2 * points[:, None] - 1
    return F.grid_sample(maps, grid, align_corners=False)[:, :, 0]


def masks_of(label, ignore=255):
    """Classes of a label map, ascending, and a float mask of each."""
    classes = label.unique()
    classes = classes[classes != ignore]
    masks = [(label == c).float() for c in classes]
    empty = torch.zeros(0, *label.shape, device=label.device)
    return classes, torch.stack(masks) if masks else empty


def match_one(cls_logits, mask_logits, label, points, weights):
    """Pairs (query, target) of one image, with whole masks as targets."""
    classes, masks = masks_of(label)
    if not len(classes):
        return classes, classes  # none
    x = read_points(mask_logits[None], points)[0]
    t = read_points(masks[None], points)[0]
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    bce = F.binary_cross_entropy_with_logits
    mask = bce(x, ones, reduction='none') @ t.T
    mask = mask + bce(x, zeros, reduction='none') @ (1 - t).T
    p = x.sigmoid()
    dice = (2 * p @ t.T + 1) / (p.sum(1)[:, None] + t.sum(1)[None] + 1)
    by_class, by_mask, by_dice = weights
    cost = by_class * -cls_logits.softmax(-1)[:, classes]
    cost = cost + by_mask * mask / x.shape[1] + by_dice * (1 - dice)
    pairs = linear_sum_assignment(cost.cpu())
    return tuple(torch.as_tensor(x, device=cost.device) for x in pairs)


def losses_of(cls_logits, mask_logits, labels, pairs, points, no_object):
    """Unweighted losses of one output, pairs and points being given."""
    classes = cls_logits.shape[-1] - 1
    targets = cls_logits.new_full(cls_logits.shape[:2], classes).long()
    predicted, expected = [], []
    for b, (query, target) in enumerate(pairs):
        ids, masks = masks_of(labels[b])
        targets[b, query] = ids[target]
        predicted.append(mask_logits[b, query])
        expected.append(masks[target])
    weight = cls_logits.new_ones(classes + 1)
    weight[-1] = no_object
    loss_cls = F.cross_entropy(cls_logits.transpose(1, 2), targets, weight)
    x = read_points(torch.cat(predicted)[:, None], points)[:, 0]
    t = read_points(torch.cat(expected)[:, None], points)[:, 0]
    count = max(len(x), 1)
    mask = F.binary_cross_entropy_with_logits(x, t, reduction='none').mean(1)
    p = x.sigmoid()
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return loss_cls, mask.sum() / count, dice.sum() / count


def sample_uncertain_points(masks, count):
    """Three quarters of the points where a mask (M, h, w) is undecided."""
    candidates = torch.rand(len(masks), 3 * count, 2, device=masks.device)
    certainty = read_points(masks[:, None], candidates)[:, 0].abs()
    chosen = certainty.topk(3 * count // 4, largest=False).indices
    chosen = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    rest = count - chosen.shape[1]
    evenly = torch.rand(len(masks), rest, 2, device=masks.device)
    return torch.cat([chosen, evenly], dim=1)


class PlainCriterion:
    """One output after the other, one image after the other."""

    def __init__(self, num_points=12544, weights=(2, 5, 5), no_object=0.1):
        self.num_points, self.weights = num_points, weights
        self.no_object = no_object

    @torch.no_grad()
    def match(self, cls_logits, mask_logits, labels):
        pairs = []
        for c, m, label in zip(cls_logits, mask_logits, labels, strict=True):
            points = torch.rand(1, self.num_points, 2, device=m.device)
            pairs.append(match_one(c, m, label, points, self.weights))
        return pairs

    def losses(self, cls_logits, mask_logits, labels, pairs):
        with torch.no_grad():
            masks = torch.cat(
                [m[q] for m, (q, _) in zip(mask_logits, pairs, strict=True)]
            )
            points = sample_uncertain_points(masks, self.num_points)
        return losses_of(
            cls_logits, mask_logits, labels, pairs, points, self.no_object
        )

    def __call__(self, cls_logits, mask_logits, labels):
        total = 0
        for c, m in zip(cls_logits, mask_logits, strict=True):
            pairs = self.match(c, m, labels)
            losses = self.losses(c, m, labels, pairs)
            total = total + sum(
                w * x for w, x in zip(self.weights, losses, strict=True)
            )
        return total
