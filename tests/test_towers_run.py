"""Configs with towers: whole runs, resumed to the last bit, and tested."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from test_configs import shrink
from tiny_benchmarks import CROP, reduce_data, write_benchmarks

from clouds_mmseg.cli.config import build_runner

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
    cfg.custom_hooks = []
    # Its checkpoints have other weights: tests/engine/test_ema_hook.py.
    cfg.default_hooks.pop('ema', None)
    return cfg


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
    cut = read(config, tmp_path / 'cut', 4)
    cut.resume = str(tmp_path / 'whole' / 'iter_2.pth')
    resumed = build_runner(cut)
    resumed.train()
    first = torch.load(tmp_path / 'whole' / 'iter_2.pth', weights_only=False)
    before = first['state_dict']
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
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
def test_run_on_several_sources(tmp_path):
    name = 'rein/gta_syn_urbansyn_cs16th2cs_dinov2l.py'
    runner = build_runner(read(name, tmp_path / 'run', 2))
    runner.train()
    (sources,) = runner.train_dataloader.dataset.datasets
    assert [len(d) for d in sources.datasets] == [2, 2, 2, 1]
    assert (tmp_path / 'run/part_cityscapes.txt').read_text().count('a/a_')
    metrics = runner.val()
    # Cityscapes is trained on: no part of the mean.
    mean = (metrics['bdd100k/mIoU'] + metrics['mapillary/mIoU']) / 2
    assert metrics['mean_mIoU'] == pytest.approx(mean, abs=0.01)
    assert 'mean_mIoU_16' in metrics
