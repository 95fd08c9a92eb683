"""Configs with towers: whole runs, resumed to the last bit, and tested."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_configs import shrink
from tiny_benchmarks import CROP, reduce_data, write_benchmarks

from clouds_mmseg.cli.config import build_runner, dataset_configs
from clouds_mmseg.generate.run import generate_images

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def read(name, work_dir, iters, **changes):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.parent.name}_{work_dir.name}_{iters}'
    reduce_data(cfg)
    shrink(cfg)
    cfg.model.data_preprocessor.size = CROP
    cfg.merge_from_dict(
        {
            'train_cfg.max_iters': iters,
            'train_cfg.val_interval': 100,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            'total_batch_size': 2,
            **changes,
        }
    )
    for source in dataset_configs(cfg.train_dataloader.dataset):
        if source.get('rare_class'):
            source.rare_class.update(min_pixels=20)
    cfg.custom_hooks = []
    # Its checkpoints have other weights: tests/engine/test_ema_hook.py.
    cfg.default_hooks.pop('ema', None)
    return cfg


def assert_resumed_exactly(whole, first, read_again):
    """Resume a finished run from its first checkpoint; compare weights."""
    cfg = read_again()
    cfg.resume = str(first)
    resumed = build_runner(cfg)
    resumed.train()
    expected = whole.model.state_dict()
    assert resumed.model.state_dict().keys() == expected.keys()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = write_benchmarks(tmp_path_factory.mktemp('benchmarks'))
        patch.setenv('CLOUDS_DATA_ROOT', str(root))
        yield root


@pytest.mark.parametrize(
    ('name', 'tower'),
    [
        ('rein', 'dinov2l'),
        ('soma', 'dinov2l'),
        ('tqdm', 'eva02l'),
        ('pmt', 'dinov3l'),
        ('eomt', 'dinov3l'),
    ],
)
@pytest.mark.usefixtures('data')
def test_run_is_resumed_exactly_and_tested(name, tower, tmp_path):
    config = f'{name}/gta2cs_{tower}.py'
    whole = build_runner(read(config, tmp_path / 'whole', 4))
    whole.train()
    first = tmp_path / 'whole' / 'iter_2.pth'
    assert_resumed_exactly(
        whole, first, lambda: read(config, tmp_path / 'cut', 4)
    )
    before = torch.load(first, weights_only=False)['state_dict']
    expected = whole.model.state_dict()
    moved = {k for k, v in expected.items() if not torch.equal(v, before[k])}
    backbone = whole.model.backbone
    if name in ('rein', 'soma'):
        trained = {f'backbone.{n}' for n in backbone.adapter_parameters()}
    else:
        trained = {
            f'backbone.{n}'
            for n, p in backbone.named_parameters()
            if p.requires_grad
        }
    assert bool(moved & trained) == (name != 'pmt')
    # Statistics of tqdm's learned pyramid move, too.
    buffers = {f'backbone.{n}' for n, _ in backbone.named_buffers()}
    assert all(
        k in trained | buffers or k.startswith('decode_head.') for k in moved
    )
    assert not any(k.startswith('decode_head.text.encoder.') for k in moved)
    if name in ('pmt', 'eomt'):
        # The masks go by a schedule, and are gone at the end.
        key = 'decode_head.attn_mask_probs'
        assert before[key].gt(0).any() and not expected[key].any()

    test = read(config, tmp_path / 'test', 4)
    test.load_from = str(tmp_path / 'whole' / 'iter_4.pth')
    tester = build_runner(test)
    metrics = tester.test()
    assert 0 <= metrics['mean_mIoU'] <= 100
    for key, value in tester.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.usefixtures('data')
@pytest.mark.parametrize('cityscapes', ['', '_cs16th'])
def test_run_on_several_sources(cityscapes, tmp_path):
    name = f'rein/gta_syn_urbansyn{cityscapes}2cs_dinov2l.py'
    every = {'default_hooks.checkpoint.interval': 1}
    runner = build_runner(read(name, tmp_path / 'run', 2, **every))
    runner.train()
    (sources,) = runner.train_dataloader.dataset.datasets
    lengths = [len(d) for d in sources.datasets]
    assert lengths == [2, 2, 2, 1][: len(lengths)]
    assert_resumed_exactly(
        runner,
        tmp_path / 'run/iter_1.pth',
        lambda: read(name, tmp_path / 'cut', 2, **every),
    )
    if not cityscapes:
        return
    assert (tmp_path / 'run/part_cityscapes.txt').read_text().count('a/a_')
    metrics = runner.val()
    # Cityscapes is trained on: no part of the mean.
    mean = (metrics['bdd100k/mIoU'] + metrics['mapillary/mIoU']) / 2
    assert metrics['mean_mIoU'] == pytest.approx(mean, abs=0.01)
    assert 'mean_mIoU_16' in metrics


@pytest.fixture(scope='module')
def bank(tmp_path_factory):
    """A bank of three scenes of the size of the crops."""
    folder = tmp_path_factory.mktemp('scenes')
    prompts = folder / 'prompts.txt'
    prompts.write_text('a street in the rain\na street at night\n')
    generate_images(
        folder / 'bank',
        prompts=prompts,
        num=3,
        size=CROP[::-1],
        contact_sheet=False,
    )
    return folder / 'bank'


def read_self_training(name, work_dir, bank, **changes):
    """Read a config of the method: one iteration of warm-up, two of it."""
    every = {'default_hooks.checkpoint.interval': 1}
    cfg = read(name, work_dir, 3, **every, **changes)
    cfg.merge_from_dict(
        {
            'train_cfg.warmup_iters': 1,
            'train_cfg.generated_share': 0.5,
            'banks': [],
            'model.label_threshold': 0.0,
        }
    )
    for source in cfg.train_dataloader.dataset.datasets:
        if source.type == 'GeneratedDataset':
            source.update(bank=str(bank), size=CROP[::-1])
    cfg.custom_hooks = [
        dict(type='EMATeacherHook', interval=1),
        dict(
            type='SAMRefineHook',
            refiner=dict(type='SuperpixelRefiner', purity=0.6),
            picture_interval=None,
        ),
    ]
    return cfg


def tqdm_model(frozen):
    """Return the config of the model of tqdm, for self-training."""
    cfg = read('tqdm/gta2cs_eva02l.py', Path('none/none'), 3)
    cfg.model.type = 'SelfTrainingSegmentor'
    if frozen:
        cfg.model.backbone.update(
            frozen=True, keep_initial=False, pyramid='resize'
        )
        cfg.model.decode_head.regularisation = dict(image=0.0)
    return cfg.model


# Whose tower is frozen, with an adapter and without, or trained.
@pytest.mark.usefixtures('data')
@pytest.mark.parametrize(
    ('name', 'frozen'),
    [
        ('cs2acdc_dinov3l', None),
        ('gta2cs_dinov3l', None),
        ('gta2cs', True),
        ('gta2cs', False),
    ],
)
def test_self_training_is_resumed_exactly(name, frozen, tmp_path, bank):
    def read_again(folder):
        cfg = read_self_training(f'clouds/{name}.py', tmp_path / folder, bank)
        if frozen is not None:
            cfg.model = tqdm_model(frozen)
        return cfg

    whole = build_runner(read_again('whole'))
    whole.train()
    # At the switch and behind it.
    first = tmp_path / 'whole/iter_1.pth'
    assert_resumed_exactly(whole, first, lambda: read_again('cut'))
    model = whole.model
    weights = torch.load(first, weights_only=False)['state_dict']
    assert ('backbone' in model.teacher.module) == (frozen is not True)
    # The teacher follows the student.
    assert any(
        not torch.equal(value, weights[key])
        for key, value in model.state_dict().items()
        if key.startswith('teacher.module.') and value.is_floating_point()
    )
