import json

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from PIL import Image
from tiny_run import CLASSES, PALETTE

from clouds_mmseg.engine.hooks import visualization
from clouds_mmseg.engine.hooks.visualization import PredictionPicturesHook
from clouds_mmseg.utils.errors import UserError


def names_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*.png'))


def lowest(work_dir, domain, count):
    """Names of the images with the lowest mIoU, by images.json."""
    records = json.loads((work_dir / 'images.json').read_text())['images']
    found = [r for r in records if r['domain'] == domain]
    found.sort(key=lambda record: record['mIoU'])
    return {record['name'] for record in found[:count]}


def test_a_validation_leaves_the_first_and_the_worst_of_each_domain(trained):
    (folder,) = trained.glob('*/pictures/iter_4')
    names = {
        f'{domain}/{name}.png'
        for domain in ('day', 'dusk')
        for name in {'000', '001'} | lowest(trained, domain, 2)
    }
    assert names_of(folder) == sorted([*names, 'overview.png'])
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
    # Not the worst ones, which are known at the end.
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


@pytest.mark.parametrize(
    'wrong', [dict(per_domain=0), dict(width=0), dict(worst=-1)]
)
def test_wrong_arguments_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f'{name} .* got {value}'):
        PredictionPicturesHook(**wrong)


def draw_worst(runner, worst):
    """Evaluate with one first image a domain; return hook and folder."""
    hook = PredictionPicturesHook(per_domain=1, worst=worst, width=32)
    runner.register_hook(hook)
    runner.val()
    return names_of(next(runner_pictures(runner)))


def test_the_worst_are_those_with_the_lowest_miou(build, tmp_path):
    for worst in (0, 1):
        work = tmp_path / str(worst)
        hooks = [dict(type='ResultsHook')]
        names = draw_worst(build(work, custom_hooks=hooks), worst)
        want = {'overview.png'}
        for domain in ('day', 'dusk'):
            for name in {'000'} | lowest(work, domain, worst):
                want.add(f'{domain}/{name}.png')
        assert set(names) == want


def test_the_worst_are_chosen_over_all_processes(build, monkeypatch):
    # Another process has an image that is worse than all of day.
    other = [('day', -1.0, 'day/far.png')]
    monkeypatch.setattr(
        visualization, 'all_gather_object', lambda ours: [ours, other]
    )
    names = draw_worst(build(custom_hooks=[]), 1)
    assert [n for n in names if n.startswith('day')] == ['day/000.png']
    assert len([n for n in names if n.startswith('dusk')]) >= 1


def test_classes_of_the_fixture():
    assert len(CLASSES) == len(PALETTE)
