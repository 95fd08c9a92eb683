import json
from argparse import Namespace

import pytest
import timm
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from safetensors import safe_open
from tiny_run import read_config, write_config

from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import read_content


def results_of(work_dir):
    return json.loads((work_dir / 'results.json').read_text())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_what_is_published_tests_the_same(
    run_tool, trained, tmp_path, capsys, suffix
):
    config, checkpoint = trained
    target = tmp_path / f'tiny{suffix}'
    assert run_tool('publish_model.py', checkpoint, target) == 0
    out = capsys.readouterr().out
    assert sha256_of(target) in out
    assert 'ground, sky, box' in out and 'optimizer' in out
    assert target.stat().st_size < 0.7 * checkpoint.stat().st_size
    content = read_content(target)
    assert content.keys() == {'meta', 'state_dict'}
    meta = content['meta']
    assert meta['source']['sha256'] == sha256_of(checkpoint)
    assert meta['iter'] == 4 and "type='FCNHead'" in meta['cfg']
    before = read_content(checkpoint)['state_dict']
    assert all(
        torch.equal(content['state_dict'][k], before[k]) for k in before
    )

    for name, file in (('a', checkpoint), ('b', target)):
        work_dir = ('--work-dir', tmp_path / name)
        assert run_tool('test.py', config, file, *work_dir) == 0
    old, new = results_of(tmp_path / 'a'), results_of(tmp_path / 'b')
    assert old['metrics'] == pytest.approx(new['metrics'], nan_ok=True)
    assert new['iteration'] == 4


def test_training_starts_from_it_and_does_not_resume(
    run_tool, trained, tmp_path, capsys
):
    config, checkpoint = trained
    target = tmp_path / 'tiny.safetensors'
    assert run_tool('publish_model.py', checkpoint, target) == 0
    train = ('train.py', config, '--work-dir', tmp_path / 'work')
    short = ('train_cfg.max_iters=1', 'train_cfg.val_interval=9')
    options = ('--cfg-options', f'load_from={target}', *short)
    assert run_tool(*train, *options) == 0
    assert f'Loaded the checkpoint {target}' in capsys.readouterr().out
    assert run_tool(*train, '--resume', target) == 1
    err = capsys.readouterr().err
    assert 'no state of an optimiser' in err and 'load_from=' in err


def test_teacher_and_config(run_tool, trained, tmp_path, capsys):
    config, _ = trained
    source, target = tmp_path / 'a.pth', tmp_path / 'b.safetensors'
    weights = {'decode_head.w': torch.ones(2), 'teacher.steps': torch.ones(1)}
    torch.save({'state_dict': weights}, source)
    assert run_tool('publish_model.py', source, target) == 0
    out = capsys.readouterr().out
    assert 'give one with --config' in out and 'not known' in out
    assert len(read_content(target)['state_dict']) == 2
    assert (
        run_tool(
            'publish_model.py',
            *(source, target, '--without-teacher', '--config', config),
        )
        == 0
    )
    out = capsys.readouterr().out
    assert 'teacher (1 tensors)' in out and 'ground, sky, box' in out
    assert 'its config names paths of this machine: /' in out
    with safe_open(target, 'pt') as file:
        assert list(file.keys()) == ['decode_head.w']
        classes = json.loads(file.metadata()['dataset_meta'])['classes']
    assert classes == ['ground', 'sky', 'box']


@pytest.fixture
def on_a_tower(tmp_path, tool_data):
    """Config and checkpoint of a model on a frozen backbone, untrained."""
    tower = tmp_path / 'tower.pth'
    torch.manual_seed(0)
    torch.save(timm.create_model('test_efficientnet').state_dict(), tower)
    cfg = read_config(write_config(tmp_path / 'a.py', tool_data), tmp_path)
    cfg.model.type = 'DGSegmentor'
    cfg.model.backbone = dict(
        type='FrozenTIMMBackbone',
        model_name='test_efficientnet',
        weights=str(tower),
    )
    init_default_scope('mmseg')
    widths = MODELS.build(cfg.model.backbone).channels
    cfg.model.decode_head.in_channels = widths[-1]
    cfg.dump(tmp_path / 'tower.py')
    model = MODELS.build(cfg.model)
    meta = dict(cfg=cfg.pretty_text, iter=0)
    content = dict(state_dict=model.state_dict(), meta=meta)
    torch.save(content, tmp_path / 'whole.pth')
    return tmp_path / 'tower.py', tmp_path / 'whole.pth', tower


def test_a_file_without_its_backbone_tests_the_same(
    run_tool, on_a_tower, tmp_path, capsys
):
    config, whole, tower = on_a_tower
    light = tmp_path / 'light.safetensors'
    words = (whole, light, '--without-backbone')
    assert run_tool('publish_model.py', *words) == 0
    assert 'left out     frozen backbone' in capsys.readouterr().out
    assert all('backbone' not in k for k in read_content(light)['state_dict'])
    for name, file in (('a', whole), ('b', light)):
        work_dir = ('--work-dir', tmp_path / name)
        assert run_tool('test.py', config, file, *work_dir) == 0
    old, new = results_of(tmp_path / 'a'), results_of(tmp_path / 'b')
    assert old['domains'] == new['domains']
    assert old['warnings'] == new['warnings']
    # Training from it, and a test after the file of the backbone is gone.
    train = ('train.py', config, '--work-dir', tmp_path / 'work')
    short = ('train_cfg.max_iters=1', 'train_cfg.val_interval=9')
    options = ('--cfg-options', f'load_from={light}', *short)
    assert run_tool(*train, *options) == 0
    capsys.readouterr()
    sha256 = sha256_of(tower)
    tower.unlink()
    assert run_tool('test.py', config, light) == 1
    err = capsys.readouterr().err
    assert str(light) in err and 'tower.pth' in err and sha256 in err
    assert 'CLOUDS_PRETRAINED_DIR' in err and 'Traceback' not in err


def test_a_pickle_with_code_needs_trust(run_tool, tmp_path, capsys):
    source, target = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(
        {'state_dict': {'w': torch.ones(1)}, 'args': Namespace(lr=1)}, source
    )
    assert run_tool('publish_model.py', source, target) == 1
    err = capsys.readouterr().err
    assert 'argparse.Namespace' in err
    assert 'clouds publish ' in err and '--trust' in err
    assert run_tool('publish_model.py', source, target, '--trust') == 0
    assert read_content(target)['state_dict'].keys() == {'w'}


def test_bad_arguments(run_tool, tmp_path, capsys):
    source = tmp_path / 'a.pth'
    torch.save({'w': torch.ones(1)}, source)
    for arguments, message in {
        (source, source): 'is the source',
        (source, 'x.pkl'): 'not as .pkl',
        ('none.pth', 'x.pth'): 'no such file',
        (source, 'x.pth', '--config', 'no.py'): '--config no.py',
    }.items():
        assert run_tool('publish_model.py', *arguments) == 1
        err = capsys.readouterr().err
        assert err.count('\n') == 1 and message in err
