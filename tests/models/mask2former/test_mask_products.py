"""Masks have a gradient only where it is used."""

import torch
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former.criterion import (
    Matches,
    matched_masks,
    predict_matched_masks,
)
from clouds_mmseg.models.mask2former.transformer_decoder import predict_masks

QUERIES, PIXELS = 7, 12 * 16


def losses(head, feats, labels, again):
    """The losses; ``again``: matched masks are predicted a second time."""
    torch.manual_seed(0)
    if not again:
        return head.criterion(*head(feats), labels)
    cls_logits, mask_logits, embeds, features = head.predict_for_loss(feats)
    return head.criterion(
        cls_logits,
        mask_logits,
        labels,
        mask_embeds=embeds,
        mask_features=features,
    )


def test_losses_and_gradients_are_those_of_all_masks(
    head, text_head, make_feats, make_labels
):
    feats, labels = make_feats(), make_labels()
    for model in (head, text_head):
        parameters = list(model.parameters())
        ours, expected = (
            losses(model, feats, labels, x) for x in (True, False)
        )
        mine, theirs = (
            torch.autograd.grad(sum(x.values()), parameters)
            for x in (ours, expected)
        )
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_products_lie_with_the_channels_last():
    torch.manual_seed(0)
    embeddings, features = torch.randn(2, 7, 4), torch.randn(2, 4, 3, 5)
    masks = predict_masks(embeddings, features)
    expected = torch.einsum('nqc,nchw->nqhw', embeddings, features)
    torch.testing.assert_close(masks, expected)
    assert masks.is_contiguous(memory_format=torch.channels_last)


def test_pairs_keep_their_order():
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 5)
    embeddings = [torch.randn(2, 7, 4) for _ in range(3)]
    masks = [predict_masks(x, features) for x in embeddings]
    matches = Matches(
        output=torch.tensor([0, 0, 0, 1, 2, 2]),
        image=torch.tensor([0, 1, 1, 0, 0, 1]),
        query=torch.tensor([3, 0, 6, 2, 3, 5]),
        target=torch.zeros(6).long(),
    )
    torch.testing.assert_close(
        predict_matched_masks(embeddings, features, matches),
        matched_masks(masks, matches),
    )
    none = Matches(*(x[:0] for x in matches))
    found = predict_matched_masks(embeddings, features, none)
    assert found.shape == (0, 3, 5)


def test_no_gradient_of_all_masks_is_made(head, make_feats, make_labels):
    feats, labels = make_feats(), make_labels()
    all_masks = 2 * QUERIES * PIXELS
    assert all(not x.requires_grad for x in head.predict_for_loss(feats)[1])
    counts = []
    for again in (True, False):
        total = sum(losses(head, feats, labels, again).values())
        with TensorSizes() as sizes:
            total.backward()
        counts.append(sizes.seen.count(all_masks))
    assert counts[0] == 0
    assert counts[1] >= len(head.transformer_decoder.layers)
