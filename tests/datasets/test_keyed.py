"""Keyed samples and the batches made of them."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from mmengine.dataset import BaseDataset
from torch.utils.data import DataLoader

from clouds_mmseg.datasets import sampling as keyed_sampler
from clouds_mmseg.datasets.sampling import (
    EMPTY,
    KeyedDataset,
    KeyedSampler,
    ShuffledStream,
    collate_present,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import mix_seed


class Numbers(BaseDataset):
    """A dataset of numbers with random noise."""

    def __init__(self, first, count):
        self.numbers = range(first, first + count)
        super().__init__(pipeline=[], serialize_data=False)

    def load_data_list(self):
        return [dict(number=n) for n in self.numbers]

    def prepare_data(self, idx):
        return self.get_data_info(idx)['number'], np.random.rand()


def make_dataset(source=7, generated=4, seed=3):
    groups = [Numbers(0, source)]
    if generated:
        groups.append(Numbers(100, generated))
    return KeyedDataset(groups, seed=seed)


def make_sampler(monkeypatch, rank=0, world=1, **kwargs):
    monkeypatch.setattr(keyed_sampler, 'get_dist_info', lambda: (rank, world))
    kwargs = dict(batch_size=4, seed=5) | kwargs
    return KeyedSampler(make_dataset(), **kwargs)


def take(loader, count):
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def test_mix_seed_depends_on_every_number():
    seeds = {mix_seed(*n) for n in [(0, 0), (0, 1), (1, 0), (1, 1), (1,)]}
    assert len(seeds) == 5


def test_stream_is_one_permutation_after_another():
    stream = ShuffledStream(6, seed=1)
    drawn = [stream[i] for i in range(18)]
    epochs = [drawn[i : i + 6] for i in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert stream[3] == drawn[3]


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_batches_do_not_depend_on_workers_or_what_came_before(
    monkeypatch, workers
):
    kwargs = dict(warmup_iters=2, generated_share=0.3)
    reference = take(
        DataLoader(
            make_dataset(),
            batch_size=4,
            sampler=make_sampler(monkeypatch, **kwargs),
        ),
        8,
    )
    sampler = make_sampler(monkeypatch, **kwargs)
    sampler.skip(5 * 4)
    np.random.seed(workers)
    resumed = take(
        DataLoader(
            make_dataset(),
            batch_size=4,
            sampler=sampler,
            num_workers=workers,
        ),
        3,
    )
    for a, b in zip(reference[5:], resumed, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert len({x.item() for batch in reference for x in batch[1]}) == 32


@settings(max_examples=40, deadline=None)
@given(
    share=st.fractions(0, Fraction(99, 100)),
    batch=st.integers(1, 9),
    warmup=st.integers(0, 5),
    world=st.integers(1, 3),
)
def test_share_is_kept_to_within_one_sample(share, batch, warmup, world):
    with pytest.MonkeyPatch.context() as monkeypatch:
        sampler = make_sampler(
            monkeypatch,
            world=world,
            batch_size=batch,
            warmup_iters=warmup,
            generated_share=float(share),
        )
    generated = 0
    positions = []
    for iteration in range(warmup + 12):
        keys = sampler.batch_keys(iteration)
        assert len(keys) == batch * world
        positions += [key // 11 for key in keys]
        fresh = sum(key % 11 >= 7 for key in keys)
        if iteration < warmup:
            assert fresh == 0
        generated += fresh
        since = (iteration + 1 - warmup) * batch * world
        expected = max(since, 0) * float(share)
        assert abs(generated - expected) < 1 + 1e-3
    assert positions == list(range(len(positions)))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 6),
    beside=st.integers(1, 3),
    warmup=st.integers(0, 5),
    world=st.integers(1, 3),
)
def test_samples_beside_leave_the_labelled_ones_as_they_are(
    batch, beside, warmup, world
):
    with pytest.MonkeyPatch.context() as monkeypatch:
        plain = make_sampler(monkeypatch, world=world, batch_size=batch)
        sampler = make_sampler(
            monkeypatch,
            world=world,
            batch_size=batch + beside,
            warmup_iters=warmup,
            generated_beside=beside,
        )
    positions = []
    for iteration in range(warmup + 8):
        keys = sampler.batch_keys(iteration)
        assert len(keys) == (batch + beside) * world
        expected = plain.batch_keys(iteration)
        if iteration < warmup:
            assert keys == expected + [EMPTY] * beside * world
        else:
            labelled = keys[: batch * world]
            assert [k % 11 for k in labelled] == [k % 11 for k in expected]
            assert all(k % 11 >= 7 for k in keys[batch * world :])
        positions += [key // 11 for key in keys if key != EMPTY]
    assert positions == list(range(len(positions)))
    assert sampler.least_labelled() == batch * world


@pytest.mark.parametrize(
    'batch, world, share, least',
    [(8, 1, 0.25, 6), (8, 1, 0.3, 5), (1, 2, 0.5, 1), (2, 1, 0.9, 0)],
)
def test_least_number_of_labelled_samples(
    monkeypatch, batch, world, share, least
):
    kwargs = dict(batch_size=batch, world=world, generated_share=share)
    sampler = make_sampler(monkeypatch, **kwargs)
    assert sampler.least_labelled() == least
    counts = [
        sum(k % 11 < 7 for k in sampler.batch_keys(i)) for i in range(40)
    ]
    assert min(counts) == least


def test_empty_places_are_dropped():
    dataset = make_dataset()
    assert dataset[EMPTY] is None
    batch = collate_present([dict(x=1), None, dict(x=2), None])
    assert batch == dict(x=[1, 2])


def test_every_source_image_is_used_once_an_epoch(monkeypatch):
    sampler = make_sampler(monkeypatch, warmup_iters=1, generated_share=0.5)
    keys = [k for i in range(13) for k in sampler.batch_keys(i)]
    source = [k % 11 for k in keys if k % 11 < 7]
    generated = [k % 11 - 7 for k in keys if k % 11 >= 7]
    assert len(source) == 4 + 24
    assert [source.count(i) for i in range(7)] == [4] * 7
    assert [generated.count(i) for i in range(4)] == [6] * 4


def test_processes_share_each_batch_and_both_groups(monkeypatch):
    kwargs = dict(batch_size=2, generated_share=0.5)
    whole = make_sampler(monkeypatch, world=2, **kwargs).batch_keys(3)
    parts = []
    for rank in range(2):
        sampler = make_sampler(monkeypatch, rank=rank, world=2, **kwargs)
        sampler.skip(3 * 2)
        parts.append(take(sampler, 2))
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    for part in parts:
        assert sorted(key % 11 >= 7 for key in part) == [False, True]


def test_one_group_needs_no_share():
    sampler = KeyedSampler(make_dataset(generated=0), batch_size=3, seed=1)
    assert len(sampler) == 7
    assert len(set(take(sampler, 7))) == 7


@pytest.mark.parametrize(
    'dataset, share, message',
    [
        (make_dataset(generated=0), 0.5, 'two groups'),
        (make_dataset(), 1.0, r'lie in \[0, 1\)'),
        (make_dataset(), -0.1, r'lie in \[0, 1\)'),
    ],
)
def test_impossible_mixtures_are_refused(dataset, share, message):
    with pytest.raises(UserError, match=message):
        KeyedSampler(dataset, batch_size=2, generated_share=share)
