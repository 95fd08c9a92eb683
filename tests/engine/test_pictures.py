import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from PIL import Image
from tiny_run import CLASSES, PALETTE

from clouds_mmseg.engine.hooks.visualization import PredictionPicturesHook
from clouds_mmseg.utils.errors import UserError


def names_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*.png'))


def test_a_validation_leaves_the_first_of_each_domain(trained):
    (folder,) = trained.glob('*/pictures/iter_4')
    assert names_of(folder) == [
        'day/000.png',
        'day/001.png',
        'dusk/000.png',
        'dusk/001.png',
        'overview.png',
    ]
    panel = Image.open(folder / 'day/000.png')
    overview = Image.open(folder / 'overview.png')
    assert panel.width == overview.width == 3 * 128 + 4 * 6
    assert overview.height > 4 * 128


def test_a_test_draws_all_that_is_asked_for(build, tmp_path):
    hook = dict(
        type='PredictionPicturesHook',
        per_domain=None,
        out_dir=str(tmp_path / 'show'),
        width=128,
    )
    runner = build(custom_hooks=[hook])
    runner.test()
    assert len(names_of(tmp_path / 'show')) == 7
    label = np.asarray(Image.open(tmp_path / 'show' / 'day/000.png'))
    colors = {tuple(c) for c in label.reshape(-1, 3).tolist()}
    assert tuple(PALETTE[2]) in colors


def test_nothing_is_drawn_where_nothing_is_asked(build, tmp_path):
    hook = dict(type='PredictionPicturesHook', on_val=False, on_test=False)
    runner = build(custom_hooks=[hook])
    runner.train()
    runner.test()
    assert not list((tmp_path / 'work').glob('*/pictures'))


def test_windows_show_the_panels(build, monkeypatch):
    shown = []
    hook = dict(
        type='PredictionPicturesHook', show=True, wait_time=0.5, width=64
    )
    runner = build(custom_hooks=[hook])
    monkeypatch.setattr(
        type(runner.visualizer),
        'show',
        lambda self, image, name, wait_time: shown.append((name, wait_time)),
    )
    runner.val()
    assert shown[0] == ('day/000.png', 0.5)
    assert len(shown) == 4


def test_a_prediction_of_another_size_is_drawn_at_its_size(build, tiny_data):
    runner = build()
    hook = PredictionPicturesHook(width=64)
    sample = runner.val_dataloader.dataset[0]['data_samples']
    # Compared at the size of the network's input: half of the file's.
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 16, 16).long())
    sample.pred_sem_seg = PixelData(data=torch.ones(1, 16, 16).long())
    hook.before_val_epoch(runner)
    hook.after_test_iter(runner, 0, None, [sample])
    hook.after_test_epoch(runner)
    (folder,) = [*runner_pictures(runner)]
    panel = np.asarray(Image.open(folder / 'day/000.png'))
    assert panel.shape[1] == 3 * 64 + 4 * 6


def runner_pictures(runner):
    from pathlib import Path

    return Path(runner.log_dir).glob('pictures/*')


@pytest.mark.parametrize('wrong', [dict(per_domain=0), dict(width=0)])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(UserError, match=f'{next(iter(wrong))} .* got 0'):
        PredictionPicturesHook(**wrong)


def test_classes_of_the_fixture():
    assert len(CLASSES) == len(PALETTE)
