import multiprocessing

import pytest
import torch
import torch.distributed
from reference import losses_of, match_one

from clouds_mmseg.models.mask2former.criterion import (
    LossWeights,
    MaskCriterion,
    Matches,
    assign,
    count_masks,
    matched_masks,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.step_draws import ImageDraws, seed_step

CLASSES, QUERIES = 5, 9


@pytest.fixture
def criterion():
    return MaskCriterion(num_classes=CLASSES, num_points=50)


def predict(outputs, batch, seed=0, queries=QUERIES):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator).mul(2).requires_grad_()

    return (
        [draw(batch, queries, CLASSES + 1) for _ in range(outputs)],
        [draw(batch, queries, 6, 8) for _ in range(outputs)],
    )


@pytest.mark.parametrize('queries', [QUERIES, 3])
def test_all_outputs_at_once_equal_each_image_by_itself(
    criterion, make_labels, queries
):
    """Also with fewer queries than classes."""
    torch.manual_seed(0)
    cls_logits, mask_logits = predict(3, 2, queries=queries)
    labels = make_labels()
    labels[1][labels[1] == 2] = 255
    folded, present = criterion.prepare_labels(labels)
    pairs = present.sum(1).clamp(max=queries).tolist()
    draws = ImageDraws(pairs, 'cpu')
    points = criterion.sample_matching_points(3, draws)
    matches = criterion.match(cls_logits, mask_logits, folded, present, points)
    masks = matched_masks(mask_logits, matches)
    drawn = criterion.sample_loss_points(masks, 3, draws)
    ours = (
        criterion.class_losses(cls_logits, matches),
        *criterion.mask_losses(
            masks, folded, matches, drawn, 3, count_masks(present)
        ),
    )
    for output in range(3):
        pairs = [
            match_one(
                cls_logits[output][b].detach(),
                mask_logits[output][b].detach(),
                labels[b],
                points[output, b][None],
                criterion.weights,
            )
            for b in range(2)
        ]
        mine = matches.output == output
        classes = [labels[b].unique()[:-1] for b in range(2)]
        for b, (query, target) in enumerate(pairs):
            at = mine & (matches.image == b)
            assert matches.query[at].equal(query)
            assert matches.target[at].equal(classes[b][target])
        expected = losses_of(
            cls_logits[output],
            mask_logits[output],
            labels,
            pairs,
            drawn[mine],
            0.1,
        )
        # The reference divides the sum by the number of pairs, ours by that
        # of targets; they differ when queries are too few.
        scale = sum(len(q) for q, _ in pairs) / present.sum()
        for name, a, b in zip('cmd', ours, expected, strict=True):
            b = b if name == 'c' else b * scale
            torch.testing.assert_close(a[output], b, atol=1e-5, rtol=1e-5)
        wanted = cls_logits[output], mask_logits[output]
        weights = torch.tensor([1, scale, scale])
        for a, b in zip(
            torch.autograd.grad(
                sum(x[output] for x in ours), wanted, retain_graph=True
            ),
            torch.autograd.grad(
                sum(w * x for w, x in zip(weights, expected, strict=True)),
                wanted,
            ),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_losses_are_named_and_weighted(criterion, make_labels):
    cls_logits, mask_logits = predict(3, 2)
    torch.manual_seed(0)
    losses = criterion(cls_logits, mask_logits, make_labels())
    names = ('loss_cls', 'loss_mask', 'loss_dice')
    assert list(losses) == [p + n for p in ('d0.', 'd1.', '') for n in names]
    heavier = MaskCriterion(
        num_classes=CLASSES, num_points=50, class_weight=0.0
    )
    assert heavier(cls_logits, mask_logits, make_labels())['loss_cls'] == 0
    torch.manual_seed(0)
    again = criterion(cls_logits, mask_logits, make_labels())
    assert again == losses


def test_a_perfect_prediction_has_next_to_no_loss():
    # Points drawn evenly: the undecided ones all lie on the one border.
    criterion = MaskCriterion(
        num_classes=CLASSES, num_points=500, importance_sample_ratio=0.0
    )
    labels = torch.zeros(1, 32, 32).long()
    labels[:, :, 16:] = 3
    masks = torch.full((1, 4, 32, 32), -20.0)
    masks[0, 2, :, :16], masks[0, 1, :, 16:] = 20, 20
    cls_logits = torch.zeros(1, 4, CLASSES + 1)
    for query, target in enumerate((5, 3, 0, 5)):
        cls_logits[0, query, target] = 20
    losses = criterion([cls_logits], [masks], labels)
    assert all(loss < 1 for loss in losses.values())
    swapped = criterion([cls_logits], [masks.flip(1)], labels)
    assert sum(swapped.values()) > 5


def test_nothing_but_ignored_pixels(criterion):
    cls_logits, mask_logits = predict(2, 2)
    losses = criterion(
        cls_logits, mask_logits, torch.full((2, 16, 16), 255).long()
    )
    total = sum(losses.values())
    assert total.isfinite()
    assert losses['loss_mask'] == losses['d0.loss_dice'] == 0
    total.backward()
    for logits in mask_logits:
        assert logits.grad is not None and not logits.grad.any()
    for logits in cls_logits:
        assert logits.grad.any()


def test_one_image_of_the_batch_ignored(criterion, make_labels):
    cls_logits, mask_logits = predict(1, 2)
    labels = make_labels()
    labels[0] = 255
    sum(criterion(cls_logits, mask_logits, labels).values()).backward()
    assert not mask_logits[0].grad[0].any()
    assert mask_logits[0].grad[1].any()


@pytest.mark.parametrize('wrong', [5, 19, -1])
def test_an_id_that_is_no_class_is_named(criterion, make_labels, wrong):
    labels = make_labels()
    labels[1, 5, 5] = wrong
    with pytest.raises(UserError, match=rf'\[{wrong}\].*num_classes=5'):
        criterion(*predict(1, 2), labels)


def test_another_ignore_index():
    criterion = MaskCriterion(
        num_classes=CLASSES, num_points=8, ignore_index=-100
    )
    labels, present = criterion.prepare_labels(
        torch.tensor([[[0, -100], [4, 4]]])
    )
    assert labels.tolist() == [[[0, 5], [4, 4]]]
    assert present.tolist() == [[True, False, False, False, True]]


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_matching_survives_predictions_that_are_no_numbers(
    criterion, make_labels, bad
):
    cls_logits, mask_logits = predict(1, 2)
    with torch.no_grad():
        mask_logits[0][0, :4] = bad
        cls_logits[0][1, 2] = bad
    losses = criterion(cls_logits, mask_logits, make_labels())
    assert not sum(losses.values()).isfinite()


def test_costs_decide_the_assignment():
    costs = torch.tensor([[[[1.0, 9.0], [9.0, 1.0], [0.5, 9.0]]]])
    matches = assign(costs, torch.tensor([[True, True]]))
    assert matches.query.tolist() == [1, 2]
    assert matches.target.tolist() == [1, 0]
    matches = assign(costs, torch.tensor([[True, False]]))
    assert matches.query.tolist() == [2]


def test_half_precision_masks_give_float32_losses(criterion, make_labels):
    cls_logits, mask_logits = predict(1, 2)
    halves = [x.detach().bfloat16() for x in mask_logits]
    with torch.autocast('cpu', torch.bfloat16):
        torch.manual_seed(0)
        losses = criterion(cls_logits, halves, make_labels())
    assert {x.dtype for x in losses.values()} == {torch.float32}
    torch.manual_seed(0)
    expected = criterion(
        cls_logits, [h.float() for h in halves], make_labels()
    )
    assert losses == expected


@pytest.mark.parametrize(
    'option',
    [
        dict(num_points=0),
        dict(num_points=2.5),
        dict(oversample_ratio=0.5),
        dict(importance_sample_ratio=1.5),
        dict(mask_weight=-1.0),
        dict(dice_weight=None),
    ],
)
def test_options_out_of_range_are_named(option):
    (name, value), *_ = option.items()
    with pytest.raises(UserError, match=rf'loss\.{name} .*{value}'):
        MaskCriterion(num_classes=CLASSES, **option)


def _losses_on_rank(rank, file, case, queue):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{file}', rank=rank, world_size=2
    )
    present = torch.zeros(1, 8, dtype=torch.bool)
    present[0, : 6 * rank] = True
    count = count_masks(present).item()
    # The processes take turns within a batch.
    part = [[x[rank::2] for x in case[0]], [x[rank::2] for x in case[1]]]
    seed_step(7)
    losses = MaskCriterion(num_classes=4, num_points=50)(
        *part, case[2][rank::2]
    )
    queue.put((rank, count, {k: v.item() for k, v in losses.items()}))
    torch.distributed.destroy_process_group()


def test_two_processes_compute_the_losses_of_one(tmp_path):
    """Three images: two in one process, one in the other."""
    generator = torch.Generator().manual_seed(0)
    case = (
        [torch.randn(3, 6, 5, generator=generator) for _ in range(2)],
        [torch.randn(3, 6, 8, 8, generator=generator) for _ in range(2)],
        torch.randint(0, 4, (3, 16, 16), generator=generator),
    )
    case[2][0, :8] = 255
    case[2][1, :] = 2
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    ranks = [
        context.Process(
            target=_losses_on_rank, args=(rank, tmp_path / 'at', case, queue)
        )
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    found = sorted((queue.get(timeout=60) for _ in ranks), key=lambda x: x[0])
    for rank in ranks:
        rank.join(timeout=60)
    # The number of masks is the mean over ranks: none on one, six on other.
    assert [count for _, count, _ in found] == [3, 3]
    assert count_masks(torch.zeros(1, 8, dtype=torch.bool)) == 1
    torch.manual_seed(7)
    whole = MaskCriterion(num_classes=4, num_points=50)(*case)
    (_, _, first), (_, _, second) = found
    assert first.keys() == whole.keys() and len(whole) == 6
    for name, value in whole.items():
        mean = (first[name] + second[name]) / 2
        assert mean == pytest.approx(value.item(), rel=1e-6), name


def _mask_losses(labels, weights=None, **options):
    torch.manual_seed(3)
    criterion = MaskCriterion(num_classes=4, num_points=64, **options)
    masks = [torch.randn(2, 5, 8, 8, requires_grad=True)]
    classes = [torch.randn(2, 5, 5)]
    losses = criterion(classes, masks, labels, LossWeights(pixels=weights))
    (losses['loss_mask'] + losses['loss_dice']).backward()
    return losses, masks[0].grad


def test_pixels_without_weight_do_not_train_masks():
    labels = torch.arange(4).repeat_interleave(4).expand(2, 16, 16).clone()
    weights = torch.ones(2, 16, 16)
    expected, expected_grad = _mask_losses(labels)
    same, same_grad = _mask_losses(labels, weights)
    for name, value in expected.items():
        assert torch.allclose(value, same[name])
    assert torch.allclose(expected_grad, same_grad)
    weights[:, 8:] = 0
    _, grad = _mask_losses(labels, weights)
    # A mask of 8 x 8 reads a pixel beyond the border of its lower half.
    assert (grad[:, :, 5:] == 0).all()
    assert grad[:, :, :4].abs().sum() > 0


def test_unlabelled_pixels_may_be_left_out():
    labels = torch.arange(4).repeat_interleave(4).expand(2, 16, 16).clone()
    labels[:, 8:] = 255
    _, grad = _mask_losses(labels)
    assert grad[:, :, 5:].abs().sum() > 0
    _, grad = _mask_losses(labels, ignore_unlabelled=True)
    assert (grad[:, :, 5:] == 0).all()
    weights = torch.full((2, 16, 16), 0.5)
    half, _ = _mask_losses(labels, weights, ignore_unlabelled=True)
    full, _ = _mask_losses(labels, ignore_unlabelled=True)
    assert torch.allclose(half['loss_mask'], full['loss_mask'] / 2)


def _random_case(seed=0):
    """Outputs of two layers for two images of three classes."""
    torch.manual_seed(seed)
    cls_logits = [torch.randn(2, 6, 4) for _ in range(2)]
    mask_logits = [torch.randn(2, 6, 8, 8) for _ in range(2)]
    labels = torch.randint(0, 3, (2, 1, 4)).repeat_interleave(16, 1)
    labels = labels.repeat_interleave(4, 2)
    labels[:, :2] = 255
    return cls_logits, mask_logits, labels


def _losses(case, weights=None, soft_labels=None):
    torch.manual_seed(1)
    criterion = MaskCriterion(num_classes=3, num_points=64)
    return criterion(*case, weights, soft_labels=soft_labels)


def test_region_weights_scale_every_loss_of_the_matched_query():
    cls_logits, mask_logits, labels = _random_case()
    criterion = MaskCriterion(num_classes=3, num_points=64)
    prepared, present = criterion.prepare_labels(labels)
    torch.manual_seed(2)
    draws = ImageDraws(present.sum(1).tolist(), 'cpu')
    points = criterion.sample_matching_points(2, draws)
    matches = criterion.match(
        cls_logits, mask_logits, prepared, present, points
    )
    regions = torch.rand(2, 3)
    masks = matched_masks(mask_logits, matches)
    loss_points = criterion.sample_loss_points(masks, 2, draws)
    arguments = (masks, prepared, matches, loss_points, 2, torch.tensor(1.0))
    found = criterion.mask_losses(*arguments, LossWeights(regions=regions))
    found_cls = criterion.class_losses(cls_logits, matches, regions)
    # Pair by pair.
    expected = torch.zeros(2, 2)
    for index in range(len(matches.output)):
        output, image = matches.output[index], matches.image[index]
        pair = Matches(*(field[index : index + 1] for field in matches))
        alone = criterion.mask_losses(
            masks[index : index + 1],
            prepared,
            pair,
            loss_points[index : index + 1],
            2,
            torch.tensor(1.0),
        )
        weight = regions[image, matches.target[index]]
        for kind in range(2):
            expected[kind, output] += weight * alone[kind][output]
    assert torch.allclose(torch.stack(found), expected, atol=1e-6)
    for output, logits in enumerate(cls_logits):
        targets = torch.full((2, 6), 3)
        counts, full = torch.full((2, 6), 0.1), torch.full((2, 6), 0.1)
        for o, image, query, target in zip(*matches, strict=True):
            if o == output:
                targets[image, query] = target
                counts[image, query] = regions[image, target]
                full[image, query] = 1
        entropy = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, reduction='none'
        )
        value = (entropy * counts).sum() / full.sum()
        assert torch.allclose(found_cls[output], value, atol=1e-6)


def test_weights_of_one_change_nothing():
    case = _random_case()
    ones = LossWeights(torch.ones(2, 16, 16), torch.ones(2, 3), torch.ones(2))
    for name, value in _losses(case).items():
        assert torch.allclose(value, _losses(case, ones)[name])


def test_dice_of_an_image_can_be_left_out():
    case = _random_case()
    without = [_losses(case, LossWeights(dice=w)) for w in torch.eye(2)]
    plain = _losses(case)
    total = without[0]['loss_dice'] + without[1]['loss_dice']
    assert torch.allclose(total, plain['loss_dice'])
    assert without[0]['loss_dice'] > 0 and without[1]['loss_dice'] > 0
    for name in ('loss_cls', 'loss_mask'):
        assert torch.equal(without[0][name], plain[name])


def test_one_hot_soft_labels_are_the_labels():
    case = _random_case()
    classes = torch.arange(3)[:, None, None]
    soft = (case[2][:, None] == classes).float()
    plain = _losses(case)
    for name, value in _losses(case, soft_labels=soft).items():
        assert torch.equal(value, plain[name])
    halved = _losses(case, soft_labels=soft / 2)
    assert not torch.allclose(halved['loss_mask'], plain['loss_mask'])
    assert torch.equal(halved['loss_cls'], plain['loss_cls'])
