"""Trainings whose caches lie in an S3-compatible store."""

import pytest
import torch
from mmengine import fileio
from self_training_run import write_bank, write_self_training
from tiny_run import read_config

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.cli.fill_cache import fill_refiner_cache
from clouds_mmseg.cli.preflight import require_inputs
from clouds_mmseg.engine.hooks import feature_cache
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.remote import list_below


@pytest.fixture(scope='module')
def config(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp('remote_cache')
    return write_self_training(folder, tiny_data, write_bank(folder))


def refining(config, work_dir, refiner):
    cfg = read_config(config, work_dir)
    for hook in cfg.custom_hooks:
        if hook.type == 'SAMRefineHook':
            hook.refiner = refiner
    return cfg


def superpixels(address):
    return dict(type='SuperpixelRefiner', cache_dir=address)


def test_a_training_is_the_same_with_its_caches_in_a_store(
    s3_folder, config, tmp_path, monkeypatch, s3_requests, tiny_sam
):
    """Embeddings filled beforehand, features in the first run."""
    sam, embedded = tiny_sam
    said = []
    told = feature_cache.require_room

    def before_anything_is_written(store, *args):
        said.append((told(store, *args), store.sizes()))
        return said[-1][0]

    monkeypatch.setattr(
        feature_cache, 'require_room', before_anything_is_written
    )

    def read(name, place):
        refiner = dict(sam, cache_dir=f'{place}/cache')
        cfg = refining(config, tmp_path / name, refiner)
        cfg.train_cfg.update(max_iters=6, val_interval=6)
        cfg.default_hooks.checkpoint.interval = 6
        cfg.default_hooks.feature_cache = dict(
            type='FeatureCacheHook', cache_dir=f'{place}/features'
        )
        return cfg

    def train(name, place):
        del embedded[:], s3_requests[:]
        return build_runner(read(name, place)).train().state_dict()

    local = tmp_path / 'local'
    expected = train('expected', local)
    features = ArrayCache(local / 'features', 10**6).sizes()
    assert len(embedded) == len(features) == 3
    done = fill_refiner_cache(read('fill', s3_folder))
    filled = list_below(f'{s3_folder}/cache')
    assert done.images == len(filled) == 5
    assert done.folder == f'{s3_folder}/cache'
    assert done.nbytes == sum(filled.values())
    # And the predictions of three images.
    for name, puts in (('first', 2 * len(features)), ('second', 0)):
        got = train(name, s3_folder)
        assert not embedded
        assert s3_requests.count('put_object') == puts, s3_requests
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[k], got[k]) for k in expected)
    assert s3_requests.count('get_object') == 2 * len(features)
    assert list_below(f'{s3_folder}/features') == features
    for file in (local / 'cache').rglob('*.arr'):
        name = file.relative_to(local / 'cache').as_posix()
        content = fileio.get(f'{s3_folder}/cache/{name}')
        assert content == file.read_bytes()
    (of_disk, _), (first, before), (_, then) = said
    assert 'are there, the disk has' in of_disk
    assert f'Cache {s3_folder}/features/' in first and 'disk' not in first
    assert not before and len(then) == len(features)


def test_processes_share_the_filling_of_a_store(
    s3_folder, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    cfg = refining(
        config, tmp_path / 'work', superpixels(f'{s3_folder}/cache')
    )
    done = fill_refiner_cache(cfg, shared=True)
    assert done.share.done == done.share.chunks == done.images == 5
    assert len(list_below(f'{s3_folder}/cache')) == 5
    assert fileio.exists(f'{s3_folder}/cache/.work')
    assert not (tmp_path / 's3:').exists()


def wrong_key(patch):
    patch.delenv('AWS_ACCESS_KEY_ID')
    patch.delenv('AWS_SECRET_ACCESS_KEY')


@pytest.mark.parametrize(
    'change, address, why',
    [
        (wrong_key, 's3://nowhere/a', 'no credentials'),
        (
            lambda _: None,
            's3://nowhere/a',
            'nowhere/a.*: there is no such buck',
        ),
        (lambda _: None, 'oss://x/a', 'oss://x/a.*: .*need another package'),
    ],
)
def test_a_wrong_address_is_one_error_before_anything_is_built(
    s3_account, config, tmp_path, monkeypatch, change, address, why
):
    change(monkeypatch)
    s3_account()
    cfg = refining(config, tmp_path, superpixels(address))
    cfg.default_hooks.feature_cache = dict(
        type='FeatureCacheHook', cache_dir=f'{address}/features'
    )
    with pytest.raises(UserError, match=f'cache_dir=.*{why}') as caught:
        require_inputs(cfg, 'train')
    assert str(caught.value).count('cache_dir=') == 2
    if change is not wrong_key:
        with pytest.raises(UserError, match=why):
            fill_refiner_cache(cfg)
