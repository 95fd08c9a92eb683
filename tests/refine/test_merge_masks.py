import torch

from clouds_mmseg.refine.prompted_model import (
    drop_overlaps,
    paint,
    select_best,
)


def test_the_mask_of_the_best_quality_is_kept():
    masks = torch.arange(6).view(2, 3, 1, 1)
    quality = torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.2, 0.7]])
    assert select_best(masks, quality).flatten().tolist() == [1, 3]
    assert select_best(masks[:0], quality[:0]).shape == (0, 1, 1)


def test_a_pixel_of_several_masks_is_dropped_from_all():
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[0, 1, 0, 0]]])
    single = drop_overlaps(masks.bool())
    assert single.int().tolist() == [
        [[1, 0, 0, 0]],
        [[0, 0, 1, 0]],
        [[0, 0, 0, 0]],
    ]


def test_a_skipped_component_does_not_shift_the_others():
    """Each mask keeps its class, whichever prompts SAM had."""
    masks = torch.eye(4).bool()[:, None]
    classes = torch.tensor([1, 1, 2, 3])
    kept = torch.tensor([0, 2, 3])
    label = paint(masks[kept], classes[kept])
    assert label.tolist() == [[1, 255, 2, 3]]


def test_later_masks_cover_earlier_ones():
    masks = torch.tensor([[[1, 1, 0]], [[0, 1, 0]]]).bool()
    assert paint(masks, torch.tensor([4, 6])).tolist() == [[4, 6, 255]]
    assert paint(masks[:0], torch.zeros(0).long(), 9).tolist() == [[9, 9, 9]]
