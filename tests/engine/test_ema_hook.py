"""EMAHook: what is averaged, evaluated, saved and resumed."""

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from torch import nn

from clouds_mmseg.conversion.publish import publish, published_lines
from clouds_mmseg.engine import DGEMAHook
from clouds_mmseg.engine.hooks.ema import trained_part
from clouds_mmseg.models import TIMMTower
from clouds_mmseg.utils.errors import UserError

HOOK = dict(type='EMAHook', begin_iter=2, momentum=0.25)


class Record(Hook):
    """Keep the weights of each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.weights = []

    def after_train_iter(self, runner, *args, **kwargs):
        self.weights.append(copy_of(runner.model))


def copy_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def hook_of(runner):
    (hook,) = [h for h in runner.hooks if isinstance(h, EMAHook)]
    assert isinstance(hook, DGEMAHook)
    return hook


def equal(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


@pytest.fixture(scope='module')
def averaged(tmp_path_factory, tiny_data):
    """A run of four iterations, and the weights of each."""
    from tiny_run import read_config, write_config

    from clouds_mmseg.cli.config import build_runner

    folder = tmp_path_factory.mktemp('ema')
    config = write_config(folder / 'tiny.py', tiny_data)
    cfg = read_config(
        config,
        folder / 'work',
        default_hooks__ema=HOOK,
        default_hooks__checkpoint=dict(interval=1, max_keep_ckpts=-1),
        train_cfg__type='ExactTrainLoop',
    )
    runner = build_runner(cfg)
    record = Record()
    runner.register_hook(record)
    runner.train()
    return SimpleNamespace(
        runner=runner,
        weights=record.weights,
        work=folder / 'work',
        path=config,
    )


def test_checkpoints_have_both_weights(averaged):
    weights = averaged.weights
    parameters = dict(averaged.runner.model.named_parameters())
    # The second is copied, the others are averaged.
    average = weights[1]
    for later in weights[2:]:
        average = {
            k: torch.lerp(v, later[k], 0.25) if k in parameters else later[k]
            for k, v in average.items()
        }
    first, last = (
        torch.load(averaged.work / f'iter_{i}.pth', weights_only=False)
        for i in (1, 4)
    )
    assert 'ema_state_dict' not in first and 'weights' not in first['meta']
    equal(first['state_dict'], weights[0])
    assert last['state_dict'].keys() == average.keys()
    for key, value in average.items():
        torch.testing.assert_close(last['state_dict'][key], value)
    trained = last['ema_state_dict']
    assert int(trained.pop('steps')) == 3
    equal(
        {k.removeprefix('module.'): v for k, v in trained.items()},
        {k: v for k, v in weights[3].items() if k in parameters},
    )
    assert '3 updates' in last['meta']['weights']
    # The trained weights are there again after the validation.
    equal(copy_of(averaged.runner.model), weights[3])


def test_the_average_is_validated_tested_and_published(
    averaged, build, tmp_path
):
    validated = json.loads((averaged.work / 'results.json').read_text())
    assert '3 updates' in validated['weights']
    path = averaged.work / 'iter_4.pth'
    tester = build(load_from=str(path), default_hooks__ema=HOOK)
    tester.test()
    tested = json.loads((tmp_path / 'work/results.json').read_text())
    assert tested['weights'] == validated['weights']
    assert tested['metrics'] == validated['metrics']
    assert 'averaged weights' in ' '.join(tested['warnings'])
    done = publish(path, tmp_path / 'out.safetensors')
    assert '3 updates' in published_lines(done)[1]


@pytest.mark.parametrize('step', [1, 3])
def test_resumed_exactly(averaged, build, step):
    runner = build(
        resume=str(averaged.work / f'iter_{step}.pth'),
        default_hooks__ema=HOOK,
        default_hooks__checkpoint__interval=1,
        train_cfg__type='ExactTrainLoop',
    )
    runner.train()
    equal(copy_of(runner.model), averaged.weights[3])
    equal(
        hook_of(runner).ema_model.state_dict(),
        hook_of(averaged.runner).ema_model.state_dict(),
    )


def test_a_run_without_the_hook_continues_from_the_trained_weights(
    averaged, build
):
    changes = dict(
        resume=str(averaged.work / 'iter_3.pth'),
        default_hooks__checkpoint__interval=1,
        train_cfg__type='ExactTrainLoop',
    )
    with pytest.raises(UserError, match='EMAHook'):
        build(**changes).train()
    runner = build(resume_cfg=dict(accept=['custom_hooks.EMAHook']), **changes)
    runner.train()
    equal(copy_of(runner.model), averaged.weights[3])


def test_as_mmengine_averages():
    """The parameters, to the last bit; with and without buffers."""
    for more in ({}, dict(update_buffers=True), dict(interval=2)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        # Not run, and not trained.
        model[0].dropped = nn.Linear(2, 2).requires_grad_(False)
        runner = SimpleNamespace(model=model, iter=0, epoch=0)
        hooks = [
            kind(begin_iter=2, momentum=0.3, **more)
            for kind in (EMAHook, DGEMAHook)
        ]
        for hook in hooks:
            hook.before_run(runner)
        for runner.iter in range(5):
            with torch.no_grad():
                model(torch.randn(8, 3))
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter))
            for hook in hooks:
                hook.after_train_iter(runner, 0)
        whole, part = (hook.ema_model.state_dict() for hook in hooks)
        assert part.keys() < whole.keys()
        assert not any('dropped' in key for key in part)
        assert any('running' in key for key in part) == bool(
            more.get('update_buffers')
        )
        for key, value in part.items():
            assert torch.equal(value, whole[key]), key


def test_a_frozen_tower_and_a_teacher_are_not_averaged():
    adapter = dict(type='LoRA', rank=2)
    model = nn.Module()
    model.backbone = TIMMTower('test_vit', adapter=adapter)
    model.decode_head = nn.Linear(2, 2)
    model.teacher = nn.Linear(2, 2).requires_grad_(False)
    part = trained_part(model)
    names = {f'backbone.{n}' for n in model.backbone.adapter_parameters()}
    assert set(part.state_dict()) == names | {
        'decode_head.weight',
        'decode_head.bias',
    }


def test_an_average_of_another_model_is_refused():
    model = nn.Linear(2, 2)
    hook = DGEMAHook()
    runner = SimpleNamespace(model=model, is_resumed=True)
    hook.before_run(runner)
    checkpoint = dict(
        state_dict=copy_of(model),
        ema_state_dict={
            'steps': torch.tensor(1),
            'module.weight': torch.ones(1),
        },
    )
    with pytest.raises(UserError, match='of other parameters: '):
        hook.after_load_checkpoint(runner, checkpoint)


def test_a_run_that_ends_before_the_average_begins_is_told(build, capfd):
    runner = build(
        default_hooks__ema=dict(HOOK, begin_iter=9),
        train_cfg__max_iters=1,
    )
    runner.train()
    assert 'this run ends at 1: no weights' in ''.join(capfd.readouterr())
