import json
import re

import pytest
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

import clouds_mmseg  # noqa: F401
from clouds_mmseg.cli.config import on_benchmark, read_config
from clouds_mmseg.conversion.diagnose import classes_of
from clouds_mmseg.engine.hooks.checkpoint import CheckpointClassesHook
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import UserError

R50 = 'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py'
SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024'


def test_the_zoos_mask2former_has_its_keys_and_shapes(reference_dir):
    cfg = read_config(R50)
    assert cfg.model.decode_head.type == 'CLOUDSHead'
    head = MODELS.build(cfg.model.decode_head)
    expected = json.loads(
        (reference_dir / 'mask2former_r50_cityscapes_zoo_keys.json')
        .read_text()
    )  # fmt: skip
    found = {
        f'decode_head.{key}': list(value.shape)
        for key, value in head.state_dict().items()
    }
    assert found == expected


def test_other_heads_are_left_alone():
    head = read_config(SEGFORMER).model.decode_head
    assert head.type == 'SegformerHead'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('nowhere.py', r'no config nowhere\.py'),
        (
            'mmseg::segformer/segformer_b5.py',
            'no such config; near: mmseg::segformer/segformer_mit-b5',
        ),
        (
            'mmseg::convnext/'
            'convnext-base_upernet_8xb2-amp-160k_ade20k-512x512.py',
            'needs ConvNeXt of the package mmpretrain',
        ),
    ],
)
def test_what_cannot_be_read_is_one_error(name, message):
    with pytest.raises(UserError, match=message):
        read_config(name)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(\nx = = 3', r"line 1: '\(' was never closed"),
        ("_base_ = './nowhere.py'", 'nowhere.py.*; correct _base_'),
        ('a = 1 / 0', 'ZeroDivisionError: division by zero'),
        (
            "custom_imports = dict(imports=['no_such_module'])",
            'ImportError: .*no_such_module',
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error(tmp_path, text, message):
    path = tmp_path / 'wrong.py'
    path.write_text(text)
    with pytest.raises(UserError, match='wrong.py cannot be read: ') as caught:
        read_config(str(path))
    assert re.search(message, str(caught.value))


def test_a_benchmark_brings_data_metric_protocol_and_runtime():
    zoo = read_config(SEGFORMER)
    assert zoo.model.test_cfg.mode == 'slide'
    cfg = on_benchmark(zoo, 'cs2acdc')
    assert cfg.model.data_preprocessor == zoo.model.data_preprocessor
    assert cfg.model.backbone == zoo.model.backbone
    # The protocol is the benchmark's: the whole image at once.
    assert cfg.model.test_cfg == dict(mode='whole')
    assert cfg.test_evaluator.type == 'DGIoUMetric'
    assert cfg.test_evaluator.protocol == 'clouds'
    assert [d.condition for d in cfg.test_dataloader.dataset.datasets] == [
        'fog', 'night', 'rain', 'snow'
    ]  # fmt: skip
    assert cfg.runner_type == 'DGRunner'
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert 'ResultsHook' in hooks and 'CheckpointClassesHook' in hooks
    # Nothing else of the zoo: its --tta would pack inputs without a domain.
    assert 'tta_pipeline' not in cfg and 'train_dataloader' not in cfg


def test_a_config_of_ours_keeps_what_its_checkpoints_need(repo_root):
    ours = read_config(str(repo_root / 'configs/clouds/gta2cs.py'))
    cfg = on_benchmark(ours, 'cs2acdc')
    assert cfg.load_cfg == dict(allow_missing=['teacher.'])
    assert cfg.model.type == 'SelfTrainingSegmentor'
    assert 'EMATeacherHook' not in [hook.type for hook in cfg.custom_hooks]


def test_a_benchmark_may_be_a_file(repo_root, tmp_path):
    zoo = read_config(SEGFORMER)
    path = repo_root / 'configs/custom/camvid_day2dusk.py'
    cfg = on_benchmark(zoo, str(path))
    assert cfg.test_evaluator.domains == ['camvid_day', 'camvid_dusk']
    assert cfg.test_evaluator.protocol == 'native'
    with pytest.raises(UserError, match='one of cs2acdc, .*gta2cs'):
        on_benchmark(zoo, 'gta2city')
    (tmp_path / 'half.py').write_text('test_dataloader = dict(batch_size=1)')
    with pytest.raises(UserError, match='has no test_evaluator'):
        on_benchmark(zoo, str(tmp_path / 'half.py'))
    zoo.pop('model')
    with pytest.raises(UserError, match='has no model'):
        on_benchmark(zoo, 'cs2acdc')


@pytest.mark.parametrize(
    ('meta', 'classes'),
    [
        (dict(dataset_meta=dict(classes=('a', 'b'))), ['a', 'b']),
        (dict(dataset_meta=dict(CLASSES=('a', 'b'))), ['a', 'b']),
        (dict(CLASSES=['a', 'b'], PALETTE=[]), ['a', 'b']),
        (dict(), None),
        (None, None),
    ],
)
def test_classes_are_read_from_old_and_new_checkpoints(meta, classes):
    assert classes_of(meta) == classes


def runner_of(classes):
    dataset = ConfigDict(metainfo=dict(classes=classes))
    loop = dict(dataloader=dict(dataset=dataset))
    return ConfigDict(cfg={}, test_loop=loop)


def test_classes_are_compared_by_name():
    hook = CheckpointClassesHook()
    runner = runner_of(list(CLASSES))
    spelt = [name.title().replace(' ', '_') for name in CLASSES]
    for names in (CLASSES, spelt):
        hook.after_load_checkpoint(runner, dict(meta=dict(CLASSES=names)))
    swapped = [CLASSES[1], CLASSES[0], *CLASSES[2:]]
    with pytest.raises(UserError, match='19 classes: sidewalk, road, build'):
        hook.after_load_checkpoint(runner, dict(meta=dict(CLASSES=swapped)))
    with pytest.raises(UserError, match='trained for 2 classes: a, b; '):
        hook.after_load_checkpoint(runner, dict(meta=dict(CLASSES='ab')))
    # Other names of the same classes can be vouched for.
    runner.cfg = dict(load_cfg=dict(class_rows='by_position'))
    hook.after_load_checkpoint(runner, dict(meta=dict(CLASSES=swapped)))
    with pytest.raises(UserError, match='trained for 2 classes'):
        hook.after_load_checkpoint(runner, dict(meta=dict(CLASSES='ab')))
    # Weights alone say nothing; that is said, and no error.
    hook.after_load_checkpoint(runner, dict(state_dict={}))
