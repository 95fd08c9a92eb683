"""From a config to what is said about its data."""

import argparse
import shlex

import pytest
from mmengine.config import Config
from tiny_run import read_config, write_config, write_data

from clouds_mmseg.cli.config import add_common_arguments, load_config
from clouds_mmseg.cli.data import config_command, config_tasks, verify_data
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import UserError


def test_every_dataset_of_a_config_once(tiny_config, tmp_path):
    cfg = read_config(tiny_config, tmp_path)
    tasks = config_tasks(cfg)
    assert [(t.name, t.training) for t in tasks] == [
        ('train day', True),
        ('val day', False),
        ('val dusk', False),
        ('test day', False),
        ('test dusk', False),
    ]
    # The test datasets are those of validation.
    fine, text = verify_data(tasks, command='x', workers=1)
    assert fine and 'No open errors.' in text
    assert 'val dusk' in text and 'test dusk' not in text
    # Nothing that a pipeline needs is asked for.
    assert not any(t.dataset.pipeline.transforms for t in tasks)


def test_equal_names_are_numbered(tiny_config, tmp_path):
    cfg = read_config(tiny_config, tmp_path)
    cfg.val_dataloader.dataset.datasets[1].domain = 'day'
    cfg.test_dataloader = None
    names = [task.name for task in config_tasks(cfg)]
    assert names == ['train day', 'val day', 'val day 2']


def test_all_that_is_bad_is_listed(tmp_path):
    data = write_data(tmp_path / 'bad')
    cut = data / 'day_train' / 'images' / '001.png'
    cut.write_bytes(cut.read_bytes()[:200])
    (data / 'dusk_val' / 'labels' / '002.png').unlink()
    for path in (data / 'day_val').rglob('*.png'):
        path.unlink()
    config = write_config(tmp_path / 'bad.py', data)
    tasks = config_tasks(read_config(config, tmp_path))
    fine, text = verify_data(tasks, command='the command', workers=1)
    assert not fine
    assert 'train day: error: images that cannot be read: 1' in text
    assert 'image images/002.png has no label labels/002.png' in text
    assert 'found no image *.png in' in text
    assert 'the command --fix' in text


def test_a_decision_that_cannot_be_kept_is_an_error(
    tiny_config, tmp_path, monkeypatch
):
    tasks = config_tasks(read_config(tiny_config, tmp_path))
    monkeypatch.setattr('clouds_mmseg.cli.data.keep', lambda reports: False)
    with pytest.raises(UserError, match='decision cannot be kept'):
        verify_data(tasks, command='x', workers=1, action='accept')


def test_a_config_without_data():
    with pytest.raises(UserError, match='names no dataset'):
        config_tasks(Config(dict(model=None)))


def test_the_command_can_be_repeated(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    words = [str(tiny_config), '--data-root', str(tmp_path), '--cfg-options']
    options = [
        'load_cfg.b=[1,2]',
        'experiment_name=two words',
        "load_cfg.d='1'",
        'load_cfg.e=[x y, None]',
    ]
    args = parser.parse_args([*words, *options])
    said = shlex.split(config_command(args))
    assert said[:4] == ['clouds', 'verify', '--config', str(tiny_config)]
    again = parser.parse_args(said[3:])
    assert (
        again.cfg_options
        == args.cfg_options
        == {
            'load_cfg.b': [1, 2],
            'experiment_name': 'two words',
            'load_cfg.d': '1',
            'load_cfg.e': ['x y', None],
        }
    )
    load_config(again)
    assert resolve_data_root('data/x') == str(tmp_path / 'x')
