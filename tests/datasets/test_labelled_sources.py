"""Several labelled sources: shares, order, rare classes, parts of a set."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from mmseg.registry import DATASETS
from PIL import Image

from clouds_mmseg.datasets import (
    DataError,
    KeyedDataset,
    KeyedSampler,
    LabelledSources,
    sampling,
)
from clouds_mmseg.datasets.labelled_sources import BLOCK, SharedStream
from clouds_mmseg.datasets.sampling import ShuffledStream
from clouds_mmseg.engine.data_check import (
    check_dataset,
    check_sampling,
    write_parts,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.result_warnings import result_warnings

CLASSES = ('a', 'b', 'c')
SIZES = dict(x=7, y=3)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two sets of the same classes, other ids; ``y`` has no class c."""
    root = tmp_path_factory.mktemp('sources')
    for name, ids in (('x', [0, 0, 0, 0, 0, 1, 2]), ('y', [5, 5, 5, 6])):
        label = np.resize(np.array(ids, np.uint8), (12, 20))
        for kind in ('images', 'labels'):
            (root / name / kind).mkdir(parents=True)
        for number in range(SIZES[name]):
            pixels = np.full((12, 20, 3), number, np.uint8)
            file = f'{number}.png'
            Image.fromarray(pixels).save(root / name / 'images' / file)
            Image.fromarray(label).save(root / name / 'labels' / file)
    return root


def config(folder, **kwargs):
    more = dict(label_map=dict(a=['a'], b=['b'], c=[]))
    more['names'] = dict(a=5, b=6)
    return dict(
        type='FolderDataset',
        domain=folder.name,
        data_root=str(folder),
        metainfo=dict(classes=CLASSES, palette=[[0] * 3] * 3),
        pipeline=[
            dict(type='LoadSegImage'),
            dict(type='LoadSegLabels'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDGInputs'),
        ],
        **(more if folder.name == 'y' else {}),
        **kwargs,
    )


def build(folders, shares=(0.7, 0.3), names='xy', **kwargs):
    return LabelledSources(
        [config(folders / n) for n in names], shares, **kwargs
    )


def keyed(folders, shares=(0.7, 0.3), **kwargs):
    sources = [config(folders / name) for name in 'xy']
    group = dict(
        type='LabelledSources', datasets=sources, shares=shares, **kwargs
    )
    return KeyedDataset([group], seed=3)


def domains(dataset, sampler, iterations):
    """Domain of each labelled sample of some iterations."""
    found = []
    for iteration in iterations:
        keys = sampler.batch_keys(iteration)
        indices = [key % len(dataset) for key in keys]
        found.append(['x' if i < SIZES['x'] else 'y' for i in indices])
    return found


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    block=st.integers(0, 50),
    seed=st.integers(0, 5),
)
def test_shares_are_exact_in_every_block(weights, block, seed):
    shares = [Fraction(w, sum(weights)) for w in weights]
    sizes = [i + 2 for i in range(len(weights))]
    first = np.cumsum([0, *sizes[:-1]])
    stream = SharedStream(
        [ShuffledStream(size, 1) for size in sizes],
        first=first,
        shares=shares,
        seed=seed,
    )
    taken = [
        stream.source_of(p) for p in range(block * BLOCK, (block + 1) * BLOCK)
    ]
    for source, share in enumerate(shares):
        numbers = [n for s, n in taken if s == source]
        end = (block + 1) * BLOCK * share
        # One after another, and none left out between blocks.
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert abs(numbers[-1] + 1 - end) <= 1
        assert abs(numbers[0] - block * BLOCK * share) <= 1
    index = stream[block * BLOCK + 3]
    source, number = taken[3]
    assert index == first[source] + stream.streams[source][number]


def test_batches_are_the_same_in_one_process_and_in_two(folders, monkeypatch):
    dataset = keyed(folders)

    def keys(rank, world, skip=0):
        monkeypatch.setattr(sampling, 'get_dist_info', lambda: (rank, world))
        sampler = KeyedSampler(dataset, batch_size=4 // world, seed=5)
        sampler.skip(skip * 4 // world)
        stream = iter(sampler)
        return [next(stream) for _ in range(80 // world)]

    single = keys(0, 1)
    pair = [keys(rank, 2) for rank in (0, 1)]
    assert [k for both in zip(*pair, strict=True) for k in both] == single
    assert keys(0, 1, skip=8)[:20] == single[32:52]
    # Each process gets both.
    assert all({k % 10 < 7 for k in keys} == {True, False} for keys in pair)
    assert dataset[single[0]] is not None


def test_measured_shares(folders, monkeypatch):
    monkeypatch.setattr(sampling, 'get_dist_info', lambda: (0, 1))
    dataset = keyed(folders, shares=[0.35, 0.65])
    sampler = KeyedSampler(dataset, batch_size=4, seed=5)
    drawn = sum(domains(dataset, sampler, range(500)), [])
    assert drawn.count('x') == 700 and drawn.count('y') == 1300
    assert drawn[:40] != drawn[1000:1040]
    # Every image of a source before one of them comes again.
    first = [k % 10 for i in range(30) for k in sampler.batch_keys(i)]
    assert sorted([i for i in first if i < 7][:7]) == list(range(7))


def test_shares_by_the_numbers_of_images(folders):
    assert build(folders, shares=None).shares == pytest.approx([0.7, 0.3])


def test_rare_classes_of_the_mixture(folders, monkeypatch):
    monkeypatch.setattr(sampling, 'get_dist_info', lambda: (0, 1))
    rare = dict(temperature=0.05, min_pixels=10, min_crop_ratio=0.5)
    dataset = keyed(folders, rare_class=rare, shares=[0.6, 0.4])
    sampler = KeyedSampler(dataset, batch_size=5, seed=5)
    keys = [k for i in range(400) for k in sampler.batch_keys(i)]
    indices = np.array([key % len(dataset) for key in keys])
    # Pairs of a class and an image: 3 x 7, then 3 x 3.
    assert len(dataset) == 30
    x = indices[indices < 21] // 7
    y = (indices[indices >= 21] - 21) // 3
    assert (len(x), len(y)) == (1200, 800)
    # y has no c; in both b is rarer than a, as it is in the mixture.
    assert np.bincount(x, minlength=3)[2] > np.bincount(x)[1] > 80
    assert np.bincount(y, minlength=3)[2] == 0
    assert np.bincount(y)[1] > 700
    p = dataset.datasets[0].datasets[0].probabilities
    share = 0.6 * np.array([5, 1, 1]) / 7 + 0.4 * np.array([3, 1, 0]) / 4
    expected = np.exp((1 - share) / 0.05)
    # 240 pixels are not exactly sevenths.
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=0.1)
    label = dataset[keys[0]]['data_samples'].gt_sem_seg.data
    assert (label == indices[0] // 7).any() or indices[0] >= 21
    check_sampling(dataset, 'train')


def test_rare_classes_of_a_single_source(folders):
    rare = dict(temperature=0.05, min_pixels=10)
    sources = [config(folders / 'x', rare_class=rare), config(folders / 'y')]
    dataset = KeyedDataset(
        [dict(type='LabelledSources', datasets=sources, shares=[0.5, 0.5])]
    )
    assert dataset.group_sizes == [3 * 7 + 3]
    check_sampling(dataset, 'train')


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(shares=[1.0]), '2 datasets and 1 shares'),
        (dict(shares=[2, 1]), r'lie in \[0\.001, 1\], got 2'),
        (dict(shares=[0.5, 0.25]), r'sum 1.*\[0\.667, 0\.333\]'),
        (dict(shares=[1.0, 0.0]), 'leave a dataset out'),
        (dict(shares=[0.5, '0.5']), "got '0.5'"),
        (dict(rare_class=dict(temperature=0)), 'temperature'),
        (dict(rare_class=dict(temprature=1)), 'temprature'),
    ],
)
def test_bad_arguments(folders, kwargs, words):
    with pytest.raises((UserError, TypeError), match=words):
        build(folders, **kwargs)


def test_sources_of_other_classes(folders):
    other = config(folders / 'x')
    other['metainfo'] = dict(classes=('a', 'c', 'b'), palette=[[0] * 3] * 3)
    with pytest.raises(UserError, match=r"x has \['a', 'c', 'b'\], x has"):
        LabelledSources([config(folders / 'x'), other], [0.5, 0.5])


def test_rare_class_twice_or_too_strict(folders):
    rare = dict(temperature=1)
    with pytest.raises(UserError, match='its dataset x'):
        LabelledSources(
            [config(folders / 'x', rare_class=rare)], [1], rare_class=rare
        )
    with pytest.raises(DataError, match=r'that of a .*b .*c '):
        build(folders, rare_class=dict(min_pixels=1000))


def test_shares_that_no_sampler_reads_are_refused(folders):
    source = build(folders)
    with pytest.raises(UserError, match="train_cfg.type='ExactTrainLoop'"):
        check_sampling(source, 'train')


def part(folders, part, **kwargs):
    return DATASETS.build(config(folders / 'x', part=part, **kwargs))


def test_part_is_chosen_by_name(folders, tmp_path):
    def names(dataset):
        return [
            dataset.list_name(dataset.get_data_info(i))
            for i in range(len(dataset))
        ]

    third, most = part(folders, '1/3'), part(folders, 6)
    assert (len(third), len(most)) == (2, 6)
    assert set(names(third)) < set(names(most))
    assert len(part(folders, '1/100')) == 1
    others = {tuple(names(part(folders, 3, part_seed=s))) for s in range(5)}
    assert len(others) > 1
    write_parts(
        LabelledSources([third, build(folders).datasets[1]], [0.5, 0.5]),
        tmp_path,
    )
    listed = tmp_path / 'part_x.txt'
    again = config(folders / 'x', ann_file=str(listed))
    assert names(DATASETS.build(again)) == names(third)
    assert [p.name for p in tmp_path.iterdir()] == ['part_x.txt']
    check_dataset(third, 'val')
    assert any(
        'part of its images (2)' in w for w in result_warnings().values()
    )


@pytest.mark.parametrize('bad', ['1/0', 'half', 0, -1, 1.5, '3/2', True])
def test_parts_that_are_none(folders, bad):
    with pytest.raises(UserError, match='part must be a fraction'):
        part(folders, bad)
    with pytest.raises(DataError, match='more images than the 7'):
        part(folders, 8)
