import json
import os
import pickle

import pytest
import tiny_run
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmseg.models import ResNet
from safetensors import safe_open
from safetensors.torch import save_file

from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.weights.io import read_content, read_state_dict

RN50 = """
model = dict(
    type={type!r},
    backbone=dict(type='CLIPBackbone', model_name='RN50', pretrained='openai'),
    decode_head=dict(type='CLOUDSHead', num_classes=19),
    data_preprocessor=model['data_preprocessor'],
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
"""


@pytest.fixture(scope='module')
def manifest(reference_dir):
    """Read a manifest as weights: one random number each, no storage."""

    def read(name):
        path = reference_dir / f'{name}_keys.json'
        generator = torch.Generator().manual_seed(0)
        return {
            key: torch.tensor(7)
            if key.endswith('num_batches_tracked')
            else 0.01 * torch.rand((), generator=generator).expand(shape)
            for key, shape in json.loads(path.read_text()).items()
        }

    return read


@pytest.fixture(scope='module')
def tiny_head(reference_dir):
    path = reference_dir / 'clouds_official_head_linear_tiny.safetensors'
    with safe_open(path, 'pt') as file:
        return {
            key.removeprefix('state.'): file.get_tensor(key)
            for key in file.keys()
            if key.startswith('state.')
        }


@pytest.fixture
def city_config(tmp_path, tool_data):
    """Write the tiny config with Cityscapes' classes and a model."""

    def write(name, model):
        text = tiny_run._TEXT.format(
            runtime=str(tiny_run.RUNTIME),
            classes=CLASSES,
            palette=PALETTE,
            root=str(tool_data),
        )
        path = tmp_path / f'{name}_{os.getpid()}.py'
        path.write_text(text + model)
        return path

    return write


def results_of(work_dir):
    return json.loads((work_dir / 'results.json').read_text())


def test_an_official_checkpoint_is_converted_and_tested(
    run_tool, manifest, city_config, tmp_path, capsys
):
    weights = manifest('clouds_official_rn50')
    weights.update(
        {
            key.replace('sem_seg_head.', 'sem_seg_head_ema.'): value + 1
            for key, value in weights.items()
            if key.startswith('sem_seg_head.')
        }
    )
    source = tmp_path / 'clouds_official.pth'
    state = {'state': {0: {'exp_avg': torch.ones(3)}}}
    torch.save({'model': weights, 'optimizer': state, 'iteration': 5}, source)
    ours = tmp_path / 'ours.safetensors'
    assert run_tool('convert_checkpoint.py', source, ours) == 0
    out = capsys.readouterr().out
    assert 'official CLOUDS, linear classifier, with the moving' in out
    assert 'sem_seg_head_ema.* -> teacher.module.decode_head.*' in out
    assert "CLIP's text tower" in out and '1    optimizer' in out
    assert '915 of 915 tensors of the model (CLIPBackbone RN50' in out
    assert 'convert with --config clouds_mmseg::warmup/gta2cs_r50.py' in out

    config = city_config('clouds', RN50.format(type='SelfTrainingSegmentor'))
    assert (
        run_tool(
            'test.py',
            config,
            ours,
            *('--work-dir', tmp_path / 'work'),
        )
        == 0
    )
    assert results_of(tmp_path / 'work')['checkpoint']['path'] == str(ours)
    # A model without teacher gets what its config describes.
    plain = city_config('plain', RN50.format(type='DGSegmentor'))
    command = ('convert_checkpoint.py', source, tmp_path / 'plain.pth')
    assert run_tool(*command, '--config', plain) == 0
    out = capsys.readouterr().out
    assert '292    sem_seg_head_ema.*: the model of the config has no' in out
    found = read_content(tmp_path / 'plain.pth')
    assert len(found['state_dict']) == 622
    meta = found['meta']
    assert meta['dataset_meta']['classes'] == list(CLASSES)
    assert 'CLIPBackbone' in meta['cfg']
    assert meta['source']['kind'] == 'clouds'


ZOO = """
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN')),
    decode_head=dict(
        type='CLOUDSHead',
        in_channels=[256, 512, 1024, 2048],
        num_classes=NUM,
    ),
    data_preprocessor=model['data_preprocessor'],
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
"""


def test_a_zoo_checkpoint_is_tested_unconverted(
    run_tool, manifest, city_config, tmp_path, capsys
):
    torch.manual_seed(0)
    weights = manifest('mask2former_r50_cityscapes_zoo')
    weights.update(
        {f'backbone.{k}': v for k, v in ResNet(50).state_dict().items()}
    )
    # As the zoo's files of 2022 are: classes in capitals, log buffers.
    content = dict(
        meta=dict(
            dataset_meta=dict(CLASSES=CLASSES, PALETTE=PALETTE),
            mmengine_version='0.3.1',
            iter=90000,
        ),
        state_dict=weights,
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))),
    )
    zoo = tmp_path / 'mask2former_r50_8xb2-90k_cityscapes.pth'
    torch.save(content, zoo)
    config = city_config('zoo', ZOO.replace('NUM', '19'))
    work = tmp_path / 'work'
    command = ('test.py', config, zoo, '--work-dir', work)
    assert run_tool(*command) == 0
    assert results_of(work)['iteration'] == 90000

    other = city_config('zoo20', ZOO.replace('NUM', '3'))
    assert run_tool('test.py', other, zoo, '--work-dir', work) == 1
    err = capsys.readouterr().err
    assert 'num_classes is 3' in err or 'trained for 19 classes' in err


def test_back_and_forth(run_tool, tiny_head, tmp_path, capsys):
    source = tmp_path / 'm2f.pkl'
    arrays = {key: value.numpy() for key, value in tiny_head.items()}
    source.write_bytes(pickle.dumps({'model': arrays, '__author__': 'x'}))
    ours, there = tmp_path / 'ours.safetensors', tmp_path / 'back.pkl'
    convert = 'convert_checkpoint.py'
    assert run_tool(convert, source, ours, '--from', 'mask2former') == 0
    assert run_tool(convert, ours, there, '--to', 'mask2former') == 0
    found = read_state_dict(there)
    assert found.pop('criterion.empty_weight').shape == (6,)
    assert found.keys() == tiny_head.keys()
    assert all(torch.equal(found[k], v) for k, v in tiny_head.items())
    capsys.readouterr()
    assert run_tool(convert, ours, there, '--to', 'mask2former', '--list') == 0
    out = capsys.readouterr().out.splitlines()
    assert sum(' -> ' in line for line in out) == len(tiny_head)


@pytest.mark.parametrize('prefix', ['module.', 'model.', 'module.model.'])
def test_prefixes_of_wrappers(run_tool, tiny_head, tmp_path, prefix):
    source, ours = tmp_path / 'm2f.pth', tmp_path / 'ours.pth'
    torch.save(
        {'model': {prefix + k: v for k, v in tiny_head.items()}}, source
    )
    assert run_tool('convert_checkpoint.py', source, ours) == 0
    weights = read_state_dict(ours)
    value = weights['decode_head.query_feat.weight']
    assert torch.equal(
        value, tiny_head['sem_seg_head.predictor.query_feat.weight']
    )


TEXT = """
model = dict(
    type='DGSegmentor',
    backbone=dict(type='FrozenTIMMBackbone', model_name='resnet18', weights=1),
    decode_head=dict(
        type='CLOUDSHead',
        num_classes=3,
        classifier=dict(
            type='text',
            text_embeddings=dict(
                classes=classes, model_name='RN50', pretrained='openai'
            ),
        ),
    ),
)
"""


def test_a_text_config_needs_no_text_tower(tmp_path):
    """Only the model's shapes are wanted; nothing is fetched."""
    from clouds_mmseg.conversion.target_spec import spec_from_config

    path = tmp_path / 'text.py'
    path.write_text(f'classes = {list("abc")}\n' + TEXT)
    void = 'decode_head.cls_embed.void_embedding.weight'
    wanted, _, cfg = spec_from_config(path, {void: torch.zeros(1, 12)})
    assert wanted[void] == (1, 12)
    assert 'backbone.model.conv1.weight' in wanted or any(
        key.startswith('backbone.') for key in wanted
    )
    assert isinstance(cfg, Config)
    assert cfg.model.backbone.weights == 1


def web_page(path, head):
    path.write_text('<!DOCTYPE html><html>log in</html>')


def truncated(path, head):
    torch.save({'model': head}, path)
    path.write_bytes(path.read_bytes()[:-4000])


def another_project(path, head):
    save_file({'fc.weight': torch.ones(1)}, path.with_suffix('.safetensors'))
    path.write_bytes(path.with_suffix('.safetensors').read_bytes())


def malicious(path, head):
    class Evil:
        def __reduce__(self):
            return (open, (str(path.parent / 'was_here'), 'w'))

    torch.save({'model': head, 'x': Evil()}, path)


def half(path, head):
    torch.save({k: v for k, v in list(head.items())[:-9]}, path)


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (web_page, 'is a web page'),
        (truncated, 'truncated'),
        (another_project, 'source.pth'),
        (malicious, 'needs code'),
        (half, '9 keys missing'),
    ],
)
def test_bad_files_are_one_error(
    run_tool, tiny_head, tmp_path, capsys, write, message
):
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    write(source, tiny_head)
    assert run_tool('convert_checkpoint.py', source, target) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and message in err
    assert 'Traceback' not in err
    assert not target.exists() and not (tmp_path / 'was_here').exists()


HEAD = """
model = dict(
    type='DGSegmentor',
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    decode_head=dict(
        type='CLOUDSHead',
        in_channels=[8, 16, 32, 64],
        num_classes=19,
        feat_channels=32,
        out_channels=32,
        num_queries=5,
        num_encoder_layers=1,
        num_decoder_layers=1,
    ),
)
"""


def test_other_classes_than_the_config_are_named(
    run_tool, tiny_head, city_config, tmp_path, capsys
):
    source = tmp_path / 'source.pth'
    torch.save(tiny_head, source)
    config = city_config('head', HEAD)
    command = ('convert_checkpoint.py', source, tmp_path / 'x.pth')
    assert run_tool(*command, '--config', config) == 1
    err = capsys.readouterr().err
    assert 'was trained for 5 classes, the model of this config has 19' in err
    assert 'road, sidewalk' in err and 'does not fit the model of' in err


def test_bad_arguments(run_tool, tiny_head, tmp_path, capsys):
    source = tmp_path / 'source.pth'
    torch.save(tiny_head, source)
    expected = {
        (source, source): 'is the source',
        (source, 'x.txt'): 'not as .txt',
        (source, 'x.pkl'): 'not as .pkl',
        ('none.pth', 'x.pth'): 'no such file',
        (source, 'x.pth', '--to', 'clouds'): 'convert it to ours first',
        (source, 'x.pth', '--from', 'clouds'): '--from clouds contradicts',
        (source, 'x.pth', '--config', 'no.py'): '--config no.py',
    }
    for arguments, message in expected.items():
        assert run_tool('convert_checkpoint.py', *arguments) == 1
        err = capsys.readouterr().err
        assert err.count('\n') == 1 and message in err, err
