"""Loader options that contradict each other."""

import pytest
import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from torch.utils.data import DataLoader

from clouds_mmseg.engine import DGRunner
from clouds_mmseg.engine.portable_runner import consistent_loader
from clouds_mmseg.utils.errors import UserError

NUMBERS = list(range(6))
SHIPPED = dict(
    batch_size=2,
    dataset=NUMBERS,
    sampler=DefaultSampler(NUMBERS, shuffle=False),
    num_workers=0,
)


@pytest.mark.parametrize(
    'option',
    [
        dict(persistent_workers=True),
        dict(prefetch_factor=4),
        dict(multiprocessing_context='spawn'),
        dict(timeout=30),
        dict(persistent_workers=True, prefetch_factor=4, pin_memory=False),
    ],
)
def test_no_workers(option):
    loader = dict(SHIPPED, **option)
    built = DGRunner.build_dataloader(loader, seed=0)
    assert isinstance(built, DataLoader) and built.num_workers == 0
    assert [b for b in built] == [[0, 1], [2, 3], [4, 5]]
    assert set(option) <= set(loader), 'the config is left as it was'


def test_workers_keep_their_options():
    options = dict(
        SHIPPED, num_workers=2, persistent_workers=True, prefetch_factor=4
    )
    built = DGRunner.build_dataloader(options, seed=0)
    assert built.persistent_workers and built.prefetch_factor == 4


def test_a_built_loader_is_passed_on():
    loader = DataLoader(torch.arange(3), collate_fn=pseudo_collate)
    assert DGRunner.build_dataloader(loader) is loader


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(num_worker=2), "no option 'num_worker'.*'num_workers'"),
        (dict(sampler=None), 'has no sampler'),
        (dict(dataset=None), 'has no dataset'),
        (dict(num_workers=-1), 'num_workers=-1'),
        (dict(num_workers='4'), "num_workers='4'"),
        (dict(batch_size=0), 'batch_size=0'),
        (dict(shuffle=True), 'shuffle=True'),
        (dict(batch_sampler=dict(type='x'), drop_last=True), 'drop_last'),
    ],
)
def test_one_error(change, message):
    with pytest.raises(UserError, match=message):
        consistent_loader(dict(SHIPPED, **change))
