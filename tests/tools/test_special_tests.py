"""tools/test.py under corruptions and for the servers."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from clouds_mmseg.evaluation import submission
from clouds_mmseg.evaluation.submission import check_submission

_SERVED = """
_base_ = {base!r}
pipeline = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='Resize', scale=(64, 16), keep_ratio=True),
    dict(type='EvaluateAtInputSize'),
    dict(type='PackDGInputs'),
]
model = dict(decode_head=dict(num_classes=19))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='ACDCDataset',
                data_root='data/acdc',
                condition='fog',
                pipeline=pipeline,
            ),
            dict(
                type='CityscapesDGDataset',
                data_root='data/cityscapes',
                pipeline=pipeline,
            ),
            dict(
                type='BDD100KDGDataset',
                data_root='data/nowhere',
                pipeline=pipeline,
            ),
        ],
    )
)
"""


def checkpoint_of(config):
    """Random weights for a config, saved beside it."""
    cfg = Config.fromfile(config)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    path = config.with_suffix('.pth')
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def served(tiny_config, tmp_path, monkeypatch):
    """A config that tests on two sets with servers, whose splits are tiny."""
    for server, count in (('acdc', 1), ('cityscapes', 2)):
        rules = dataclasses.replace(
            submission.SERVERS[server],
            size=(32, 24),
            counts=dict(test=count, val=count + 1),
        )
        monkeypatch.setitem(submission.SERVERS, server, rules)
    rng = np.random.default_rng(0)
    for name in (
        'acdc/rgb_anon/fog/test/GOPR0475/GOPR0475_frame_000041_rgb_anon.png',
        'cityscapes/leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png',
        'cityscapes/leftImg8bit/test/bonn/bonn_000001_000019_leftImg8bit.png',
    ):
        path = tmp_path / 'disk' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    path = tiny_config.with_name(f'served_{tiny_config.name}')
    path.write_text(_SERVED.format(base=str(tiny_config)))
    return path


def errors(capsys):
    lines = capsys.readouterr().err.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith('error: ')]
    assert len(starts) == 1
    said = '\n'.join(lines[starts[0] :])
    assert 'Traceback' not in said
    return said


def test_submissions_to_both_servers(run_tool, served, tmp_path, capsys):
    work_dir = tmp_path / 'work'
    command = (
        *('test.py', served, checkpoint_of(served), '--format-only'),
        *('--work-dir', work_dir, '--data-root', tmp_path / 'disk'),
    )
    assert run_tool(*command) == 0
    shown = capsys.readouterr().out
    assert 'test      acdc_fog 1, cityscapes 2' in shown
    assert '1 label maps of ACDC (test), train ids' in shown
    for server in ('acdc', 'cityscapes'):
        path = work_dir / f'submission/{server}_test.zip'
        assert check_submission(path, server) == []
    # No numbers were measured, so none are left behind.
    assert not (work_dir / 'results.json').exists()


def test_images_that_a_server_would_refuse(run_tool, served, tmp_path, capsys):
    checkpoint = checkpoint_of(served)
    command = (
        *('test.py', served, checkpoint, '--work-dir', tmp_path / 'work'),
        *('--data-root', tmp_path / 'disk', '--format-only'),
    )
    folder = tmp_path / 'disk/cityscapes/leftImg8bit/test/bonn'
    path = folder / 'bonn_000001_000019_leftImg8bit.png'
    path.rename(folder / 'bonn_1_leftImg8bit.png')
    Image.new('RGB', (20, 20)).save(
        folder / 'bonn_000000_000019_leftImg8bit.png'
    )
    assert run_tool(*command) == 1
    said = errors(capsys)
    assert 'not the test images of Cityscapes' in said
    assert 'bonn_1_leftImg8bit.png: names must be like berlin_000000' in said
    assert '1 images, but the test split of Cityscapes has 2' in said
    assert 'has 20x20 pixels, the images of Cityscapes have 32x24' in said
    assert not (tmp_path / 'work').exists()
    # Images of the validation split are not there.
    assert run_tool(*command, 'val') == 1
    assert 'rgb_anon/fog/val does not exist' in errors(capsys)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--format-only'], 'the config tests on FolderDataset, FolderDat'),
        (['--format-only', '--corrupt', 'day'], 'exclude each other'),
        (['--corrupt', 'noon'], 'the config tests on day, dusk; name one'),
        (['--severities', '3'], '--severities needs --corrupt DOMAIN'),
        (['--corrupt', 'day', '--show-dir', 'x'], 'give --corrupted-images'),
        (['--corrupt', 'day', '--severities', '9'], 'integers in 1..5'),
    ],
)
def test_wrong_uses(run_tool, tiny_config, capsys, options, message):
    assert run_tool('test.py', tiny_config, 'x.pth', *options) == 1
    assert message in errors(capsys)


def test_layouts_set_by_hand_are_refused(run_tool, served, capsys):
    options = 'test_dataloader.dataset.datasets.0.data_prefix.img_path=here'
    command = ('test.py', served, 'x.pth', '--format-only', '--cfg-options')
    assert run_tool(*command, options) == 1
    assert 'the config sets data_prefix' in errors(capsys)


def test_corruptions_from_a_folder_and_on_the_fly(
    run_tool, tiny_config, tool_data, tmp_path, capsys
):
    folder = tmp_path / 'day_c'
    choice = '--corruptions noise contrast --severities 1 5'.split()
    images = tool_data / 'day_val/images'
    made = ('make_corruptions.py', images, folder, '--workers', 1, *choice)
    assert run_tool(*made) == 0
    checkpoint = checkpoint_of(tiny_config)
    command = ('test.py', tiny_config, checkpoint, '--corrupt', 'day')

    def results(name, *more):
        work_dir = tmp_path / name
        words = (*command, *choice, '--work-dir', work_dir, *more)
        assert run_tool(*words) == 0
        return json.loads((work_dir / 'results.json').read_text())

    fly = results('fly')
    shown = capsys.readouterr().out
    assert '| mean of 4 corruptions |' in shown
    assert '3 images a cell; clean ' in shown
    read = results('read', '--corrupted-images', folder)
    assert fly['metrics'] == read['metrics']
    assert len(fly['domains']) == 9
    assert set(fly['corruptions']['grid']) == {
        *('gaussian_noise', 'shot_noise', 'impulse_noise', 'contrast')
    }
    assert fly['protocol'] == 'native'
    # The first image and the two worst of each of nine domains, of which one
    # may be both, and the overview: pictures of the corrupted images.
    pictures = sorted(tmp_path.glob('read/*/pictures/test/**/*.png'))
    assert 1 + 9 * 2 <= len(pictures) <= 1 + 9 * 3
    assert not list(tmp_path.glob('fly/*/pictures/test'))
