"""Trainings that start from a checkpoint that fits in part."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction
from tiny_run import CLASSES

from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.utils.errors import UserError

OPTION = re.compile(r'load_cfg\.(\w+)="(\[[^\]"]*\])"')


def followed(message):
    """The options that a message advises, as --cfg-options reads them."""
    found = OPTION.findall(str(message))
    assert found, message
    return {
        f'load_cfg__{key}': DictAction._parse_iterable(value)
        for key, value in found
    }


def renamed(classes):
    """Changes of the config: its data under other class names."""
    meta = dict(classes=list(classes), palette=[[9, 9, i] for i in range(9)])
    meta['palette'] = meta['palette'][: len(classes)]
    changes = {
        'model__decode_head__num_classes': len(classes),
        'train_dataloader__dataset__metainfo': meta,
    }
    for split in ('val', 'test'):
        for index in (0, 1):
            key = f'{split}_dataloader__dataset__datasets__{index}__metainfo'
            changes[key] = meta
    return changes


@pytest.fixture
def checkpoint(trained):
    """Path and weights of a run on CLASSES. Not to be changed."""
    path = trained / 'iter_4.pth'
    return str(path), torch.load(path, weights_only=False)['state_dict']


def changed(checkpoint, tmp_path, change):
    """Write the checkpoint again, with other weights."""
    content = torch.load(checkpoint[0], weights_only=False)
    change(content['state_dict'])
    torch.save(content, tmp_path / 'changed.pth')
    return str(tmp_path / 'changed.pth')


def weights_of(runner):
    return {
        k: v.clone()
        for k, v in unwrap_model(runner.model).state_dict().items()
    }


def test_other_classes_start_as_the_message_says(build, checkpoint):
    path, old = checkpoint
    classes = [CLASSES[2], 'tram', CLASSES[0], 'dog']
    changes = renamed(classes)
    with pytest.raises(UserError, match='trained for 3 classes') as caught:
        build(load_from=path, **changes).load_checkpoint(path)
    options = followed(caught.value)
    assert options == {'load_cfg__reinit': ['decode_head.conv_seg']}
    runner = build(
        load_from=path, randomness=dict(seed=3), **changes, **options
    )
    before = weights_of(runner)
    runner.load_checkpoint(path)
    after = weights_of(runner)
    key = 'decode_head.conv_seg.weight'
    assert torch.equal(after[key][0], old[key][2])
    assert torch.equal(after[key][2], old[key][0])
    for row in (1, 3):
        assert torch.equal(after[key][row], before[key][row])
    assert torch.equal(
        after['backbone.conv1.weight'], old['backbone.conv1.weight']
    )
    log = Path(runner.logger.log_file).read_text()
    assert f'carried over (2): {CLASSES[2]}, {CLASSES[0]}' in log
    assert 'new (2): tram, dog' in log
    assert f'left behind (1): {CLASSES[1]}' in log


def test_a_fine_tuning_trains_and_is_tested(build, checkpoint, tmp_path):
    path, _ = checkpoint
    changes = renamed(['tram', *CLASSES[1:]])
    options = dict(load_cfg__reinit=['decode_head.conv_seg'])
    first = build(
        tmp_path / 'a',
        load_from=path,
        train_cfg__max_iters=2,
        **changes,
        **options,
    )
    first.train()
    # Its optimiser begins anew: two iterations.
    saved = torch.load(tmp_path / 'a' / 'iter_2.pth', weights_only=False)
    assert saved['meta']['iter'] == 2
    # The config may keep the option: a test takes all from the checkpoint.
    tested = build(
        load_from=str(tmp_path / 'a' / 'iter_2.pth'), **changes, **options
    )
    tested.test()
    for key, value in weights_of(tested).items():
        assert torch.equal(value, saved['state_dict'][key])


def test_the_same_seed_begins_the_same(build, checkpoint, tmp_path):
    path, _ = checkpoint
    ends = []
    for name in 'ab':
        runner = build(
            tmp_path / name,
            load_from=path,
            randomness=dict(seed=5),
            train_cfg__max_iters=1,
            load_cfg__reinit=['decode_head'],
        )
        runner.train()
        ends.append(weights_of(runner))
    assert all(torch.equal(ends[0][k], v) for k, v in ends[1].items())


@pytest.mark.parametrize('use', ['train', 'test', 'resume'])
def test_equal_numbers_of_other_classes(build, checkpoint, use):
    path, old = checkpoint
    changes = renamed(CLASSES[::-1])
    given = dict(resume=path) if use == 'resume' else dict(load_from=path)
    runner = build(**given, **changes)
    with pytest.raises(UserError, match='other names or in another order'):
        runner.test() if use == 'test' else runner.train()
    if use == 'train':
        options = dict(load_cfg__reinit=['decode_head.conv_seg'])
        runner = build(load_from=path, **changes, **options)
        runner.load_checkpoint(path)
        key = 'decode_head.conv_seg.weight'
        assert torch.equal(weights_of(runner)[key], old[key].flip(0))
    if use == 'test':
        options = dict(load_cfg__class_rows='by_position')
        build(load_from=path, **changes, **options).test()


@pytest.mark.parametrize(
    'changes',
    [
        # Another tower under the same head, which then reads other widths.
        dict(
            model__backbone__base_channels=4,
            model__decode_head__in_channels=32,
        ),
        # A head that the checkpoint does not have.
        dict(
            model__auxiliary_head=dict(
                type='FCNHead',
                in_channels=64,
                channels=8,
                num_convs=1,
                num_classes=3,
            )
        ),
        dict(model__decode_head__num_convs=2),
        dict(model__decode_head__channels=4),
    ],
)
def test_another_model_starts_as_the_message_says(build, checkpoint, changes):
    path, old = checkpoint
    with pytest.raises(UserError) as caught:
        build(load_from=path, **changes).load_checkpoint(path)
    runner = build(load_from=path, **changes, **followed(caught.value))
    before = weights_of(runner)
    runner.load_checkpoint(path)
    names = followed(caught.value)['load_cfg__reinit']
    for key, value in weights_of(runner).items():
        new = any(key == n or key.startswith(n + '.') for n in names)
        if not new:
            assert torch.equal(value, old[key]), key
        elif key.rpartition('.')[2] == 'weight':
            assert torch.equal(value, before[key]), key
    # A test does not start with parts that nothing has trained.
    with pytest.raises(UserError, match='takes every weight') as caught:
        build(load_from=path, **changes, load_cfg__reinit=names).test()
    beside = re.search(r'clouds test (\S+\.py) (\S+)', str(caught.value))
    assert all(Path(p).is_file() for p in beside.groups())


@pytest.mark.parametrize('use', ['train', 'test'])
def test_what_is_too_much_is_passed_over_as_the_message_says(
    build, checkpoint, tmp_path, use
):
    def self_trained(state):
        state['teacher.steps'] = torch.tensor(4)
        state['teacher.module.decode_head.conv_seg.bias'] = torch.ones(3)

    path = changed(checkpoint, tmp_path, self_trained)
    runner = build(load_from=path)
    with pytest.raises(UserError, match='moving average') as caught:
        runner.test() if use == 'test' else runner.load_checkpoint(path)
    options = followed(caught.value)
    assert options == {'load_cfg__allow_unexpected': ['teacher']}
    runner = build(load_from=path, **options)
    runner.test() if use == 'test' else runner.load_checkpoint(path)
    assert runner._has_loaded


def test_a_test_never_keeps_random_weights(build, checkpoint, tmp_path):
    def without_head(state):
        for key in [k for k in state if k.startswith('decode_head.')]:
            del state[key]

    path = changed(checkpoint, tmp_path, without_head)
    options = dict(load_cfg__allow_missing=['decode_head'])
    with pytest.raises(UserError, match='takes every weight'):
        build(load_from=path, **options).test()
    build(load_from=path, **options).load_checkpoint(path)


def test_resuming_another_model_says_how_to_begin(build, checkpoint):
    path, _ = checkpoint
    changes = renamed([*CLASSES, 'tram'])
    with pytest.raises(UserError, match='leave --resume out') as caught:
        build(resume=path, **changes).train()
    assert f'load_from={path}' in str(caught.value)
    runner = build(load_from=path, **changes, **followed(caught.value))
    runner.load_checkpoint(path)


def test_a_misspelt_option_or_part_is_named(build, checkpoint):
    path, _ = checkpoint
    with pytest.raises(UserError, match="no option 'reinti'"):
        build(load_from=path, load_cfg__reinti=['decode_head'])
    runner = build(load_from=path, load_cfg__reinit=['conv_seg'])
    with pytest.raises(UserError, match='near are: decode_head.conv_seg'):
        runner.load_checkpoint(path)


def test_other_settings_of_the_model_are_said(build, checkpoint):
    path, _ = checkpoint
    runner = build(
        load_from=path, model__data_preprocessor__mean=[0.0, 128.0, 128.0]
    )
    runner.test()
    log = Path(runner.logger.log_file).read_text()
    assert 'trained with other settings of the model' in log
    assert 'mean: [128.0, 128.0, 128.0] -> [0.0, 128.0, 128.0]' in log
    same = build(load_from=path)
    same.test()
    assert 'other settings' not in Path(same.logger.log_file).read_text()
