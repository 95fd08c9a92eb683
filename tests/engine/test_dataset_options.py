"""Settings of a data set in one place."""

import pytest
from mmengine.config import Config

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.engine.dataset_options import (
    apply_dataset_options,
    warn_of_test_left_behind,
)
from clouds_mmseg.utils.errors import UserError


def read(repo_root, name, **options):
    cfg = Config.fromfile(repo_root / 'configs' / f'{name}.py')
    cfg.merge_from_dict(
        {f'dataset_options.{k}': v for k, v in options.items()}
    )
    apply_dataset_options(cfg)
    return cfg


def roots(cfg, split):
    leaves = dataset_configs(cfg[f'{split}_dataloader'].dataset)
    return [leaf.get('data_root') or leaf.get('bank') for leaf in leaves]


def test_one_domain_moves_everywhere(repo_root):
    cfg = read(repo_root, 'clouds/gta2cs', **{'gta5.data_root': '/a'})
    assert roots(cfg, 'train') == ['/a', 'data/generated']
    cfg = read(
        repo_root,
        'clouds/gta2cs',
        **{'cityscapes.data_root': '/c', 'mapillary.skip': ['x']},
    )
    expected = ['/c', 'data/bdd100k', 'data/mapillary']
    assert roots(cfg, 'val') == roots(cfg, 'test') == expected
    assert list(dataset_configs(cfg.test_dataloader.dataset))[2].skip == ['x']
    assert 'dataset_options' not in cfg


def test_photographs_of_one_folder(repo_root):
    cfg = read(
        repo_root,
        'custom/camvid_day2dusk',
        **{'all.data_root': '/p', 'camvid_dusk.data_root': '/q'},
    )
    assert roots(cfg, 'train') == ['/p']
    assert roots(cfg, 'val') == roots(cfg, 'test') == ['/p', '/q']


def test_conditions_have_domains(repo_root):
    cfg = read(repo_root, 'warmup/cs2acdc', **{'acdc_night.data_root': '/n'})
    assert roots(cfg, 'val') == ['data/acdc', '/n', 'data/acdc', 'data/acdc']


def test_a_bank_moves_with_its_dataset_and_its_maker(repo_root):
    cfg = read(repo_root, 'toycity/clouds', **{'generated.bank': '/b'})
    assert roots(cfg, 'train')[1] == cfg.banks[0].out == '/b'
    hooks = [h for h in cfg.custom_hooks if 'dataset' in h]
    assert [h.dataset.bank for h in hooks] == ['/b']


def test_places_that_would_become_one(repo_root):
    with pytest.raises(UserError, match='would become the same'):
        read(repo_root, 'toycity/warmup', **{'toycity_source.data_root': '/s'})
    cfg = read(
        repo_root, 'toycity/warmup', **{'train.toycity_source.data_root': '/s'}
    )
    assert roots(cfg, 'train') == ['/s']
    assert roots(cfg, 'val')[0] == 'data/toycity/source_val'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'gta.data_root': '/a'}, "'gta5'. There are: gta5, cityscapes"),
        ({'val.gta5.data_root': '/a'}, 'val.gta5 is the domain of no dataset'),
        ({'gta5.dataroot': '/a'}, "no option of GTA5Dataset; perhaps 'data_r"),
        ({'gta5': '/a'}, r"gta5='/a' is no table"),
    ],
)
def test_entries_that_mean_nothing(repo_root, options, message):
    with pytest.raises(UserError, match=message):
        read(repo_root, 'warmup/gta2cs', **options)


def test_an_override_of_validation_alone(repo_root):
    cfg = Config.fromfile(repo_root / 'configs/custom/my_dataset.py')

    def said(*keys):
        return warn_of_test_left_behind(cfg, dict.fromkeys(keys))

    one = 'val_dataloader.dataset.datasets.0.data_root'
    assert 'test_dataloader, which stays' in said(one)
    assert said(one, one.replace('val', 'test')) is None
    assert said('val_dataloader.batch_size', 'train_cfg.max_iters') is None
