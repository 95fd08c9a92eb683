import pytest
import torch
from safetensors.torch import save_file

from clouds_mmseg.models.mask2former import classifier as module
from clouds_mmseg.models.mask2former.classifier import (
    build_classifier,
    pool_under_masks,
)
from clouds_mmseg.models.text_embeddings import load_text_embeddings
from clouds_mmseg.utils.errors import UserError


def build(num_classes=3, **options):
    return build_classifier(
        dict(type='text', **options),
        channels=8,
        mask_channels=6,
        num_classes=num_classes,
    )


def test_the_logit_of_a_class_is_the_maximum_over_its_synonyms():
    rows = torch.eye(5)[:, :4] + 0.01
    classifier = build(text_embeddings=rows, num_synonyms=[1, 3, 1])
    args = (
        torch.randn(2, 7, 8),
        torch.randn(2, 6, 4, 4),
        torch.randn(2, 7, 4, 4),
    )
    logits = classifier(*args)
    single = build(num_classes=5, text_embeddings=rows)
    single.load_state_dict(classifier.state_dict())
    each = single(*args)
    assert logits.shape == (2, 7, 4)
    expected = [each[..., :1], each[..., 1:4].amax(-1, True), each[..., 4:]]
    torch.testing.assert_close(logits, torch.cat(expected, dim=-1))


def test_embeddings_are_no_weights_and_follow_the_module():
    classifier = build(text_embeddings=torch.randn(3, 4) * 9)
    assert 'text_embeddings' not in classifier.state_dict()
    lengths = classifier.text_embeddings.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(3))
    assert classifier.double().text_embeddings.dtype == torch.float64


def test_the_scale_begins_at_clips_and_is_bounded():
    classifier = build(text_embeddings=torch.randn(3, 4))
    assert classifier.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    args = (
        torch.randn(1, 7, 8),
        torch.randn(1, 6, 4, 4),
        torch.randn(1, 7, 4, 4),
    )
    with torch.no_grad():
        classifier.logit_scale.fill_(50)
        assert classifier(*args).abs().max() <= 100.001


def test_pooling_averages_what_a_mask_covers():
    features = torch.arange(8.0).view(1, 2, 2, 2)
    masks = torch.tensor([[[[1.0, -1], [2, -1]], [[-1, -1], [-1, 0]]]])
    pooled = pool_under_masks(features, masks.requires_grad_())
    assert pooled.tolist() == [[[1, 5], [0, 0]]]
    assert not pooled.requires_grad


def test_many_pixels_are_counted_right_in_half_precision():
    features = torch.ones(1, 1, 200, 200).bfloat16()
    pooled = pool_under_masks(features, torch.ones(1, 1, 200, 200))
    assert pooled.item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_embeddings_of_a_file(tmp_path, suffix):
    path = tmp_path / f'text.{suffix}'
    content = dict(
        embeddings=torch.randn(4, 3), num_synonyms=torch.tensor([1, 2, 1])
    )
    if suffix == 'pth':
        torch.save(content, path)
    else:
        save_file(content, path)
    rows, counts = load_text_embeddings(str(path), num_classes=3)
    torch.testing.assert_close(rows, content['embeddings'])
    assert counts == [1, 2, 1]


def test_a_file_without_embeddings_is_named(tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(weight=torch.zeros(2)), path)
    with pytest.raises(UserError, match=r'other\.pth must hold.*weight'):
        load_text_embeddings(path, num_classes=3)


def test_embeddings_by_clips_text_tower():
    """A real tower with random weights: a config gives its arguments."""
    classifier = build(
        num_classes=2,
        text_embeddings=dict(
            classes=['road', ['car', 'taxi']],
            model_name='RN50',
            pretrained=None,
            templates=['a {}.'],
        ),
        embed_dim=1024,
    )
    assert classifier.text_embeddings.shape == (3, 1024)
    assert classifier.num_synonyms == [1, 2]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'must be a tensor .*got NoneType'),
        (dict(text_embeddings=torch.zeros(3)), r'got torch.Size\(\[3\]\)'),
        (dict(text_embeddings=torch.zeros(4, 2)), '4 rows.*num_classes=3'),
        (
            dict(text_embeddings=torch.zeros(4, 2), num_synonyms=[1, 1, 1]),
            'one row a synonym',
        ),
        (
            dict(text_embeddings=torch.zeros(3, 2), num_synonyms=[2, 1, 0]),
            r'at least 1 each, got \[2, 1, 0\]',
        ),
        (
            dict(text_embeddings=torch.zeros(3, 2), embed_dim=768),
            'embed_dim=768.*2 dimensions',
        ),
    ],
)
def test_what_does_not_agree_is_named(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_a_linear_head_needs_no_text_tower():
    linear = module.build_classifier(
        dict(type='linear'), channels=8, mask_channels=6, num_classes=3
    )
    assert set(linear.state_dict()) == {'weight', 'bias'}
