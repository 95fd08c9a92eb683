import re
from pathlib import Path

import mmseg
import pytest
from mmengine.config import Config
from mmseg.registry import MODELS
from tiny_run import write_config

from clouds_mmseg.cli.config import read_config
from clouds_mmseg.cli.config_check import (
    apply_options,
    check_config,
    require_sections,
)
from clouds_mmseg.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
ZOO = Path(mmseg.__file__).parent / '.mim' / 'configs'


@pytest.fixture(scope='module')
def tiny_text(tmp_path_factory):
    """The config of the tiny run, whose data do not exist."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    return write_config(path, '/no/where')


@pytest.fixture
def cfg(tiny_text):
    return Config.fromfile(tiny_text)


@pytest.mark.parametrize('path', SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_pass(path):
    check_config(Config.fromfile(path))


def test_configs_of_the_zoo_pass():
    # A file of every eighth folder: all of them take minutes.
    folders = sorted(p for p in ZOO.iterdir() if p.name != '_base_')
    checked = 0
    for folder in folders[::8]:
        path = sorted(folder.glob('*.py'))[0]
        try:
            cfg = read_config(f'mmseg::{folder.name}/{path.name}')
        except UserError as error:
            assert 'needs' in str(error)
            continue
        check_config(cfg)
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize(
    ('slip', 'meant'),
    [
        ('optim_wraper', 'optim_wrapper'),
        ('optim_wrappers', 'optim_wrapper'),
        ('modle', 'model'),
        ('train_dataloder', 'train_dataloader'),
        ('load_form', 'load_from'),
        ('custom_hook', 'custom_hooks'),
        ('total_batchsize', 'total_batch_size'),
    ],
)
def test_a_misspelt_key_of_a_file_is_an_error(cfg, slip, meant):
    cfg[slip] = dict(lr=1)
    with pytest.raises(UserError, match=f'{slip}: did you mean {meant}'):
        check_config(cfg)


@pytest.mark.parametrize(
    'name',
    ['crop_size', 'data_root_gta', 'val_dataloader_fog', 'model_2', 'lr'],
)
def test_variables_of_a_file_are_passed_over(cfg, name):
    cfg[name] = dict(lr=1)
    check_config(cfg)


def test_layer_decay_without_its_constructor(cfg):
    cfg.optim_wrapper.paramwise_cfg = dict(layer_decay=0.8)
    with pytest.raises(UserError, match='LayerDecayConstructor'):
        check_config(cfg)
    cfg.optim_wrapper.constructor = 'LayerDecayConstructor'
    check_config(cfg)


def test_a_part_that_others_are_made_of_is_no_slip(cfg):
    cfg['models'] = cfg.model
    check_config(cfg)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        (
            'model.decode_head.num_clases',
            3,
            'model.decode_head.num_clases: no argument of FCNHead; '
            'near: num_classes',
        ),
        (
            'optim_wrapper.optimizer.learning_rate',
            3,
            'optim_wrapper.optimizer.learning_rate: no argument of SGD',
        ),
        (
            'train_cfg.max_iter',
            3,
            'train_cfg.max_iter: no argument of IterBasedTrainLoop; near: '
            'max_iters',
        ),
        (
            'train_dataloader.batchsize',
            3,
            'train_dataloader.batchsize: no argument of a data loader; '
            'near: batch_size',
        ),
        (
            'train_dataloader.dataset.datta_root',
            'x',
            'train_dataloader.dataset.datta_root: did you mean data_root of '
            'FolderDataset?',
        ),
        (
            'model.backbone.type',
            'ResNte',
            'model.backbone.type: ResNte is registered nowhere; near: ResNet',
        ),
        (
            'custom_hooks.1.widht',
            3,
            'custom_hooks.1.widht: no argument of PredictionPicturesHook; '
            'near: width',
        ),
    ],
)
def test_names_inside_are_compared_with_constructors(cfg, key, value, message):
    apply_options(cfg, {key: value})
    with pytest.raises(UserError, match=re.escape(message)):
        check_config(cfg)


def test_arguments_that_go_to_another_library_pass(cfg):
    for kind in ('TIMMBackbone', 'FrozenTIMMBackbone'):
        cfg.model.backbone = dict(type=kind, model_name='x', drop_path=0.1)
        check_config(cfg)
        cfg.model.backbone.pretraned = True
        with pytest.raises(UserError, match='pretraned: did you mean pretrai'):
            check_config(cfg)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('train_cfg.max_iters', -1),
        ('train_cfg.max_iters', 'many'),
        ('train_cfg.val_interval', 0),
        ('train_dataloader.batch_size', 1.5),
        ('val_dataloader.num_workers', -1),
        ('total_batch_size', True),
    ],
)
def test_numbers_that_cannot_be(cfg, key, value):
    apply_options(cfg, {key: value})
    with pytest.raises(UserError, match=f'{key} must be a whole number of at'):
        check_config(cfg)


def test_a_constructor_that_is_no_def(cfg, monkeypatch):
    class Made:
        __init__ = lambda self, **options: None  # noqa: E731

    monkeypatch.setitem(MODELS._module_dict, 'Made', Made)
    cfg.model.backbone = dict(type='Made', anything=1)
    check_config(cfg)


def test_masks_that_outlast_the_run(cfg):
    hook = dict(type='MaskAnnealingHook', begin=[0, 1], end=[1, 9])
    cfg.default_hooks.mask_annealing = hook
    with pytest.raises(UserError, match=r'end=\[1, 9\]: the training ends'):
        check_config(cfg)
    hook['end'] = [1, 2]
    cfg.default_hooks.mask_annealing = hook
    check_config(cfg)


def test_a_warmup_longer_than_the_run(cfg):
    cfg.train_cfg = dict(
        type='SelfTrainingLoop', max_iters=2, warmup_iters=200
    )
    with pytest.raises(UserError, match=r'warmup_iters=200 is more than .*=2'):
        check_config(cfg)
    cfg.train_cfg.warmup_iters = 2
    check_config(cfg)


def test_sections_of_another_kind(cfg):
    cfg.custom_hooks = 'none'
    cfg.optim_wrapper = 3
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    assert "custom_hooks must be a list of dicts, got 'none'" in str(
        caught.value
    )
    assert 'optim_wrapper must be a dict, got 3' in str(caught.value)


def test_what_a_run_cannot_do_without(cfg):
    for phase in ('train', 'test'):
        require_sections(cfg, phase)
    cfg.model = cfg.optim_wrapper = cfg.test_evaluator = None
    with pytest.raises(UserError, match='no model, no optim_wrapper, which'):
        require_sections(cfg, 'train')
    with pytest.raises(UserError, match='no model, no test_evaluator, which'):
        require_sections(cfg, 'test')


def test_an_unknown_level_of_the_log(cfg):
    cfg.log_level = 'LOUD'
    with pytest.raises(UserError, match="log_level must be .*'LOUD'"):
        check_config(cfg)


def test_all_names_are_told_at_once(cfg):
    cfg.optim_wraper = dict(a=1)
    cfg.model.decode_head.num_clases = 3
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    assert 'optim_wraper' in str(caught.value)
    assert 'num_clases' in str(caught.value)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('optim_wraper.optimizer.lr', 1, 'knows optim_wraper; near: optim_wr'),
        ('model.backbone.depth.x', 1, 'model.backbone.depth is 18, which has'),
        ('val_dataloader.dataset.datasets.2.x', 1, 'a list of 2; give an ind'),
        ('default_hooks.chekpoint', 1, 'did you mean default_hooks.checkpoi'),
        ('model.decode_head', 'FCNHead', 'replaces a whole section'),
    ],
)
def test_options_that_lead_nowhere(cfg, key, value, message):
    with pytest.raises(UserError, match=message):
        apply_options(cfg, {key: value})


def test_a_key_and_a_key_below_it(cfg):
    with pytest.raises(UserError, match='does not fit the config'):
        apply_options(cfg, {'work_dir': 'x', 'work_dir.b': 1})


def test_new_keys_that_somebody_reads(cfg):
    apply_options(
        cfg,
        {
            'load_cfg.allow_missing': ['teacher.'],
            'train_dataloader.prefetch_factor': 2,
            'model.decode_head.dropout_ratio': 0.5,
            'model.decode_head.ignore_index': 7,
            'optim_wrapper.clip_grad.max_norm': 1,
            'optim_wrapper.optimizer.nesterov': True,
            'default_hooks.checkpoint.save_optimizer': False,
            'default_hooks.more': dict(type='EMAHook', priority=49),
            'val_dataloader.dataset.datasets.1.ann_file': 'x',
        },
    )
    check_config(cfg)
    assert cfg.load_cfg.allow_missing == ['teacher.']
    assert cfg.val_dataloader.dataset.datasets[1].ann_file == 'x'


def test_a_variable_of_the_file_is_remarked(cfg, monkeypatch):
    said = []
    monkeypatch.setattr(
        'clouds_mmseg.cli.config_check.print_log',
        lambda text, **kwargs: said.append(text),
    )
    apply_options(cfg, {'classes': ['a']})
    assert 'classes is a variable of the config file' in said[0]
