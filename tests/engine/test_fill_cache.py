"""``clouds cache``: what training then finds, and what it refuses."""

import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from every_refiner_run import every_refiner
from mmseg.registry import MODELS
from self_training_run import write_bank, write_self_training
from tiny_run import read_config

from clouds_mmseg.cli import fill_cache
from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.utils import array_cache
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.cache import main


@pytest.fixture(scope='module')
def config(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp('fill_cache')
    return write_self_training(folder, tiny_data, write_bank(folder))


def use_refiner(config, path, refiner):
    path.write_text(
        f'_base_ = {str(config)!r}\n'
        f"custom_hooks = [dict(type='SAMRefineHook', refiner={refiner!r}, "
        'picture_interval=None), '
        "dict(type='EMATeacherHook', interval=2)]\n"
    )
    return str(path)


def test_training_computes_no_embedding_and_the_same_bits(
    tmp_path, config, tiny_sam
):
    sam, calls = tiny_sam
    changes = dict(
        train_cfg__max_iters=5,
        train_cfg__val_interval=5,
        default_hooks__checkpoint__interval=5,
    )

    def train(name):
        refiner = dict(sam, cache_dir=str(tmp_path / name))
        path = use_refiner(config, tmp_path / f'{name}.py', refiner)
        if name == 'filled':
            main([path])
            assert len(calls) == 5
            main([path, '--shared'])
            # All are there.
            assert len(calls) == 5
            del calls[:]
        cfg = read_config(path, tmp_path / f'{name}_run', **changes)
        return build_runner(cfg).train().state_dict()

    expected = train('empty')
    assert calls
    del calls[:]
    got = train('filled')
    assert not calls
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    for path in (tmp_path / 'empty').rglob('*.arr'):
        same = tmp_path / 'filled' / path.relative_to(tmp_path / 'empty')
        assert same.read_bytes() == path.read_bytes()


def test_each_refiner_finds_what_was_kept(
    tmp_path, promptable, monkeypatch, tiny_sam
):
    del tiny_sam
    draw = np.random.default_rng(0)
    image = torch.from_numpy(draw.integers(0, 256, (3, 32, 64), np.uint8))
    label = torch.arange(64).div(22, rounding_mode='floor').expand(32, 64)
    confidence = torch.full((32, 64), 0.5)

    def refuse(*args, **kwargs):
        raise AssertionError('computed again')

    # An embedding of several maps; the other families are of the same class.
    for cfg in every_refiner(promptable, tmp_path / 'cache', ['sam2']):
        refiner = MODELS.build(cfg)
        given = (image, label, confidence)
        given = given if cfg['type'] == 'ConceptRefiner' else given[:2]
        expected = refiner(*given)
        shutil.rmtree(refiner.cache.folder)
        assert refiner.cache.size(refiner.fill_cache(image))
        with monkeypatch.context() as patch:
            segments = getattr(refiner, 'superpixels', None) or refiner
            for holder, name in (
                (getattr(refiner, 'sam', None), 'embed'),
                (getattr(refiner, 'model', None), 'scores'),
                (segments, '_function'),
            ):
                if hasattr(holder, name):
                    patch.setattr(holder, name, refuse)
            assert torch.equal(refiner(*given), expected), cfg
        # It would be computed, if it were not kept.
        shutil.rmtree(refiner.cache.folder)


def test_the_size_is_told_and_what_does_not_fit_is_refused(
    tmp_path, config, monkeypatch
):
    folder = tmp_path / 'cache'
    refiner = dict(type='SuperpixelRefiner', cache_dir=str(folder))
    said = []
    monkeypatch.setattr(fill_cache, 'print_log', lambda s, *_: said.append(s))

    def fill(**changes):
        path = use_refiner(config, tmp_path / 'x.py', refiner | changes)
        return fill_cache.fill_refiner_cache(read_config(path, tmp_path / 'w'))

    with pytest.raises(UserError, match='5 images.* give at least') as caught:
        fill(cache_bytes=4000)
    assert len(list(folder.rglob('*.arr'))) == 1
    usage = namedtuple('usage', 'free')
    with monkeypatch.context() as patch:
        patch.setattr(array_cache.shutil, 'disk_usage', lambda _: usage(10))
        with pytest.raises(UserError, match='free: make room'):
            fill()
    least = str(caught.value).partition('at least cache_bytes=')[2]
    done = fill(cache_bytes=int(least.partition(',')[0]))
    assert done.images == len(list(folder.rglob('*.arr'))) == 5
    assert done.nbytes == sum(p.stat().st_size for p in folder.rglob('*.arr'))
    assert 'keeps of 5 images, each as large as the first' in said[-1]
    # What cannot be kept is no success.
    shutil.rmtree(folder)
    monkeypatch.setattr(fill_cache.ArrayCache, 'put', lambda *_: None)
    with pytest.raises(UserError, match='could not be written'):
        fill()


def test_configs_without_such_a_cache_are_refused(tmp_path, config):
    def refuse(why, refiner, **changes):
        path = use_refiner(config, tmp_path / 'x.py', refiner)
        with pytest.raises(UserError, match=why):
            fill_cache.fill_refiner_cache(
                read_config(path, tmp_path / 'w', **changes)
            )

    kept = dict(type='SuperpixelRefiner', cache_dir=str(tmp_path / 'cache'))
    refuse('SuperpixelRefiner has no cache_dir', dict(type=kept['type']))
    refuse('no SAMRefineHook', kept, custom_hooks=[])
    datasets = read_config(config, tmp_path).train_dataloader.dataset.datasets
    changed = 'train_dataloader__dataset__datasets'
    refuse('no unlabelled images', kept, **{changed: datasets[:1]})
    steps = datasets[1].pipeline
    datasets[1].pipeline = [steps[0], steps[2], *steps[1:]]
    refuse('RandomFlip stands before', kept, **{changed: datasets})
    assert not list((tmp_path / 'cache').rglob('*.arr'))
