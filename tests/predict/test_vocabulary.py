"""Other classes for a model with the text classifier."""

import json

import numpy as np
import open_clip
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from clouds_mmseg import Segmenter
from clouds_mmseg.models.text_embeddings import class_text_embeddings
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.command import main

_NAMES = ['road', 'sky', 'car']
_TEMPLATES = ['a photo of a {}.']


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Arguments of a tiny CLIP whose text tower is on disk."""
    folder = tmp_path_factory.mktemp('clip')
    model = dict(
        embed_dim=24,
        vision_cfg=dict(
            layers=[1, 1, 1, 1], width=16, head_width=64, image_size=64
        ),
        text_cfg=dict(
            context_length=16, vocab_size=49408, width=64, heads=1, layers=1
        ),
    )
    (folder / 'tiny-words.json').write_text(json.dumps(model))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    weights = open_clip.create_model('tiny-words').state_dict()
    torch.save(weights, folder / 'clip.pt')
    return dict(
        model_name='tiny-words',
        pretrained=str(folder / 'clip.pt'),
        templates=_TEMPLATES,
        cache_dir=str(folder / 'cache'),
    )


@pytest.fixture(scope='module')
def checkpoint(clip, tmp_path_factory):
    """A model with the text classifier and random weights."""
    model = dict(
        type='DGSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[128.0] * 3,
            std=[64.0] * 3,
            bgr_to_rgb=True,
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            stem_channels=8,
            base_channels=8,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(
            type='CLOUDSHead',
            in_channels=[8, 16, 32, 64],
            num_classes=3,
            feat_channels=32,
            out_channels=16,
            num_queries=7,
            num_heads=4,
            num_encoder_layers=1,
            encoder_ffn_channels=48,
            num_decoder_layers=1,
            decoder_ffn_channels=40,
            num_groups=8,
            classifier=dict(
                type='text', text_embeddings=dict(classes=_NAMES, **clip)
            ),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')
    built = MODELS.build(model)
    path = tmp_path_factory.mktemp('text') / 'model.pth'
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    meta = dict(
        cfg=Config(dict(model=model)).pretty_text,
        dataset_meta=dict(classes=_NAMES, palette=palette),
    )
    torch.save(dict(state_dict=built.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def segmenter(checkpoint):
    return Segmenter.from_pretrained(checkpoint, device='cpu')


@pytest.fixture(scope='module')
def image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 96, 3), np.uint8)


def test_the_same_classes_give_the_same_scores(segmenter, image):
    expected = segmenter(image, scores=True).scores
    again = segmenter.with_classes(_NAMES)
    assert np.array_equal(again(image, scores=True).scores, expected)
    # In another order too, up to the rounding of its sums.
    turned = segmenter.with_classes(_NAMES[::-1])(image, scores=True).scores
    assert np.allclose(turned[::-1], expected, atol=1e-5)


def test_other_classes(segmenter, image, clip):
    expected = segmenter(image, scores=True).scores
    other = segmenter.with_classes(['tram', 'kerb', 'car', 'bus'])
    found = other(image, scores=True)
    assert found.classes == ('tram', 'kerb', 'car', 'bus')
    assert found.scores.shape == (4, 64, 96) and found.labels.max() < 4
    # The weights are shared, and the first segmenter is as it was.
    pairs = zip(
        segmenter.model.parameters(), other.model.parameters(), strict=True
    )
    assert all(one is same for one, same in pairs)
    assert segmenter.model.num_classes == 3 and other.model.num_classes == 4
    assert np.array_equal(segmenter(image, scores=True).scores, expected)
    rows, _ = class_text_embeddings(['tram', 'kerb', 'car', 'bus'], **clip)
    kept = other.model.decode_head.cls_embed.text_embeddings
    torch.testing.assert_close(kept, rows)
    # Known names keep their colours.
    assert other.palette[2].tolist() == [7, 8, 9]
    assert other.palette[3].tolist() == PALETTE[CLASSES.index('bus')]
    assert other.palette[0].tolist() != other.palette[1].tolist()


def test_synonyms(segmenter, image):
    words = dict(vehicle=['car', 'tram'], kerb='kerb')
    found = segmenter.with_classes(words)
    assert found.classes == ('vehicle', 'kerb')
    classifier = found.model.decode_head.cls_embed
    assert classifier.num_synonyms == [2, 1]
    listed = segmenter.with_classes([['car', 'tram'], ['kerb']])
    assert listed.classes == ('car', 'kerb')
    assert np.array_equal(listed(image).labels, found(image).labels)
    # One class: where it is likely; 255 elsewhere.
    one = segmenter.with_classes(['tram'])
    assert set(np.unique(one(image).labels)) <= {0, 255}


def test_mistakes_are_told(segmenter, tiny_checkpoint, clip, image):
    linear = Segmenter.from_pretrained(tiny_checkpoint, device='cpu')
    with pytest.raises(UserError, match='needs a model with the text class'):
        linear.with_classes(['tram'])
    for classes, message in (
        ('tram', 'classes must be a list of names'),
        ([], 'there can be 1 to 255 classes, got 0'),
        (['a', 'a'], "'a' is named twice"),
        (['a', ''], 'needs at least one'),
        ({'a': []}, "the class 'a' has the names"),
    ):
        with pytest.raises(UserError, match=message):
            segmenter.with_classes(classes)
    nameless = Segmenter(segmenter.model, _NAMES, segmenter.palette)
    with pytest.raises(UserError, match='does not say which CLIP'):
        nameless.with_classes(['tram'])
    assert nameless.with_classes(['tram', 'car'], **clip)(image).labels.size
    with pytest.raises(UserError, match='gone.pt'):
        segmenter.with_classes(['tram'], pretrained='/gone.pt')
    wide = dict(model_name='RN50', pretrained=None)
    # RN50's embeddings: without its tower, which takes seconds.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'clouds_mmseg.predict.vocabulary.class_text_embeddings',
            lambda words, **kwargs: (torch.ones(len(words), 1024), [1]),
        )
        with pytest.raises(UserError, match='1024 dimensions, but the class'):
            segmenter.with_classes(['tram'], **wide)


def test_command(checkpoint, image, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(image).save(tmp_path / 'a.png')
    out = tmp_path / 'out'
    words = ('--classes', 'tram', 'vehicle=car,bus', '--save', 'rle')
    main(
        [
            'predict',
            str(checkpoint),
            str(tmp_path / 'a.png'),
            *('--out', str(out), '--device', 'cpu', *words),
        ]
    )
    content = json.loads((out / 'rle/a.json').read_text())
    names = [one['name'] for one in content['categories']]
    assert names == ['tram', 'vehicle']
