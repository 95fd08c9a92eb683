"""Majority vote in regions, against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.refine import MajorityVoteRefiner, SuperpixelRefiner
from clouds_mmseg.refine.automatic_masks import (
    MaskRules,
    automatic_masks,
    bounding_boxes,
    grid_points,
)
from clouds_mmseg.refine.mask_vote import (
    OVERLAPS,
    TIES,
    UNDECIDED,
    VoteRules,
    vote_in_masks,
    vote_in_segments,
)
from clouds_mmseg.refine.sam_model import PromptedSAM
from clouds_mmseg.utils.errors import UserError


def plain_winner(values, label, rules):
    """The class of a region by its pixels' values; None if undecided."""
    counts = {
        int(c): int((values == c).sum())
        for c in np.unique(values)
        if c != rules.ignore_index
    }
    if len(values) < rules.min_area or not counts:
        return None
    most = max(counts.values())
    if most < rules.min_share * len(values):
        return None
    best = sorted(c for c, n in counts.items() if n == most)
    if len(best) > 1 and rules.ties == 'undecided':
        return None
    if rules.ties == 'rare':
        return min(best, key=lambda c: ((label == c).sum(), c))
    return best[0]


def plain_vote(label, masks, quality, rules, overlap, uncovered):
    """Each pixel by itself."""
    masks = [(m, q) for m, q in zip(masks, quality, strict=True)]
    masks = [(m, q) for m, q in masks if m.sum() >= max(rules.min_area, 1)]
    winners, ranks = [], []
    for mask, score in masks:
        winners.append(plain_winner(label[mask], label, rules))
        counts = np.unique(
            label[mask][label[mask] != rules.ignore_index], return_counts=True
        )[1]
        share = counts.max() / mask.sum() if len(counts) else 0
        ranks.append(
            dict(
                small=-mask.sum(),
                large=mask.sum(),
                quality=score,
                share=share,
            )[overlap]
        )
    refined = np.empty_like(label)
    for place in np.ndindex(label.shape):
        owners = [i for i, (mask, _) in enumerate(masks) if mask[place]]
        keeps = uncovered == 'keep'
        if owners:
            owner = max(owners, key=lambda i: (ranks[i], -i))
            if winners[owner] is not None:
                refined[place] = winners[owner]
                continue
            keeps = rules.undecided == 'keep'
        refined[place] = label[place] if keeps else rules.ignore_index
    return refined


def draw_case(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = rng.integers(1, 9, 2)
    label = rng.choice([0, 3, 7, 255], size).astype(np.int64)
    rules = VoteRules(
        min_share=data.draw(st.sampled_from([0.0, 0.4, 0.5, 1.0])),
        min_area=data.draw(st.sampled_from([1, 4, 2.5])),
        ties=data.draw(st.sampled_from(TIES)),
        undecided=data.draw(st.sampled_from(UNDECIDED)),
    )
    return rng, label, rules


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_masks_vote_as_plain_loops_do(data):
    rng, label, rules = draw_case(data)
    count = data.draw(st.integers(0, 5))
    masks = rng.random((count, *label.shape)) < rng.random((count, 1, 1))
    quality = rng.integers(0, 3, count) / 2
    overlap = data.draw(st.sampled_from(OVERLAPS))
    uncovered = data.draw(st.sampled_from(['keep', 'ignore']))
    before = label.copy()
    refined = vote_in_masks(
        label, masks, quality, rules, overlap=overlap, uncovered=uncovered
    )
    expected = plain_vote(label, masks, quality, rules, overlap, uncovered)
    np.testing.assert_array_equal(refined, expected)
    np.testing.assert_array_equal(label, before)
    assert {*refined.flat} <= {*label.flat, 255}
    assert refined.dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_segments_vote_as_masks_do(data):
    rng, label, rules = draw_case(data)
    segments = rng.integers(0, 4, label.shape)
    # In masks a small region is left out: the same where labels are kept.
    rules = rules._replace(undecided='keep')
    masks = np.stack([segments == i for i in range(4)])
    expected = vote_in_masks(label, masks, np.zeros(4), rules)
    found = vote_in_segments(label, segments, rules)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_vote_repeated_in_disjoint_masks_changes_nothing(data):
    rng, label, rules = draw_case(data)
    segments = rng.integers(0, 4, label.shape)
    once = vote_in_segments(label, segments, rules._replace(ties='first'))
    twice = vote_in_segments(once, segments, rules._replace(ties='first'))
    np.testing.assert_array_equal(once, twice)


def test_ties_small_masks_and_shares():
    label = np.array([[1, 1, 2, 2, 2, 2], [255, 255, 255, 3, 3, 2]])
    whole = np.ones((1, 2, 6), bool)
    tie = whole.copy()
    tie[0, :, 4:] = False  # two of 1, two of 2, one of 3
    score = np.ones(1)

    def vote(masks, **rules):
        return vote_in_masks(label, masks, score, VoteRules(**rules))

    assert (vote(tie, ties='undecided') == label).all()
    assert (vote(tie, ties='first')[tie[0]] == 1).all()
    assert (vote(tie, ties='rare')[tie[0]] == 1).all()
    np.testing.assert_array_equal(
        vote(tie, ties='undecided', undecided='ignore')[:, 4:], label[:, 4:]
    )
    # 5 of 12 pixels are of class 2.
    assert (vote(whole, min_share=5 / 12) == 2).all()
    assert (vote(whole, min_share=0.42) == label).all()
    assert (vote(whole, min_area=12) == 2).all()
    assert (vote(whole, min_area=13) == label).all()


@pytest.fixture
def sam(tiny_vit_b, tiny_weights):
    return PromptedSAM('vit_b', tiny_weights)


# Random masks reach all borders: of equal boxes one is left.
@pytest.mark.parametrize(('max_box_iou', 'least'), [(1.0, 10), (0.7, 1)])
def test_masks_are_those_of_segment_anything(
    sam, photographs, max_box_iou, least
):
    from segment_anything import SamAutomaticMaskGenerator

    image = photographs[0][0].permute(1, 2, 0).numpy()
    size = image.shape[:2]
    embedding = sam.embed(image)
    _, quality = sam.decode(embedding, grid_points(6, size), size)
    rules = MaskRules(
        points_per_side=6,
        min_quality=float(quality.median()),
        min_stability=0.2,
        stability_offset=0.02 * float(quality.abs().max()),
        max_box_iou=max_box_iou,
    )
    found = automatic_masks(sam, embedding, size, rules, batch=5)
    generator = SamAutomaticMaskGenerator(
        sam.model,
        points_per_side=6,
        pred_iou_thresh=rules.min_quality,
        stability_score_thresh=rules.min_stability,
        stability_score_offset=rules.stability_offset,
        box_nms_thresh=rules.max_box_iou,
    )
    expected = generator.generate(image)
    assert least <= len(expected) < 100
    assert len(found.masks) == len(expected)
    theirs = sorted(
        (one['segmentation'].tobytes(), one['point_coords'][0])
        for one in expected
    )
    ours = sorted(
        (mask.tobytes(), point[0].tolist())
        for mask, point in zip(found.masks, found.points, strict=True)
    )
    for (mask, point), (other, place) in zip(ours, theirs, strict=True):
        assert mask == other
        assert point == pytest.approx(place, abs=1e-4)
    assert (np.diff(found.quality) <= 0).all()
    none = rules._replace(min_quality=1e9)
    assert automatic_masks(sam, embedding, size, none, 5).masks.shape == (
        0,
        *size,
    )


def test_boxes_of_masks():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 3] = True
    masks[1, 0, 0] = masks[1, 5, 7] = True
    assert bounding_boxes(masks).tolist() == [[3, 2, 3, 4], [0, 0, 7, 5]]


OPTIONS = dict(
    points_per_side=4,
    min_quality=0.0,
    min_stability=0.0,
    min_area=20,
    max_box_iou=0.9,
)


@pytest.mark.parametrize('family', ['original', 'sam2'])
def test_the_masks_of_an_image_are_found_once(
    tiny_vit_b, tiny_weights, promptable, photographs, tmp_path, family
):
    named = (
        dict(variant='vit_b', checkpoint=str(tiny_weights))
        if family == 'original'
        else dict(weights=str(promptable(family)))
    )
    options = dict(OPTIONS, cache_dir=str(tmp_path), **named)
    refiner = MajorityVoteRefiner(**options)
    (image, label), (other, _) = photographs
    refined = refiner(image, label)
    assert not torch.equal(refined, label)
    plain = MajorityVoteRefiner(**{**options, 'cache_dir': None})
    assert torch.equal(plain(image, label), refined)
    again = MajorityVoteRefiner(**options)
    again.sam.embed = None
    assert torch.equal(again(image, label), refined)
    assert not torch.equal(again(image, label.roll(3, 0)), refined)
    with pytest.raises(TypeError):
        again(other, label)
    strict = MajorityVoteRefiner(**options | dict(min_quality=1e9))
    assert torch.equal(strict(image, label), label)


def test_superpixels_need_no_weights(photographs, tmp_path):
    image, label = photographs[0]
    refiner = MajorityVoteRefiner(
        superpixels=dict(scale=50.0),
        ties='first',
        min_share=0.5,
        cache_dir=str(tmp_path),
    ).to('cpu')
    known = SuperpixelRefiner(scale=50.0, purity=0.5)
    assert torch.equal(refiner(image, label), known(image, label))
    assert len(list(tmp_path.rglob('*.arr'))) == 1
    coarse = MajorityVoteRefiner(
        superpixels=dict(scale=50.0), min_area=0.01, undecided='ignore'
    )
    refined = coarse(image, label)
    segments = known.segment(image.permute(1, 2, 0).numpy())
    small = np.bincount(segments.ravel())[segments] < 0.01 * label.numel()
    assert small.any() and (refined.numpy()[small] == 255).all()


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({}, 'takes its masks from one of: .* got none'),
        (
            dict(weights='a/b', superpixels={}),
            'got weights and superpixels',
        ),
        (dict(superpixels=dict(purity=1)), 'superpixels takes no purity'),
        (dict(superpixels={}, ties='last'), 'ties must be one of undecided'),
        (dict(superpixels={}, overlap='all'), 'overlap must be one of small'),
        (dict(superpixels={}, min_share=2), r'min_share must be .* \[0, 1\]'),
        (
            dict(superpixels={}, points_per_side=0),
            'points_per_side must be a whole number of at least 1',
        ),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(UserError, match=f'MajorityVoteRefiner.*{said}'):
        MajorityVoteRefiner(**options)
