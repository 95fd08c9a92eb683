"""Models of the zoo on our targets: tools/test.py --benchmark."""

import json
import re

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from tiny_benchmarks import write_benchmarks

from clouds_mmseg.cli.config import read_config
from clouds_mmseg.utils.cityscapes import CLASSES

ZOO = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'
SMALL = (
    '--cfg-options',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_benchmarks(tmp_path_factory.mktemp('benchmarks'), count=1)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(read_config(ZOO).model)


def save(path, model, classes=CLASSES):
    """Save as MMSegmentation 0.x did, which made most of the zoo's files."""
    meta = dict(mmseg_version='0.20.2', CLASSES=classes, PALETTE=[[1, 2, 3]])
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


def test_a_model_of_the_zoo_gets_our_table(
    run_tool, root, model, tmp_path, capsys
):
    checkpoint = save(tmp_path / 'zoo.pth', model)
    common = ('--data-root', root, '--protocol', 'native')
    status = run_tool(
        'test.py', ZOO, checkpoint, '--benchmark', 'cs2acdc', *common,
        '--work-dir', tmp_path / 'zoo', *SMALL,
    )  # fmt: skip
    assert status == 0
    out = capsys.readouterr().out
    # The same table as ours: a row a target, and their mean.
    for row in ('acdc_fog', 'acdc_night', 'acdc_rain', 'acdc_snow'):
        assert re.search(rf'\| {row} +\|', out)
    assert re.search(r'\| mean of 4 +\|', out)
    zoo = json.loads((tmp_path / 'zoo/results.json').read_text())
    assert zoo['protocol'] == 'native'
    assert zoo['checkpoint']['path'] == str(checkpoint)

    # A config of this project with the same network says the same.
    config = tmp_path / 'ours.py'
    config.write_text(
        f"""_base_ = [
    '{_base('default_runtime')}',
    '{_base('benchmarks/cs2acdc')}',
]
model = {model_text()}
test_cfg = dict(type='TestLoop')
train_dataloader = val_dataloader = val_evaluator = None
"""
    )
    status = run_tool(
        'test.py', config, checkpoint, *common,
        '--work-dir', tmp_path / 'ours', *SMALL,
    )  # fmt: skip
    assert status == 0
    ours = json.loads((tmp_path / 'ours/results.json').read_text())
    assert zoo['metrics'] == ours['metrics']
    assert zoo['domains'] == ours['domains']


def _base(name):
    from clouds_mmseg.cli.config import BASES

    return BASES / f'{name}.py'


def model_text():
    cfg = read_config(ZOO).model.to_dict()
    cfg['test_cfg'] = dict(mode='whole')
    return repr(cfg)


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (['sidewalk', 'road', *CLASSES[2:]], '19 classes: sidewalk, road, '),
        (['wall', 'door'], 'trained for 2 classes: wall, door; the test'),
    ],
)
def test_other_classes_are_one_error(
    run_tool, root, model, tmp_path, capsys, classes, message
):
    checkpoint = save(tmp_path / 'other.pth', model, classes)
    status = run_tool(
        'test.py', ZOO, checkpoint, '--benchmark', 'cs2acdc',
        '--data-root', root, '--work-dir', tmp_path / 'w',
        '--protocol', 'native', *SMALL,
    )  # fmt: skip
    assert status == 1
    err = capsys.readouterr().err
    (error,) = [ln for ln in err.splitlines() if ln.startswith('error: ')]
    assert message in error
    assert not (tmp_path / 'w/results.json').exists()


def test_a_missing_checkpoint_of_the_zoo_says_where_it_is_published(
    run_tool, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    address = 'https://example.invalid/zoo/segformer-0badcafe.pth'
    status = run_tool(
        'test.py', ZOO, address, '--benchmark', 'cs2acdc',
        '--pretrained-dir', tmp_path,
    )  # fmt: skip
    assert status == 1
    err = capsys.readouterr().err
    assert f'looked for: {tmp_path}/segformer-0badcafe.pth' in err
    assert f'published at: {address}' in err
    assert 'Traceback' not in err
