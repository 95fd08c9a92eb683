"""Protocols rewrite pipelines, the mode of prediction and the metric."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from clouds_mmseg.evaluation import PROTOCOLS, apply_protocol
from clouds_mmseg.evaluation.protocols import rewrite_pipeline
from clouds_mmseg.utils.errors import UserError


@pytest.fixture
def cfg(repo_root):
    init_default_scope('mmseg')
    return Config.fromfile(repo_root / 'configs/warmup/gta2cs.py')


def pipelines(cfg):
    return {
        dataset.type: [step.type for step in dataset.pipeline]
        for dataset in cfg.test_dataloader.dataset.datasets
    }


def test_the_configs_are_written_for_clouds(cfg):
    before = cfg.to_dict()
    assert apply_protocol(cfg, 'clouds').to_dict() == before


def test_there_and_back(cfg):
    before = cfg.to_dict()
    for name in ('native', 'slide'):
        apply_protocol(cfg, name)
        assert pipelines(cfg) == dict.fromkeys(
            ['CityscapesDGDataset', 'BDD100KDGDataset', 'MapillaryDGDataset'],
            ['LoadSegImage', 'LoadSegLabels', 'PackDGInputs'],
        )
        assert cfg.val_evaluator.protocol == name
        assert cfg.test_evaluator.protocol == name
    assert cfg.model.test_cfg == dict(
        mode='slide', crop_size=(768, 768), stride=(512, 512)
    )
    assert cfg.train_dataloader == before['train_dataloader']
    assert apply_protocol(cfg, 'clouds').to_dict() == before


def test_other_settings_of_the_model_stay(cfg):
    cfg.model.test_cfg = dict(mode='slide', stride=(1, 1), overlap=3)
    apply_protocol(cfg, 'native')
    assert cfg.model.test_cfg == dict(mode='whole', overlap=3)


def test_nested_datasets_lists_of_metrics_and_parts_that_are_missing():
    init_default_scope('mmseg')
    cfg = Config(
        dict(
            val_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    dataset=dict(
                        type='ACDCDataset',
                        pipeline=[
                            dict(type='LoadSegImage'),
                            dict(type='LoadSegLabels'),
                            dict(type='PackDGInputs', domain='x'),
                        ],
                    ),
                )
            ),
            val_evaluator=[
                dict(type='DumpResults'),
                dict(type='DGIoUMetric'),
            ],
            test_dataloader=None,
            test_evaluator=None,
        )
    )
    apply_protocol(cfg, 'clouds')
    steps = cfg.val_dataloader.dataset.dataset.pipeline
    assert [step.type for step in steps] == [
        'LoadSegImage',
        'LoadSegLabels',
        'Resize',
        'EvaluateAtInputSize',
        'PackDGInputs',
    ]
    assert steps[-1].domain == 'x'
    assert cfg.val_evaluator == [
        dict(type='DumpResults'),
        dict(type='DGIoUMetric', protocol='clouds'),
    ]


def test_unknown_name(cfg):
    before = cfg.to_dict()
    with pytest.raises(UserError, match="'rein'.*clouds, native, slide"):
        apply_protocol(cfg, 'rein')
    assert cfg.to_dict() == before
    assert set(PROTOCOLS) == {'clouds', 'native', 'slide'}


def test_pipelines_that_do_not_begin_with_an_image():
    for steps in ([], [dict(type='Resize', scale=(1, 1))]):
        with pytest.raises(UserError, match='must load the image'):
            rewrite_pipeline(steps, 'native', at_input_size=False)


@pytest.mark.parametrize(
    'size, resized', [((40, 30), (1365, 1024)), ((30, 40), (1024, 1365))]
)
def test_sizes_of_inputs_and_labels(tmp_path, cfg, size, resized):
    """Width x height, portrait and landscape, through the real transforms."""
    width, height = size
    for layout in (
        'leftImg8bit/val/a/b_leftImg8bit.png',
        'gtFine/val/a/b_gtFine_labelTrainIds.png',
        'images/10k/val/a.jpg',
        'labels/sem_seg/masks/val/a.png',
    ):
        path = tmp_path / layout
        path.parent.mkdir(parents=True, exist_ok=True)
        is_label = 'gtFine' in layout or 'masks' in layout
        shape = (height, width) if is_label else (height, width, 3)
        Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    cityscapes, bdd, _ = cfg.test_dataloader.dataset.datasets
    built = ConcatDataset(
        [
            DATASETS.build(dict(piece, data_root=str(tmp_path)))
            for piece in (cityscapes, bdd)
        ]
    )
    items = [built[0], built[1]]
    for item in items:
        assert item['inputs'].shape == (3, *resized[::-1])
    native, at_input = (item['data_samples'] for item in items)
    assert native.ori_shape == native.gt_sem_seg.shape == (height, width)
    assert at_input.ori_shape == at_input.gt_sem_seg.shape == resized[::-1]
