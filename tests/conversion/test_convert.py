import pytest
import torch
from convert_helpers import assert_same, back, convert

from clouds_mmseg.conversion.layouts import detect
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError

NAMES = ['rn50', 'rn101', 'convnext_large']


def with_teacher(weights):
    teacher = {
        key.replace('sem_seg_head.', 'sem_seg_head_ema.'): value + 1
        for key, value in weights.items()
        if key.startswith('sem_seg_head.')
    }
    return {**weights, **teacher}


@pytest.mark.parametrize('name', NAMES)
def test_official_manifests_convert_both_ways(official, name):
    weights = official(f'clouds_official_{name}')
    ours = convert(weights)
    assert ours.absent == {}
    again = back(ours.weights, 'clouds', fill=weights)
    assert again.absent == {}
    assert_same(again.weights, weights)
    assert again.spec == {k: tuple(v.shape) for k, v in weights.items()}
    # Without the official file, what ours does not keep is listed.
    alone = back(ours.weights, 'clouds')
    assert set(alone.absent) == set(ours.unused) - {'criterion.empty_weight'}
    assert_same(convert(alone.weights).weights, ours.weights)


def test_random_values_survive_both_ways(reference_dir, tiny_head):
    weights = tiny_head('linear')
    ours = convert(weights)
    again = back(ours.weights, 'mask2former').weights
    made = again.pop('criterion.empty_weight')
    assert made[:-1].eq(1).all() and made[-1] == torch.tensor(0.1)
    assert_same(again, weights)


def test_zoo_manifest_converts_both_ways(official):
    weights = official('mask2former_r50_cityscapes_zoo')
    ours = convert(weights)
    assert_same(ours.weights, weights)
    there = back(ours.weights, 'mask2former')
    assert_same(convert(there.weights).weights, weights)


def test_the_moving_average_becomes_the_teacher(official):
    weights = with_teacher(official('clouds_official_rn50'))
    result = convert(weights)
    ours = result.weights
    head = {
        key.removeprefix('decode_head.')
        for key in ours
        if key.startswith('decode_head.')
    }
    for key in head:
        teacher = ours[f'teacher.module.decode_head.{key}']
        assert torch.equal(teacher, ours[f'decode_head.{key}'] + 1)
    # With a count of 0 the first update would overwrite it.
    assert ours['teacher.steps'] == 1 and 'teacher.steps' in result.created
    again = back(ours, 'clouds', fill=weights)
    assert_same(again.weights, weights)
    assert 'teacher.steps' in again.unused


@pytest.mark.parametrize('teacher', [False, True])
def test_text_classifiers_convert_both_ways(text_official, teacher):
    weights = with_teacher(text_official) if teacher else text_official
    ours = convert(weights)
    key = 'cls_embed.void_embedding.weight'
    void = weights['void_embedding.weight']
    assert torch.equal(ours.weights[f'decode_head.{key}'], void)
    kind = 'clouds' if teacher else 'fcclip'
    if teacher:
        copy = ours.weights[f'teacher.module.decode_head.{key}']
        assert torch.equal(copy, void)
    again = back(ours.weights, kind, fill=weights)
    assert_same(again.weights, weights)


def test_clip_alone_may_fill_the_rest(text_official):
    ours = convert(text_official).weights
    prefix = 'backbone.clip_model.'
    clip = {
        key.removeprefix(prefix): value
        for key, value in text_official.items()
        if key.startswith(prefix)
    }
    again = back(ours, 'fcclip', fill=clip)
    missing = text_official.keys() - again.weights.keys()
    # A text head does not say how many classes there are.
    assert missing == {'criterion.empty_weight'}
    clip['text_projection'] = torch.zeros(3)
    with pytest.raises(CheckpointMismatchError, match=r'text_projection \(3,'):
        back(ours, 'fcclip', fill=clip)


def test_what_ours_has_no_use_for_is_listed(official):
    weights = official('clouds_official_rn50')
    weights['sam.sam.mask_decoder.weight'] = torch.ones(1)
    weights['pixel_mean'] = torch.ones(3, 1, 1)
    unused = convert(weights).unused
    assert 'the refiner' in unused['sam.sam.mask_decoder.weight']
    assert 'data_preprocessor' in unused['pixel_mean']
    clip = 'backbone.clip_model.'
    assert 'text tower' in unused[f'{clip}token_embedding.weight']
    assert 'pools' in unused[f'{clip}visual.attnpool.c_proj.weight']
    assert 'loss' in unused['criterion.empty_weight']
    assert 'linear' in unused['void_embedding.weight']


def test_a_name_of_the_first_release(tiny_head):
    weights = tiny_head('linear')
    value = weights.pop('sem_seg_head.predictor.query_feat.weight')
    weights['sem_seg_head.predictor.static_query.weight'] = value
    ours = convert(weights).weights
    assert torch.equal(ours['decode_head.query_feat.weight'], value)
    weights['sem_seg_head.predictor.query_feat.weight'] = value
    with pytest.raises(
        UserError, match='both .* are called decode_head.query'
    ):
        convert(weights)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'sem_seg_head.predictor.query_embed.weight': None}, 'query_embed'),
        ({'sem_seg_head.predictor.odd.weight': (3,)}, r'odd\.weight \(3,\)'),
        ({'strange.weight': (3,)}, r'strange\.weight \(3,\)'),
        (
            {'sem_seg_head.predictor.decoder_norm.bias': (3,)},
            r'post_norm\.bias \(3,\) in the weights, \(32,\) expected',
        ),
    ],
)
def test_what_does_not_fit_is_an_error(tiny_head, changes, message):
    weights = tiny_head('linear')
    for key, shape in changes.items():
        if shape is None:
            del weights[key]
        else:
            weights[key] = torch.zeros(shape)
    with pytest.raises(CheckpointMismatchError, match=message):
        convert(weights)


def test_half_a_backbone_is_an_error(official):
    weights = official('clouds_official_rn50')
    lost = 'backbone.clip_model.visual.layer3.'
    with pytest.raises(UserError, match='no CLIP tower'):
        convert({k: v for k, v in weights.items() if not k.startswith(lost)})
    whole = 'backbone.clip_model.visual.'
    with pytest.raises(UserError, match='no weight of the backbone'):
        convert({k: v for k, v in weights.items() if not k.startswith(whole)})


def test_kinds_are_told_by_names(official, text_official, tiny_head):
    linear = official('clouds_official_rn50')
    assert detect(linear).kind == 'clouds'
    assert detect(linear, 'clouds').text is False
    assert detect(tiny_head('linear')).kind == 'mask2former'
    assert detect(text_official).kind == 'fcclip'
    assert detect(text_official, 'clouds').kind == 'clouds'
    assert detect(with_teacher(text_official)).kind == 'clouds'
    zoo = detect(official('mask2former_r50_cityscapes_zoo'))
    assert (zoo.kind, zoo.backbone, zoo.text) == ('mmseg', '', False)


@pytest.mark.parametrize(
    ('kind', 'said', 'looks'),
    [
        ('linear', 'fcclip', 'official CLOUDS'),
        ('linear', 'mmseg', 'official CLOUDS'),
        ('text', 'mask2former', 'FC-CLIP'),
        ('zoo', 'clouds', 'ours or MMSegmentation'),
        ('tiny', 'clouds', 'detectron2 Mask2Former'),
    ],
)
def test_a_contradiction_is_an_error(
    official, text_official, tiny_head, kind, said, looks
):
    weights = dict(
        linear=official('clouds_official_rn50'),
        text=text_official,
        zoo=official('mask2former_r50_cityscapes_zoo'),
        tiny=tiny_head('linear'),
    )[kind]
    with pytest.raises(UserError, match=f'--from {said} contradicts.*{looks}'):
        detect(weights, said)


def test_unknown_kinds_are_named():
    with pytest.raises(UserError, match="none of.*'fc.weight'"):
        detect({'fc.weight': 0})
    with pytest.raises(UserError, match='foundation model'):
        detect({'visual.conv1.weight': 0})
    with pytest.raises(UserError, match='foundation model'):
        detect({'image_encoder.patch_embed.weight': 0})


def test_destinations_have_their_limits(official, text_official):
    ours = convert(official('clouds_official_rn50')).weights
    with pytest.raises(UserError, match='--to mask2former.*ResNet or Swin'):
        back(ours, 'mask2former')
    with pytest.raises(UserError, match='--to fcclip.*linear'):
        back(ours, 'fcclip')
    text = convert(text_official).weights
    bare = {k: v for k, v in text.items() if not k.startswith('backbone')}
    with pytest.raises(UserError, match='--to mask2former.*text'):
        back(bare, 'mask2former')
    other = {'backbone.stem.weight': torch.ones(1), **bare}
    with pytest.raises(UserError, match='--to clouds.*CLIP'):
        back(other, 'clouds')
    strange = {'neck.weight': torch.ones(1), **ours}
    with pytest.raises(CheckpointMismatchError, match='neck.weight'):
        back(strange, 'clouds')
    teacher = convert(with_teacher(text_official)).weights
    assert 'no second head' in ' '.join(
        back(teacher, 'fcclip').unused.values()
    )
