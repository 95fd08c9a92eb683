"""The teacher's labels inside of the loss."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import clouds_mmseg  # noqa: F401
from clouds_mmseg.models.segmentors.feature_cache import FeatureCache
from clouds_mmseg.models.segmentors.pseudo_labels import expected_iou
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError

# The student's views are padded to this; the images are smaller.
SIZE = (64, 96)
IMAGE = (64, 80)


def build(frozen=True, **kwargs):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(make_config(frozen, **kwargs))
    model.update_teacher()
    return model.train()


def make_config(frozen, **kwargs):
    config = dict(
        type='SelfTrainingSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[120.0, 110.0, 100.0],
            std=[60.0, 61.0, 62.0],
            bgr_to_rgb=True,
            size=SIZE,
            pad_val=0,
            seg_pad_val=255,
        ),
        backbone=dict(
            type='FrozenTIMMBackbone',
            model_name='test_resnet',
            weights=None,
            frozen=frozen,
        ),
        decode_head=dict(
            type='CLOUDSHead',
            num_classes=5,
            feat_channels=32,
            out_channels=32,
            num_queries=6,
            num_encoder_layers=1,
            num_decoder_layers=2,
            encoder_ffn_channels=32,
            decoder_ffn_channels=32,
            loss=dict(num_points=64),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    return config | kwargs


def make_batch(direction='horizontal', labelled=1, unlabelled=2):
    """Raw images as the loader gives them, BGR; clean views not flipped."""
    generator = torch.Generator().manual_seed(1)
    images, samples = [], []
    for index in range(labelled + unlabelled):
        image = torch.randint(
            0, 256, (3, *IMAGE), dtype=torch.uint8, generator=generator
        )
        sample = SegDataSample(metainfo=dict(img_shape=IMAGE))
        if index < labelled:
            label = torch.randint(0, 5, (1, *IMAGE), generator=generator)
            sample.gt_sem_seg = PixelData(data=label)
        else:
            sample.clean_img = PixelData(data=image.clone())
            sample.set_metainfo(
                dict(flip=direction is not None, flip_direction=direction)
            )
            axes = {'horizontal': (2,), None: ()}[direction]
            image = image.flip(axes)
        images.append(image)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def compute(model, batch):
    data = model.data_preprocessor(batch, training=True)
    losses = model.loss(**data)
    return losses, data['data_samples']


@torch.no_grad()
def teacher_scores(model, clean):
    """(1, 5, H, W) of one clean view, step by step."""
    rgb = clean.flip(0).float()
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    padded = torch.zeros(1, 3, *SIZE)
    padded[..., : IMAGE[1]] = (rgb - mean) / std
    head = model.teacher.module['decode_head']
    parts = model.teacher.module
    backbone = parts['backbone'] if 'backbone' in parts else model.backbone
    backbone.eval()
    meta = dict(img_shape=SIZE)
    return head.predict(backbone(padded), [meta], model.test_cfg)


@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('direction', [None, 'horizontal'])
def test_label_is_the_teachers_of_the_clean_view(frozen, direction):
    model = build(frozen)
    # The student has moved on: its labels would be others.
    torch.nn.init.normal_(model.decode_head.query_feat.weight)
    losses, samples = compute(model, make_batch(direction))
    assert all(torch.isfinite(v).all() for v in losses.values())
    for sample in samples[1:]:
        scores = teacher_scores(model, sample.clean_img.data)
        expected = scores.argmax(1)[..., : IMAGE[1]]
        if direction:
            expected = expected.flip(-1)
        label = sample.gt_sem_seg.data
        assert label.shape == (1, *SIZE)
        agreement = (label[..., : IMAGE[1]] == expected).float().mean()
        # Batches of another size may round ties otherwise.
        assert agreement > 0.999
        assert (label[..., IMAGE[1] :] == 255).all()


def test_frozen_features_of_both_views_come_from_one_call():
    model = build()
    calls = []
    model.backbone.register_forward_pre_hook(
        lambda module, args: calls.append(len(args[0]))
    )
    compute(model, make_batch(labelled=1, unlabelled=2))
    assert calls == [5]


def with_cache(folder, **changes):
    """A model that mirrors and scales, and its cache."""
    model = build(teacher_views=['flip', 0.5])
    settings = dict(half=True) | changes
    store = ArrayCache(folder, 10**8)
    model.feature_cache = FeatureCache(store, 'tower', **settings)
    return model


def labels_of(model, batch=None):
    torch.manual_seed(0)
    losses, samples = compute(model, batch or make_batch())
    labels = torch.stack([s.gt_sem_seg.data for s in samples[1:]])
    return labels, {key: value.item() for key, value in losses.items()}


def test_cached_features_in_single_precision_change_no_bit(tmp_path):
    plain = build(teacher_views=['flip', 0.5])
    labels, losses = labels_of(plain)
    for _ in range(2):
        cached = with_cache(tmp_path, half=False)
        again, same = labels_of(cached)
        assert torch.equal(labels, again) and losses == same


def test_features_are_computed_once_for_each_image_and_view(tmp_path):
    calls = []

    def extract(model, batch=None):
        model.backbone.register_forward_pre_hook(
            lambda module, args: calls.append(tuple(args[0].shape[::2]))
        )
        return labels_of(model, batch)

    labels, losses = extract(with_cache(tmp_path))
    height = SIZE[0]
    # The student's three images; clean, mirrored and half of two images.
    assert calls[0] == (3, height) and len(calls) == 7
    calls.clear()
    again, same = extract(with_cache(tmp_path))
    # Sizes of maps, once for each size of view.
    assert calls == [(3, height), (1, height), (1, height // 2)]
    assert torch.equal(labels, again) and losses == same
    other = make_batch()
    for sample in other['data_samples'][1:]:
        sample.clean_img.data[0, 0, 0] ^= 1
    calls.clear()
    extract(with_cache(tmp_path), other)
    assert len(calls) == 7


def test_the_size_of_cached_features_is_known_before(tmp_path):
    model = with_cache(tmp_path)
    batch = make_batch(unlabelled=1)
    size = model.cached_bytes(batch['data_samples'][1])
    assert model.feature_cache.store.used_bytes() == 0
    labels_of(model, batch)
    stored = model.feature_cache.store.used_bytes()
    # Each of three files has a checksum and a header.
    assert size < stored < size + 3 * 200


def test_features_that_half_precision_cannot_hold_are_kept_whole(tmp_path):
    cache = FeatureCache(ArrayCache(tmp_path, 10**6), 'tower')
    view = torch.rand(1, 3, 4, 4)
    maps = [1e5 * view, view.contiguous(memory_format=torch.channels_last)]
    for compute in (lambda x: maps, None):
        found = cache.features(view, ['name'], 'clean', compute)
        assert torch.equal(found[0], maps[0])
        assert torch.equal(found[1], maps[1])
        assert found[1].stride() == maps[1].stride()


def test_labelled_batches_take_the_ordinary_way():
    model = build()
    model._add_pseudo_labels = None
    losses, _ = compute(model, make_batch(unlabelled=0))
    assert torch.isfinite(losses['decode.loss_cls'])


def test_a_sample_without_label_and_clean_view():
    batch = make_batch()
    del batch['data_samples'][2].clean_img
    batch['data_samples'][2].set_metainfo(dict(img_path='c.png'))
    with pytest.raises(UserError, match='c.png has neither a label nor'):
        compute(build(), batch)


def test_gradients_reach_the_student_alone():
    model = build()
    losses, _ = compute(model, make_batch())
    sum(losses.values()).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is None for p in model.backbone.parameters())
    grads = [p.grad for p in model.decode_head.parameters()]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


def test_refiner_sees_rgb_without_padding_and_its_label_is_mirrored():
    model = build()
    seen = []

    def refiner(image, label):
        seen.append((image, label))
        refined = torch.zeros_like(label)
        refined[:, 0] = 3
        return refined

    model.refiner = refiner
    _, samples = compute(model, make_batch())
    for (image, label), sample in zip(seen, samples[1:], strict=True):
        assert image.dtype == torch.uint8
        assert torch.equal(image, sample.clean_img.data.flip(0))
        assert label.shape == IMAGE
        result = sample.gt_sem_seg.data[0]
        assert (result[:, IMAGE[1] - 1] == 3).all()
        assert (result[:, : IMAGE[1] - 1] == 0).all()
    report = model.statistics.pop()
    assert report['images'] == 2
    assert report['histogram'][3] == pytest.approx(1 / IMAGE[1])


def test_threshold_and_weights():
    model = build(label_threshold=0.9, confidence_weight=True)
    _, samples = compute(model, make_batch())
    for sample in samples[1:]:
        weight = sample.gt_weight.data[0, :, : IMAGE[1]]
        label = sample.gt_sem_seg.data[0, :, : IMAGE[1]]
        assert torch.equal(label == 255, weight < 0.9)
        assert (sample.gt_weight.data[0, :, IMAGE[1] :] == 0).all()
    assert model.statistics.pop()['kept'] < 1


def test_teacher_stays_in_eval_and_moves_by_its_decay():
    model = build(teacher_decay=0.75)
    assert model.training and not model.teacher.training
    name = 'query_feat.weight'
    before = model.teacher.module['decode_head'].get_parameter(name).clone()
    student = model.decode_head.get_parameter(name)
    with torch.no_grad():
        student.add_(1)
    model.update_teacher()
    after = model.teacher.module['decode_head'].get_parameter(name)
    assert torch.allclose(after, 0.75 * before + 0.25 * student)


def test_teacher_covers_a_trainable_backbone():
    keys = build(frozen=False).state_dict()
    assert any(key.startswith('teacher.module.backbone.') for key in keys)
    keys = build(frozen=True).state_dict()
    assert not any(key.startswith('teacher.module.backbone') for key in keys)


def test_pseudo_labels_of_nan_are_refused_and_named():
    model = build(True)
    batch = make_batch()
    for index, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(img_path=f'/data/{index}.png'))
    with torch.no_grad():
        next(model.teacher.parameters())[:] = torch.nan
    with pytest.raises(NonFiniteError, match=r'/data/1\.png, /data/2\.png'):
        compute(model, batch)
    # Nothing of them has been counted.
    assert model.statistics.pop() is None
    with pytest.raises(NonFiniteError, match="teacher's scores"):
        model.pseudo_labels(batch['data_samples'][1:])


def test_mmsegs_preprocessor_becomes_ours_with_equal_values():
    model = build()
    assert type(model.data_preprocessor).__name__ == 'DGDataPreProcessor'
    batch = make_batch(direction=None, labelled=0)
    data = model.data_preprocessor(batch, training=True)
    samples = data['data_samples']
    clean = model.data_preprocessor.clean_views(samples, SIZE)
    assert torch.equal(clean, data['inputs'])
    raw = model.data_preprocessor.denormalize(clean)[..., : IMAGE[1]]
    rgb = torch.stack([model.clean_rgb(s) for s in samples]).float()
    assert torch.allclose(raw, rgb, atol=1e-3)


def test_views_of_the_teacher_are_averaged():
    model = build(teacher_views=['flip', 1.5])
    batch = make_batch(direction=None)
    clean = batch['data_samples'][1].clean_img.data
    total = teacher_scores(model, clean)
    views = model.data_preprocessor.clean_views(
        batch['data_samples'][1:], SIZE
    )
    head = model.teacher.module['decode_head']

    def predict(images):
        size = tuple(images.shape[-2:])
        with torch.no_grad():
            features = model.backbone(images)
            return head.predict(features, [dict(img_shape=size)] * 2)

    def resize(maps, size):
        return torch.nn.functional.interpolate(
            maps, size=size, mode='bilinear', align_corners=False
        )

    total = total + predict(views.flip(-1)).flip(-1)[:1]
    total = total + resize(predict(resize(views, (96, 160))), SIZE)[:1]
    labels, confidences = model.pseudo_labels(batch['data_samples'][1:])
    expected = total[0, :, :, : IMAGE[1]] / 3
    assert (labels[0] == expected.argmax(0)).float().mean() > 0.99
    share = expected.amax(0) / expected.sum(0)
    assert torch.allclose(confidences[0], share, atol=1e-2)
    _, samples = compute(model, batch)
    found = samples[1].gt_sem_seg.data[0, :, : IMAGE[1]]
    assert (found == labels[0]).float().mean() > 0.99


def test_regions_count_as_much_as_their_expected_iou():
    model = build(label_weight='region')
    _, samples = compute(model, make_batch())
    assert 'gt_region_weight' not in samples[0]
    for sample in samples[1:]:
        scores = teacher_scores(model, sample.clean_img.data)[0]
        label = sample.gt_sem_seg.data[0]
        upright = label[:, : IMAGE[1]].flip(-1)
        iou = expected_iou(scores[:, :, : IMAGE[1]], upright)
        weight = sample.gt_weight.data[0]
        for k in label[label != 255].unique():
            assert torch.allclose(weight[label == k], iou[k], atol=1e-3)
            assert torch.allclose(
                sample.gt_region_weight[k], iou[k], atol=1e-3
            )
        assert (weight[:, IMAGE[1] :] == 0).all()


@pytest.mark.parametrize('weight', ['image', 0.25])
def test_an_image_counts_as_a_whole(weight):
    model = build(label_weight=weight, image_threshold=0.3, label_dice=False)
    _, samples = compute(model, make_batch())
    for sample in samples[1:]:
        values = sample.gt_weight.data[0, :, : IMAGE[1]].unique()
        assert len(values) == 1 and 0 < values <= 1
        if weight == 0.25:
            assert values == 0.25
        shown = sample.gt_sem_seg.data.unique()
        shown = shown[shown != 255]
        regions = sample.gt_region_weight
        assert torch.allclose(regions[shown], values, atol=1e-5)
        assert sample.gt_dice_weight == 0


def test_lower_weights_make_losses_of_pseudo_labels_smaller():
    values = []
    for weight in (None, 1.0, 0.5, 0.0):
        model = build(label_weight=weight)
        torch.manual_seed(3)
        losses, _ = compute(model, make_batch(labelled=0))
        values.append({k: float(v.detach()) for k, v in losses.items()})
    plain, one, half, none = values
    assert one['decode.loss_cls'] == pytest.approx(plain['decode.loss_cls'])
    # Padding counts for nothing in the masks of a weighted image.
    assert one['decode.loss_mask'] < plain['decode.loss_mask']
    assert half['decode.loss_mask'] < one['decode.loss_mask']
    assert none['decode.loss_mask'] == none['decode.loss_dice'] == 0
    assert none['decode.loss_cls'] < half['decode.loss_cls']


def test_a_student_view_may_be_given_by_its_name():
    """As --cfg-options model.student_views=[ColorJitter] does."""
    named, told = (
        build(student_views=[view]).student_views
        for view in ('ColorJitter', dict(type='ColorJitter'))
    )
    assert [vars(view) for view in named] == [vars(view) for view in told]


def test_the_student_sees_the_mixed_images_with_their_labels():
    model = build(
        label_weight='region',
        mixing=dict(type='ClassMix', rare_temperature=0.01),
        student_views=[dict(type='BlockMask', block=16, ratio=0.5)],
    )
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    batch = make_batch()
    torch.manual_seed(0)
    data = model.data_preprocessor(batch, training=True)
    inputs, samples = data['inputs'], data['data_samples']
    losses = model.loss(inputs, samples)
    assert all(torch.isfinite(v).all() for v in losses.values())
    # The clean views for the teacher, then the student's.
    assert [len(x) for x in seen] == [2, 3]
    mixed = seen[1]
    assert torch.equal(mixed[0], inputs[0])
    source = samples[0].gt_sem_seg.data[0]
    assert model.class_pixels.sum() == (source != 255).sum()
    for index in (1, 2):
        same = (mixed[index] == inputs[0]).all(0)
        hidden = (mixed[index] == 0).all(0)
        pasted = samples[index].gt_weight.data[0] == 1
        assert pasted.any() and hidden.any()
        assert (same | hidden)[pasted].all()
        label = samples[index].gt_sem_seg.data[0]
        assert torch.equal(label[pasted], source[pasted])


def test_soft_labels_are_the_teachers_shares():
    model = build(soft_labels=True, label_method='transport')
    _, samples = compute(model, make_batch())
    for sample in samples[1:]:
        soft = sample.gt_soft_label.data
        label = sample.gt_sem_seg.data[0]
        assert torch.equal(soft.argmax(0)[label != 255], label[label != 255])
        total = soft.sum(0)
        assert torch.allclose(total[label != 255], torch.ones(()), atol=1e-5)
        assert (total[label == 255] == 0).all()


def test_teacher_that_ramps_up_is_the_mean_at_first():
    model = build(teacher_decay=0.75, teacher_ramp_up=True)
    name = 'query_feat.weight'
    teacher = model.teacher.module['decode_head'].get_parameter(name)
    student = model.decode_head.get_parameter(name)
    values = [teacher.clone()]
    for number in range(2):
        with torch.no_grad():
            student.add_(number + 1)
        values.append(student.detach().clone())
        model.update_teacher()
        expected = torch.stack(values).mean(0)
        assert torch.allclose(teacher, expected, atol=1e-6)
    for _ in range(5):
        model.update_teacher()
    assert model.teacher.momentum == pytest.approx(0.25)


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(label_weight='regions'), "'regions'; perhaps 'region'"),
        (dict(label_weight=1.5), 'got 1.5|1.5'),
        (dict(label_weight=True), 'True'),
        (dict(label_method='argmin'), "'argmin'.*'argmax'"),
        (dict(transport=dict(epsilon=1)), "label_method='transport' only"),
        (
            dict(label_method='transport', transport=dict(eps=1)),
            r"epsilon and iterations, got \['eps'\]",
        ),
        (
            dict(label_method='transport', transport=dict(marginals='a')),
            "'uniform' or 'scores', got 'a'",
        ),
        (dict(teacher_views=['mirror']), "'flip' or scales"),
        (dict(teacher_views=[9]), 'got 9'),
        (
            dict(data_preprocessor=dict(type='BaseDataPreprocessor')),
            'must be a DGDataPreProcessor, .* got BaseDataPreprocessor',
        ),
        (
            dict(confidence_weight=True, label_weight='region'),
            'give one of them',
        ),
    ],
)
def test_settings_out_of_range_are_refused(options, text):
    with pytest.raises(UserError, match=text):
        build(**options)
