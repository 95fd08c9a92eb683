"""Mixing, colours and masking of unlabelled images."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from clouds_mmseg.models.data_preprocessor import DGDataPreProcessor
from clouds_mmseg.models.segmentors.student_views import (
    BlockMask,
    ClassMix,
    ColorJitter,
    region_means,
)
from clouds_mmseg.utils.errors import UserError

SIZE = (16, 24)


def make_batch(seed=0, labelled=2, unlabelled=2, soft=False):
    generator = torch.Generator().manual_seed(seed)
    number = labelled + unlabelled
    inputs = torch.randn(number, 3, *SIZE, generator=generator)
    samples = []
    for index in range(number):
        label = torch.randint(0, 4, (1, *SIZE), generator=generator)
        label[:, :, -3:] = 255
        sample = SegDataSample(gt_sem_seg=PixelData(data=label))
        if index >= labelled:
            weight = torch.rand(1, *SIZE, generator=generator)
            sample.gt_weight = PixelData(data=weight)
            if soft:
                shares = torch.rand(4, *SIZE, generator=generator)
                sample.gt_soft_label = PixelData(data=shares)
        samples.append(sample)
    return inputs, samples, list(range(labelled, number))


@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.5, 1.0]))
@settings(max_examples=25, deadline=None)
def test_pasted_pixels_bring_their_image_label_and_weight(seed, share):
    inputs, samples, unlabelled = make_batch(seed, labelled=1, soft=True)
    before = [s.clone() for s in samples]
    torch.manual_seed(seed)
    mixed = ClassMix(class_share=share)(inputs, samples, unlabelled)
    source = before[0].gt_sem_seg.data[0]
    assert torch.equal(mixed[0], inputs[0])
    for index in unlabelled:
        after, old = samples[index], before[index]
        pasted = after.gt_weight.data[0] == 1
        classes = source[pasted].unique()
        assert 255 not in classes
        present = source[source != 255].unique()
        assert len(classes) == -(-len(present) * share // 1)
        # Whole classes.
        assert torch.equal(pasted, torch.isin(source, classes))
        expected = torch.where(pasted, inputs[0], inputs[index])
        assert torch.equal(mixed[index], expected)
        expected = torch.where(pasted, source, old.gt_sem_seg.data[0])
        assert torch.equal(after.gt_sem_seg.data[0], expected)
        expected = old.gt_weight.data[0].masked_fill(pasted, 1)
        assert torch.equal(after.gt_weight.data[0], expected)
        soft = after.gt_soft_label.data
        assert (soft[:, pasted].sum(0) == 1).all()
        assert torch.equal(soft[:, pasted].argmax(0), source[pasted])
        assert torch.equal(
            soft[:, ~pasted], old.gt_soft_label.data[:, ~pasted]
        )
    assert torch.equal(samples[0].gt_sem_seg.data[0], source)


def test_without_mixing_nothing_changes():
    inputs, samples, unlabelled = make_batch()
    before = [s.clone() for s in samples]
    assert torch.equal(ClassMix(prob=0)(inputs, samples, unlabelled), inputs)
    for one, two in zip(samples, before, strict=True):
        assert torch.equal(one.gt_sem_seg.data, two.gt_sem_seg.data)


def test_rare_classes_are_pasted_first():
    frequency = torch.tensor([0.7, 0.05, 0.2, 0.05])
    mix = ClassMix(class_share=0.5, rare_temperature=0.01)
    for seed in range(10):
        torch.manual_seed(seed)
        assert sorted(mix.draw_classes(range(4), frequency)) == [1, 3]


def test_an_image_without_labels_gives_nothing():
    inputs, samples, unlabelled = make_batch(labelled=1)
    samples[0].gt_sem_seg.data.fill_(255)
    mixed = ClassMix()(inputs, samples, unlabelled)
    assert torch.equal(mixed, inputs)


def test_a_batch_without_labelled_image_is_an_error():
    inputs, samples, _ = make_batch(labelled=0)
    with pytest.raises(UserError, match='no labelled image.*generated_share'):
        ClassMix()(inputs, samples, [0, 1])


@pytest.fixture
def preprocessor():
    return DGDataPreProcessor(
        mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0], bgr_to_rgb=True
    )


def test_colors_change_unlabelled_images_alone(preprocessor):
    images = torch.randint(0, 256, (3, 3, *SIZE)).float()
    inputs = preprocessor.normalize(images)
    torch.manual_seed(0)
    jitter = ColorJitter(prob=1, strength=0.5, blur_prob=1)
    changed = jitter(inputs, [1], preprocessor)
    assert torch.equal(changed[[0, 2]], inputs[[0, 2]])
    assert not torch.allclose(changed[1], inputs[1], atol=0.05)
    pixels = preprocessor.denormalize(changed[1])
    assert pixels.min() > -0.01 and pixels.max() < 255.01
    same = ColorJitter(prob=1, strength=0, blur_prob=0)(
        inputs, [1], preprocessor
    )
    assert torch.allclose(same, inputs, atol=1e-3)
    none = ColorJitter(prob=0, blur_prob=0)(inputs, [1], preprocessor)
    assert torch.equal(none, inputs)


def test_blur_of_an_image_smaller_than_its_kernel(preprocessor):
    jitter = ColorJitter(prob=0, blur_prob=1, max_sigma=50)
    changed = jitter(torch.randn(1, 3, 8, 8), [0], preprocessor)
    assert torch.isfinite(changed).all()


def test_blocks_are_hidden_whole(preprocessor):
    torch.manual_seed(0)
    inputs = torch.ones(2, 3, 20, 30)
    masked = BlockMask(block=8, ratio=0.5)(inputs, [1], preprocessor)
    assert torch.equal(masked[0], inputs[0])
    hidden = masked[1, 0] == 0
    assert hidden.any() and not hidden.all()
    for top in range(0, 20, 8):
        for left in range(0, 30, 8):
            block = hidden[top : top + 8, left : left + 8]
            assert block.all() or not block.any()
    assert (BlockMask(ratio=1)(inputs, [0], preprocessor)[0] == 0).all()


def test_region_means():
    values = torch.tensor([[0.2, 0.4], [1.0, 0.9]])
    label = torch.tensor([[0, 0], [2, 255]])
    means = region_means(values, label, 3)
    assert means.tolist() == pytest.approx([0.3, 1.0, 1.0])


@pytest.mark.parametrize(
    'build, text',
    [
        (lambda: ClassMix(prob=1.5), r'ClassMix.prob .*\[0, 1\], got 1.5'),
        (lambda: ClassMix(class_share=0), r'class_share .*\(0, 1\], got 0'),
        (lambda: ClassMix(rare_temperature=0), 'rare_temperature .* got 0'),
        (lambda: ColorJitter(strength=-1), 'strength .* got -1'),
        (lambda: ColorJitter(max_sigma='a'), "max_sigma .* got 'a'"),
        (lambda: BlockMask(block=1.5), 'block .* got 1.5'),
        (lambda: BlockMask(ratio=float('nan')), 'ratio .* got nan'),
    ],
)
def test_values_out_of_range_are_refused(build, text):
    with pytest.raises(UserError, match=text):
        build()
