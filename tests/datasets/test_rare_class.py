"""Probabilities of classes, the stream made of them, and its samples."""

import logging

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis.extra.numpy import arrays
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from clouds_mmseg.datasets import (
    DataError,
    FolderDataset,
    KeyedDataset,
    KeyedSampler,
)
from clouds_mmseg.datasets.rare_classes import (
    RareClassDataset,
    RareClassStream,
    class_probabilities,
    images_by_class,
)
from clouds_mmseg.utils.errors import UserError

PIPELINE = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='RandomResize', scale=(20, 12), ratio_range=(1.0, 2.0)),
    dict(type='RandomCrop', crop_size=(8, 8)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDGInputs'),
]
pixel_counts = arrays(
    np.int64, st.integers(1, 12), elements=st.integers(0, 10**9)
)
temperatures = st.floats(1e-4, 1e4)


@given(pixel_counts, temperatures)
def test_probabilities_sum_to_one_and_prefer_the_rare(pixels, temperature):
    assume(pixels.any())
    found = class_probabilities(pixels, temperature)
    assert found.sum() == pytest.approx(1)
    assert (found[pixels == 0] == 0).all() and (found >= 0).all()
    order = np.argsort(pixels[pixels > 0], kind='stable')
    assert (np.diff(found[pixels > 0][order]) <= 1e-12).all()


@given(pixel_counts)
def test_limits_of_the_temperature(pixels):
    assume(pixels.any())
    occurs = pixels > 0
    hot = class_probabilities(pixels, 1e9)
    np.testing.assert_allclose(hot[occurs], 1 / occurs.sum(), rtol=1e-6)
    least = pixels[occurs].min()
    rarest = pixels == least
    share = np.sort(pixels[occurs] / pixels.sum())
    # Cold enough to tell the rarest from the next.
    gaps = np.diff(share)
    assume(not (gaps > 0).any() or gaps[gaps > 0].min() > 1e-9)
    cold = class_probabilities(pixels, 1e-11)
    np.testing.assert_allclose(cold[rarest], 1 / rarest.sum(), rtol=1e-6)


def test_probabilities_are_those_of_the_paper():
    pixels = np.array([900, 0, 90, 10])
    share = np.array([0.9, 0.09, 0.01])
    weights = np.exp((1 - share) / 0.5)
    np.testing.assert_allclose(
        class_probabilities(pixels, 0.5)[[0, 2, 3]], weights / weights.sum()
    )
    # The same through PyTorch, as the official code has it.
    expected = torch.softmax((1 - torch.tensor(share)) / 0.01, dim=-1)
    np.testing.assert_allclose(
        class_probabilities(pixels, 0.01)[[0, 2, 3]], expected, atol=1e-12
    )


def test_frequencies_count_all_classes_that_are_not_drawn_too():
    pixels = np.array([900, 90, 10])
    drawn = np.array([False, True, True])
    whole = class_probabilities(pixels, 0.1)
    found = class_probabilities(pixels, 0.1, drawn)
    assert found[0] == 0
    assert found[1] / found[2] == pytest.approx(whole[1] / whole[2])


@pytest.mark.parametrize('temperature', [0, -1, float('nan')])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(UserError, match='temperature=.* greater than 0'):
        class_probabilities([1, 2], temperature)


def test_nothing_to_draw():
    with pytest.raises(UserError, match='no class that is drawn'):
        class_probabilities([0, 0], 1)


def test_images_need_more_than_min_pixels():
    counts = np.array([[5, 0, 9], [6, 0, 0], [7, 0, 1]])
    lists = images_by_class(counts, 5, 'abc')
    assert [found.tolist() for found in lists] == [[1, 2], [], [0]]
    with pytest.raises(DataError) as caught:
        images_by_class(counts, 8, 'abc')
    text = str(caught.value)
    assert 'min_pixels=8: no image has more pixels than that of a' in text
    assert 'a (at most 7)' in text and 'Set min_pixels to 6 or less' in text


def stream(seed=3):
    images = [np.array([0, 4]), np.array([], int), np.array([2])]
    return RareClassStream(
        np.array([0.3, 0.0, 0.7]), images, size=5, seed=seed
    )


def test_the_stream_follows_the_probabilities():
    drawn = np.array([stream()[place] for place in range(4000)])
    classes, images = np.divmod(drawn, 5)
    # Standard deviations 0.007 and 0.014.
    assert (classes == 2).mean() == pytest.approx(0.7, abs=0.03)
    assert set(images[classes == 2]) == {2}
    assert set(images[classes == 0]) == {0, 4}
    assert (images[classes == 0] == 4).mean() == pytest.approx(0.5, abs=0.06)


def test_a_place_of_the_stream_is_what_it_is():
    one, two = stream(), stream()
    order = [7, 10**9, 0, 7]
    assert [one[p] for p in order] == [two[p] for p in reversed(order)][::-1]
    others = [stream(seed)[p] for seed in (3, 4) for p in range(20)]
    assert others[:20] != others[20:]


@pytest.fixture
def scenes(tmp_path, files):
    """Six images of ground; a box of 16 pixels in the second and fifth."""
    for number in range(6):
        label = np.zeros(files.shape, np.uint8)
        if number in (1, 4):
            label[2:6, 12:16] = 1
        files.image(tmp_path / f'images/{number}.png', seed=number)
        files.label(tmp_path / f'labels/{number}.png', label)
    return tmp_path


def source(root, pipeline=PIPELINE, domain='scenes', **options):
    return FolderDataset(
        data_root=str(root),
        domain=domain,
        metainfo=dict(
            classes=['ground', 'box', 'bird'],
            palette=[[i] * 3 for i in range(3)],
        ),
        pipeline=pipeline,
        **options,
    )


OPTIONS = dict(temperature=0.05, min_pixels=8)


def keyed(root, **options):
    rare = OPTIONS | options
    return KeyedDataset([source(root, rare_class=rare)], seed=11)


def sampler(dataset):
    return KeyedSampler(dataset, batch_size=3, seed=5)


def boxes(sample):
    return int((sample['data_samples'].gt_sem_seg.data == 1).sum())


def test_crops_show_the_class_they_were_drawn_for(scenes):
    dataset = keyed(scenes)
    (rare,) = dataset.datasets
    assert isinstance(rare, RareClassDataset)
    assert rare.probabilities[1] > 0.999 and rare.probabilities[2] == 0
    assert rare.images[1].tolist() == [1, 4] and not len(rare.images[2])
    keys = [k for i in range(10) for k in sampler(dataset).batch_keys(i)]
    assert {key % len(dataset) for key in keys} == {6 + 1, 6 + 4}
    shown = [boxes(dataset[key]) for key in keys]
    assert min(shown) > 4
    # Without another try, crops are what they are by chance.
    (rare.tries,) = (1,)
    assert min(boxes(dataset[key]) for key in keys) <= 4


def test_tries_are_bounded(scenes):
    dataset = keyed(scenes, min_crop_ratio=100.0, tries=3)
    assert dataset[6 + 1]['inputs'].shape == (3, 8, 8)


def test_the_first_crop_is_that_of_the_source(scenes):
    plain = KeyedDataset([source(scenes)], seed=11)
    rare = keyed(scenes, min_crop_ratio=0.0)
    # Ground is in every crop: the first is taken. Key 3 means image 3.
    ours, theirs = rare[3], plain[3]
    assert torch.equal(ours['inputs'], theirs['inputs'])


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_a_function_of_the_iteration(scenes, workers):
    def batches(start, count, workers):
        dataset = keyed(scenes)
        order = sampler(dataset)
        order.skip(3 * start)
        loader = DataLoader(
            dataset,
            batch_size=3,
            sampler=order,
            num_workers=workers,
            collate_fn=lambda batch: [s['inputs'] for s in batch],
        )
        iterator = iter(loader)
        return [next(iterator) for _ in range(count)]

    through = batches(0, 5, 0)
    resumed = batches(3, 2, workers)
    for one, two in zip(through[3:], resumed, strict=True):
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a, b)


def test_generated_images_are_drawn_as_before(scenes):
    """The second group keeps its share and its order."""
    other = source(scenes, domain='other')
    both = KeyedDataset([source(scenes, rare_class=OPTIONS), other], seed=11)
    plain = KeyedDataset([source(scenes), other], seed=11)

    def second(dataset):
        first = dataset.group_sizes[0]
        order = KeyedSampler(
            dataset, batch_size=4, seed=5, generated_share=0.5
        )
        keys = [k for i in range(6) for k in order.batch_keys(i)]
        inside = [key % len(dataset) - first for key in keys]
        return [index for index in inside if index >= 0]

    assert second(both) == second(plain)
    assert len(second(both)) == 12


def test_what_is_drawn_is_said(scenes, caplog):
    logger = MMLogger.get_current_instance()
    # A run of another test may have left it at a higher level.
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        keyed(scenes, temperature=10.0)
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
    assert 'Rare-class sampling of scenes: box 0.5' in caplog.text
    assert '(2 images), ground 0.4' in caplog.text


def test_classes_can_be_chosen(scenes):
    (rare,) = keyed(scenes, classes=['ground'], min_pixels=100).datasets
    assert rare.probabilities.tolist() == [1, 0, 0]
    with pytest.raises(UserError, match="names 'car', .* ground, box, bird"):
        keyed(scenes, classes=['car'])
    with pytest.raises(DataError, match='none of bird occurs'):
        keyed(scenes, classes=['bird'])


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(temperature=0), 'temperature=0 must be greater'),
        (dict(min_pixels=-1), 'min_pixels=-1 .* must not be negative'),
        (dict(tries=0), 'tries=0 must be at least 1'),
    ],
)
def test_options_out_of_range(scenes, options, message):
    with pytest.raises(UserError, match=message):
        keyed(scenes, **options)


def test_defaults_are_the_official_values(scenes):
    with pytest.raises(DataError, match=r'min_pixels=3000: .*box \(at most'):
        KeyedDataset([source(scenes, rare_class={})])
    rare = RareClassDataset(source(scenes))
    values = (rare.temperature, rare.min_pixels, rare.min_crop_ratio)
    assert values == (0.01, 3000, 0.5) and rare.tries == 10


def test_labels_are_needed(scenes):
    images = source(
        scenes,
        data_prefix=dict(img_path='images'),
        rare_class=OPTIONS,
        pipeline=[dict(type='LoadSegImage')],
    )
    with pytest.raises(DataError, match='needs labels'):
        KeyedDataset([images])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 40))
def test_processes_share_what_one_would_draw(world, batch, iteration):
    class Group(RareClassDataset):
        """The stream alone, without files."""

        def __init__(self):
            self.probabilities = np.array([0.2, 0.8])
            self.images = [np.array([0, 1]), np.array([1, 2])]
            self.dataset = range(3)

        def __len__(self):
            return 6

    class Dataset:
        datasets = [Group()]
        group_sizes = [6]

        def __len__(self):
            return 6

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'clouds_mmseg.datasets.sampling.get_dist_info',
            lambda: (0, world),
        )
        keys = KeyedSampler(Dataset(), batch_size=batch, seed=2).batch_keys(
            iteration
        )
    alone = KeyedSampler(Dataset(), batch_size=1, seed=2)
    positions = range(
        iteration * batch * world, (iteration + 1) * batch * world
    )
    assert keys == [key for p in positions for key in alone.batch_keys(p)]
