"""Protocols rewrite pipelines, the mode of prediction and the metric."""

import io

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from clouds_mmseg.datasets import HalveImage, HalveLabels
from clouds_mmseg.evaluation import PROTOCOLS, apply_protocol
from clouds_mmseg.evaluation.protocols import (
    check_protocols,
    rewrite_pipeline,
)
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


@pytest.mark.parametrize(
    'name, scales',
    [
        ('rein', [(1024, 512), (1280, 720), (1024, 512)]),
        ('soma', [(2048, 1024), (1280, 720), (2048, 1024)]),
    ],
)
def test_sizes_of_rein_and_soma(cfg, name, scales):
    before = cfg.to_dict()
    apply_protocol(cfg, name)
    datasets = cfg.test_dataloader.dataset.datasets
    for dataset, scale in zip(datasets, scales, strict=True):
        (resize,) = [s for s in dataset.pipeline if s.type == 'Resize']
        assert resize == dict(type='Resize', scale=scale, keep_ratio=True)
    assert pipelines(cfg)['MapillaryDGDataset'] == [
        'LoadSegImage',
        'HalveImage',
        'Resize',
        'LoadSegLabels',
        'HalveLabels',
        'PackDGInputs',
    ]
    assert cfg.test_evaluator.protocol == name
    assert cfg.model.test_cfg == dict(
        mode='slide', crop_size=(512, 512), stride=(341, 341)
    )
    # Also from one to the other.
    assert apply_protocol(cfg, 'clouds').to_dict() == before
    acdc = rewrite_pipeline(
        [dict(type='LoadSegImage'), dict(type='PackDGInputs')],
        name,
        at_input_size=True,
        kinds=['MyACDC', 'ACDCDataset', 'DGDataset'],
    )
    wide = dict(rein=(960, 540), soma=(1920, 1080))[name]
    assert acdc[1]['scale'] == wide


def test_halved_image_and_labels():
    """As Rein's script writes them, and compared at that size."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (41, 60, 3), np.uint8)
    label = rng.integers(0, 19, (41, 60)).astype(np.uint8)
    results = dict(img=image[..., ::-1], ori_shape=(41, 60))
    results = HalveImage().transform(results)
    assert results['img'].shape == (20, 30, 3)
    assert results['img_shape'] == (20, 30)
    assert HalveLabels().transform(dict(results))['ori_shape'] == (41, 60)
    # In RGB, the JPEG file of a bicubic half.
    stream = io.BytesIO()
    Image.fromarray(image).resize((30, 20), Image.BICUBIC).save(stream, 'JPEG')
    found = results['img'][..., ::-1].astype(int)
    assert abs(found - np.array(Image.open(stream)).astype(int)).max() <= 2
    results = HalveLabels().transform(dict(results, gt_seg_map=label))
    expected = Image.fromarray(label).resize((30, 20), Image.NEAREST)
    np.testing.assert_array_equal(results['gt_seg_map'], expected)
    assert results['ori_shape'] == (20, 30)
    with pytest.raises(UserError, match='HalveImage must stand before'):
        HalveLabels().transform(dict(gt_seg_map=label, ori_shape=(41, 60)))


@pytest.mark.parametrize(
    'name, size', [('rein', (512, 768)), ('soma', (1024, 1536))]
)
def test_mapillary_is_read_at_half_its_size(tmp_path, cfg, name, size):
    """Through the data set, whose labels must have the image's size."""
    for folder, shape in (('images', (40, 60, 3)), ('labels', (40, 60))):
        path = tmp_path / f'validation/{folder}'
        path.mkdir(parents=True)
        suffix = 'jpg' if folder == 'images' else 'png'
        pixels = np.full(shape, 13, np.uint8)
        Image.fromarray(pixels).save(path / f'a.{suffix}')
    apply_protocol(cfg, name)
    *_, mapillary = cfg.test_dataloader.dataset.datasets
    mapillary.pop('expected', None)
    item = DATASETS.build(dict(mapillary, data_root=str(tmp_path)))[0]
    assert item['inputs'].shape == (3, *size)
    sample = item['data_samples']
    assert sample.ori_shape == sample.gt_sem_seg.shape == (20, 30)
    assert (sample.gt_sem_seg.data == 0).all()


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
    names = 'clouds, native, slide, rein, soma'
    with pytest.raises(UserError, match=f"'tqdm'.*{names}"):
        apply_protocol(cfg, 'tqdm')
    with pytest.raises(UserError, match='named twice: rein rein'):
        check_protocols(['rein', 'rein'])
    assert cfg.to_dict() == before
    assert ', '.join(PROTOCOLS) == names


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
