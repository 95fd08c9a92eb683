"""The zoo's models on the benchmarks: configs, a step of each, whole runs."""

import re
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, METRICS, MODELS
from tiny_benchmarks import (
    CROP,
    reduce_data,
    shrink_model,
    write_benchmarks,
)

import clouds_mmseg  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'configs' / 'baselines'
ZOO = Path(mmseg.__file__).parent / '.mim' / 'configs'
MODELS_OF_THE_ZOO = (
    'deeplabv3plus_r50',
    'deeplabv3plus_r101',
    'segformer_mitb5',
    'upernet_swinb',
    'upernet_convnextb',
    'segnext_mscanb',
    'mask2former_r50',
    'mask2former_swinb',
)
BENCHMARKS = dict(
    gta2cs=['cityscapes', 'bdd100k', 'mapillary'],
    syn2cs=['cityscapes', 'bdd100k', 'mapillary'],
    cs2acdc=['acdc_fog', 'acdc_night', 'acdc_rain', 'acdc_snow'],
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = write_benchmarks(tmp_path_factory.mktemp('benchmarks'))
        patch.setenv('CLOUDS_DATA_ROOT', str(root))
        yield root


def read(model, benchmark):
    return Config.fromfile(FOLDER / f'{model}_{benchmark}.py')


def test_every_model_has_every_benchmark():
    names = {path.stem for path in FOLDER.glob('*.py')}
    assert names == {f'{m}_{b}' for m in MODELS_OF_THE_ZOO for b in BENCHMARKS}


def zoo_config_of(model):
    """The zoo's own config, read without ours."""
    text = (ROOT / f'configs/_base_/baselines/{model}.py').read_text()
    (name,) = re.findall(r"'mmseg::(.*?)'", text)
    return Config.fromfile(ZOO / name, import_custom_modules=False)


@pytest.mark.parametrize('model', MODELS_OF_THE_ZOO)
def test_network_and_schedule_are_the_zoos(model):
    zoo, ours = zoo_config_of(model), read(model, 'gta2cs')
    loader = zoo.train_dataloader
    gpus, images = re.search(r'_(\d+)xb(\d+)-', zoo.filename).groups()
    assert loader.batch_size == int(images)
    assert ours.total_batch_size == int(gpus) * int(images)
    assert ours.train_cfg.max_iters == zoo.train_cfg.max_iters
    assert [dict(s, _scope_=0) for s in ours.param_scheduler] == [
        dict(s, _scope_=0) for s in zoo.param_scheduler
    ]
    for key in ('type', 'lr', 'weight_decay'):
        assert (
            ours.optim_wrapper.optimizer[key]
            == zoo.optim_wrapper.optimizer[key]
        )
    assert (
        ours.model.data_preprocessor.mean == zoo.model.data_preprocessor.mean
    )
    if model != 'upernet_convnextb':
        assert ours.model.backbone.to_dict() == zoo.model.backbone.to_dict()
        assert ours.optim_wrapper.get('paramwise_cfg') == (
            zoo.optim_wrapper.get('paramwise_cfg')
        )
    # Nothing of the zoo's data comes along.
    assert not {'train_pipeline', 'tta_pipeline', 'data_root'} & set(ours)
    assert ours.train_cfg.type == 'ExactTrainLoop'
    assert ours.runner_type == 'DGRunner'
    assert ours.model.test_cfg == dict(mode='whole')


@pytest.mark.parametrize('benchmark', BENCHMARKS)
@pytest.mark.parametrize('model', MODELS_OF_THE_ZOO)
def test_a_training_and_a_test_step(model, benchmark, data):
    cfg = read(model, benchmark)
    reduce_data(cfg)
    shrink_model(cfg.model)
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_steps(cfg, BENCHMARKS[benchmark])


def test_a_step_on_toycity(data):
    cfg = Config.fromfile(ROOT / 'configs/toycity/deeplabv3plus.py')
    assert cfg.model.pretrained is None
    # The images have this size, as have those of the test.
    assert cfg.model.data_preprocessor.size == (128, 256)
    reduce_data(cfg)
    shrink_model(cfg.model)
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_steps(cfg, cfg.test_evaluator.domains)


def check_steps(cfg, domains):
    torch.manual_seed(0)
    segmentor = MODELS.build(cfg.model)
    segmentor.init_weights()
    optim_wrapper = build_optim_wrapper(segmentor, cfg.optim_wrapper)
    before = {k: v.clone() for k, v in segmentor.named_parameters()}
    segmentor.train()
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    losses = segmentor.train_step(
        pseudo_collate([dataset[0], dataset[1]]), optim_wrapper
    )
    assert torch.isfinite(losses['loss'])
    moved = {
        key.split('.')[0]
        for key, value in segmentor.named_parameters()
        if not torch.equal(value, before[key])
    }
    assert moved == {name for name, _ in segmentor.named_children()} - {
        'data_preprocessor'
    }

    segmentor.eval()
    targets = DATASETS.build(cfg.test_dataloader.dataset)
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = targets.metainfo
    # The first image of each target.
    for index in range(0, len(targets), 2):
        batch = pseudo_collate([targets[index]])
        with torch.no_grad():
            results = segmentor.test_step(batch)
        metric.process(batch, [sample.to_dict() for sample in results])
    values = metric.evaluate(len(domains))
    assert [k for k in values if k.endswith('/mIoU')] == [
        f'{domain}/mIoU' for domain in domains
    ]
    assert 0 <= values['mean_mIoU'] <= 100
    assert cfg.model.data_preprocessor.size == CROP
