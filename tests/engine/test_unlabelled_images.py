"""Images without labels, options of tools/test.py, one class."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmseg.structures import SegDataSample
from PIL import Image

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.cli.test_options import enable_tta, write_predictions
from clouds_mmseg.datasets import GeneratedDataset
from clouds_mmseg.engine.data_check import check_classes, require_labels
from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.errors import UserError


def test_config(trained, domains, unlabelled, **changes):
    """The config of a test; some of its domains have no labels."""
    cfg = Config.fromfile(next(trained.parent.glob('*.py')))
    leaves = {d.domain: d for d in cfg.test_dataloader.dataset.datasets}
    for domain in unlabelled:
        leaves[domain].data_prefix = dict(img_path='images')
    cfg.test_dataloader.dataset.datasets = [leaves[d] for d in domains]
    cfg.test_evaluator.domains = list(domains)
    cfg.load_from = str(next(trained.glob('iter_*.pth')))
    cfg.merge_from_dict(changes)
    return cfg


test_config.__test__ = False


def predicted(folder):
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob('*.png')
    )


def test_predictions_and_nothing_to_compare(trained, tmp_path, capsys):
    cfg = test_config(trained, ['dusk'], ['dusk'])
    cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = 'unlabelled'
    write_predictions(cfg, str(tmp_path / 'out'))
    runner = build_runner(cfg)
    assert runner.test() == {}
    assert predicted(tmp_path / 'out') == [
        f'dusk/{i:03d}.png' for i in range(3)
    ]
    labels = np.asarray(Image.open(tmp_path / 'out/dusk/000.png'))
    assert labels.shape == (32, 32) and labels.max() < 3
    (log,) = Path(runner.log_dir).glob('*.log')
    assert '3 of 3 images have no label' in log.read_text()
    assert 'nothing to compare' in log.read_text()
    # No results of a measurement that was none.
    assert not list(tmp_path.rglob('results.json'))
    assert not unwrap_model(runner.model).training


def test_values_are_those_of_the_labelled(trained, tmp_path):
    found = []
    for name, unlabelled in (('all', []), ('some', ['dusk'])):
        cfg = test_config(trained, ['day', 'dusk'], unlabelled)
        cfg.work_dir = str(tmp_path / name)
        cfg.experiment_name = f'labelled_{name}'
        write_predictions(cfg, str(tmp_path / f'out_{name}'))
        found.append(build_runner(cfg).test())
    assert found[1]['day/mIoU'] == found[0]['day/mIoU']
    assert found[1]['mean_mIoU'] == found[0]['day/mIoU']
    assert not any(key.startswith('dusk') for key in found[1])
    both = [predicted(tmp_path / f'out_{n}') for n in ('all', 'some')]
    assert both[0] == both[1] and len(both[0]) == 6
    results = json.loads((tmp_path / 'some/results.json').read_text())
    assert list(results['domains']) == ['day']


def test_without_out_it_is_one_error(trained, tmp_path):
    cfg = test_config(trained, ['dusk'], ['dusk'])
    cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = 'no_out'
    with pytest.raises(UserError, match='000.png has no label.*--out FOLDER'):
        build_runner(cfg).test()


def test_training_needs_labels(build):
    runner = build(
        train_dataloader__dataset__data_prefix=dict(img_path='images')
    )
    with pytest.raises(UserError, match='train dataset.*has no label folder'):
        runner.train()


def test_labels_of_a_generated_set_are_trained_on(tmp_path):
    bank, prompts = tmp_path / 'bank', tmp_path / 'prompts.txt'
    prompts.write_text('a road\n')
    generate_images(
        bank, prompts=prompts, num=1, size=(64, 32), keep_labels=True
    )
    pipeline = [dict(type='LoadSegImage'), dict(type='LoadSegLabels')]
    options = dict(bank=str(bank), pipeline=pipeline)
    dataset = GeneratedDataset(evaluation_labels=True, **options)
    require_labels(dataset)
    with pytest.raises(UserError, match='has no label folder'):
        require_labels(GeneratedDataset(**options))


def test_scores_are_not_kept_in_runs(build):
    model = dict(model__type='DGSegmentor')
    assert unwrap_model(build(**model).model).keep_scores is False
    kept = build(model__test_cfg__keep_scores=True, **model)
    assert kept.cfg.model.test_cfg.keep_scores
    model = unwrap_model(kept.model)
    model.eval()
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    meta = dict(ori_shape=(32, 32), img_shape=(32, 32))
    sample = SegDataSample(metainfo=meta)
    with torch.no_grad():
        (result,) = model.test_step(
            dict(inputs=[image], data_samples=[sample])
        )
    assert result.seg_logits.data.shape == (3, 32, 32)


def test_one_class_of_another_head(build):
    model = unwrap_model(build(model__decode_head__num_classes=1).model)

    class Labelled:
        metainfo = dict(classes=('fg',))

    with pytest.raises(UserError, match="'fg'.*out_channels=1"):
        check_classes(Labelled(), model, 'train')


def test_no_tta_of_one_class():
    head = dict(type='CLOUDSHead', num_classes=1)
    cfg = ConfigDict(
        model=dict(decode_head=head),
        test_dataloader=dict(dataset=dict(pipeline=[dict(type='PackX')])),
    )
    with pytest.raises(UserError, match='one class'):
        enable_tta(cfg)
