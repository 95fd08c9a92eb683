"""Numbers that are not finite, in runs of seconds."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS, TRANSFORMS
from nonfinite_run import CHECK, EXACT, PIPELINE, register

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError
from clouds_mmseg.weights.load import read_checkpoint

SCRIPT = Path(__file__).with_name('nonfinite_run.py')


@pytest.fixture(scope='module', autouse=True)
def registered():
    """Transforms and losses that this file needs, and nobody else."""
    undo = register()
    yield
    undo()


class Weights(Hook):
    """Keep what each iteration leaves."""

    priority = 'LOWEST'

    def __init__(self):
        self.after = []

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        self.after.append(copy.deepcopy(runner.model.state_dict()))


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def iterations(work_dir):
    return sorted(int(p.stem[5:]) for p in work_dir.glob('iter_*.pth'))


def test_a_rate_that_is_too_high_stops_the_run(build, tmp_path):
    runner = build(
        optim_wrapper__optimizer__lr=1e25,
        param_scheduler=[],
        default_hooks__checkpoint__interval=1,
        train_cfg__max_iters=6,
        train_cfg__val_interval=6,
    )
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    message = str(caught.value)
    assert 'not finite' in message
    last = (tmp_path / 'work' / 'last_checkpoint').read_text()
    state = read_checkpoint(last)['state_dict']
    assert all(v.isfinite().all() for v in state.values())
    # Finite, and useless: nothing is claimed of it.
    assert f'The newest checkpoint, {last}, has finite weights' in message
    assert 'one has: none of this run.' in message
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert message in log.read_text()
    assert not (tmp_path / 'work' / 'results.json').exists()


@pytest.mark.parametrize('keep', [1, 2])
def test_the_message_and_what_is_kept(build, tmp_path, keep):
    runner = build(
        **EXACT,
        train_cfg__max_iters=12,
        default_hooks__checkpoint__max_keep_ckpts=keep,
    )
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    message = str(caught.value)
    stopped = runner.iter + 1
    assert stopped > 2
    assert f'at iteration {stopped} of 12' in message
    assert 'decode.loss_ce = nan' in message
    assert 'day_train/images/003.png' in message
    assert message.count('.png') == 2
    kept = iterations(tmp_path / 'work')
    # One more than asked for: no step has been made from the newest.
    assert kept == list(range(max(1, stopped - keep - 1), stopped))
    assert f'iter_{stopped - 1}.pth, has finite weights' in message
    assert f'iter_{stopped - 2}.pth.' in message
    assert 'nonfinite_check.max_skipped_steps=N' in message


def test_a_loss_alone_is_enough(build, tmp_path):
    runner = build(
        model__decode_head__loss_decode=dict(
            _delete_=True, type='LossForTest', value=math.inf
        )
    )
    record = Weights()
    runner.register_hook(record)
    with pytest.raises(NonFiniteError, match=r'decode.loss_test = inf'):
        runner.train()
    # The weights are those after the first step.
    assert all(
        torch.equal(value, record.after[0][key])
        for key, value in runner.model.named_parameters()
    )
    assert iterations(tmp_path / 'work') == []


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0)])
def test_a_gradient_alone_is_enough(build, clip):
    runner = build(
        # Finite times finite: 1e38 of each pixel's gradient overflows.
        model__decode_head__loss_decode=dict(
            _delete_=True, type='LossForTest', at=-1, scale=1e38
        ),
        optim_wrapper__clip_grad=clip,
    )
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    assert 'the gradient norm is' in str(caught.value)
    assert 'at iteration 1 of 4' in str(caught.value)
    assert 'has not saved a checkpoint yet' in str(caught.value)


@pytest.mark.parametrize(
    'wrapper',
    [
        dict(type='OptimWrapper', clip_grad=dict(max_norm=1.0)),
        dict(type='BF16OptimWrapper'),
        dict(
            type='OptimWrapper',
            optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, fused=True),
        ),
    ],
)
def test_a_skipped_step_changes_nothing(build, tmp_path, wrapper):
    runner = build(
        **EXACT,
        **{CHECK: 5},
        optim_wrapper=wrapper,
        train_cfg__max_iters=8,
    )
    record = Weights()
    runner.register_hook(record)
    runner.train()
    skipped = runner.message_hub.get_info('skipped_steps')
    assert skipped
    for iteration, (before, after) in enumerate(
        zip(record.after[:-1], record.after[1:], strict=True), 2
    ):
        # Running statistics among them.
        assert same(before, after) == (iteration in skipped)
    assert iterations(tmp_path / 'work')[-1] == 8


def test_resumed_after_a_skip_is_the_run_in_one_go(build, tmp_path):
    changes = dict(
        **EXACT,
        **{CHECK: 5},
        default_hooks__checkpoint__max_keep_ckpts=-1,
    )
    whole = build(tmp_path / 'whole', train_cfg__max_iters=10, **changes)
    whole.train()
    skipped = whole.message_hub.get_info('skipped_steps')
    middle = skipped[0]
    assert middle < 10
    assert len(skipped) > 1
    parts = build(tmp_path / 'parts', train_cfg__max_iters=middle, **changes)
    parts.train()
    again = build(
        tmp_path / 'parts',
        train_cfg__max_iters=10,
        resume=True,
        **changes,
    )
    again.train()
    assert again.message_hub.get_info('skipped_steps') == skipped
    ends = [
        read_checkpoint(str(tmp_path / name / 'iter_10.pth'))
        for name in ('whole', 'parts')
    ]
    assert same(ends[0]['state_dict'], ends[1]['state_dict'])
    text = (tmp_path / 'parts' / 'results.json').read_text()
    assert f'optimiser steps skipped: {len(skipped)}' in text


def test_the_limit_counts_across_a_resume(build, tmp_path):
    changes = dict(**EXACT, **{CHECK: 1})
    first = build(train_cfg__max_iters=12, **changes)
    with pytest.raises(NonFiniteError, match='of at most 1: the steps'):
        first.train()
    skipped = first.message_hub.get_info('skipped_steps')
    again = build(train_cfg__max_iters=12, resume=True, **changes)
    with pytest.raises(NonFiniteError, match='of at most 1: the steps'):
        again.train()
    assert again.message_hub.get_info('skipped_steps') == skipped
    assert again.iter == first.iter


def test_an_accumulated_step_is_dropped_whole(build):
    runner = build(
        **(EXACT | {'default_hooks__checkpoint__interval': 2}),
        **{CHECK: 5},
        optim_wrapper__accumulative_counts=2,
        train_cfg__max_iters=8,
    )
    record = Weights()
    runner.register_hook(record)
    runner.train()
    skipped = runner.message_hub.get_info('skipped_steps')
    ends = [record.after[i] for i in (1, 3, 5, 7)]
    dropped = {(i - 1) // 2 for i in skipped}
    # Both in the first and in the second half of a step.
    assert {i % 2 for i in skipped} == {0, 1}
    assert dropped < {0, 1, 2, 3}
    for index in range(1, 4):
        assert same(ends[index - 1], ends[index]) == (index in dropped)


def test_accumulation_stops_at_the_iteration_itself(build):
    runner = build(
        **(EXACT | {'default_hooks__checkpoint__interval': 12}),
        optim_wrapper__accumulative_counts=12,
        train_cfg__max_iters=12,
    )
    with pytest.raises(NonFiniteError, match=r'003\.png') as caught:
        runner.train()
    assert f'at iteration {runner.iter + 1} of 12' in str(caught.value)
    assert str(caught.value).count('.png') == 2


def test_a_finite_training_keeps_its_bits(build, tmp_path):
    states = []
    for name, check in (('without', None), ('stop', 0), ('skip', 3)):
        default = 'default_hooks__nonfinite_check'
        changes = {CHECK: check} if name != 'without' else {default: None}
        runner = build(tmp_path / name, **changes)
        kinds = [type(hook).__name__ for hook in runner._hooks]
        assert ('NonFiniteCheckHook' in kinds) == (name != 'without')
        runner.train()
        states.append(runner.model.state_dict())
    assert same(states[0], states[1])
    assert same(states[0], states[2])


@pytest.mark.parametrize('kind', ['SafeCheckpointHook', 'CheckpointHook'])
def test_weights_are_looked_at_before_they_are_saved(build, tmp_path, kind):
    class Break(Hook):
        """Overflow after the second step, as a huge rate does."""

        priority = 'VERY_HIGH'

        def after_train_iter(
            self, runner, batch_idx, data_batch=None, outputs=None
        ):
            if runner.iter == 1:
                with torch.no_grad():
                    runner.model.decode_head.conv_seg.weight[0] = math.inf

    runner = build(
        default_hooks__checkpoint__type=kind,
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__max_keep_ckpts=1,
    )
    runner._hooks.insert(0, Break())
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    assert 'decode_head.conv_seg.weight (8 of 24 values)' in str(caught.value)
    assert iterations(tmp_path / 'work') == [1]
    pointer = (tmp_path / 'work' / 'last_checkpoint').read_text()
    assert pointer.endswith('iter_1.pth')
    assert f'The last good checkpoint is {pointer}.' in str(caught.value)


def test_running_statistics_count_as_weights(build, tmp_path):
    # So bright that the variance overflows; the loss stays finite.
    pipeline = copy.deepcopy(PIPELINE)
    pipeline[2]['value'] = 1e25
    runner = build(
        **EXACT | dict(train_dataloader__dataset__pipeline=pipeline)
    )
    with pytest.raises(NonFiniteError):
        runner.train()


def test_a_damaged_checkpoint_is_not_tested(build, trained, tmp_path):
    state = torch.load(trained / 'iter_4.pth', weights_only=False)
    state['state_dict']['decode_head.conv_seg.bias'][1] = math.nan
    path = tmp_path / 'damaged.pth'
    torch.save(state, path)
    expected = r'damaged\.pth are not finite.*conv_seg\.bias \(1 of 3'
    with pytest.raises(NonFiniteError, match=expected):
        build(load_from=str(path)).test()
    with pytest.raises(NonFiniteError, match=expected):
        build(load_from=str(path)).val()
    with pytest.raises(NonFiniteError, match=expected):
        build(load_from=str(path)).train()
    assert not list((tmp_path / 'work').glob('results.json'))


@pytest.mark.parametrize('segmentor', ['EncoderDecoder', 'DGSegmentor'])
@pytest.mark.parametrize('metric', ['DGIoUMetric', 'IoUMetric'])
def test_scores_that_mean_nothing_are_not_counted(
    build, trained, segmentor, metric
):
    evaluator = dict(_delete_=True, type=metric)
    runner = build(
        load_from=str(trained / 'iter_4.pth'),
        model__type=segmentor,
        test_evaluator=evaluator,
    )
    for dataset in runner.test_dataloader.dataset.datasets:
        transform = TRANSFORMS.build(dict(type='PoisonForTest', name='001'))
        dataset.pipeline.transforms.insert(2, transform)
    with pytest.raises(NonFiniteError) as caught:
        runner.test()
    assert 'day_val/images/001.png' in str(caught.value)
    assert 'of 1024 pixels' in str(caught.value)


def test_a_validation_says_where_the_training_stood(build, tmp_path):
    runner = build()
    for dataset in runner.val_dataloader.dataset.datasets:
        transform = TRANSFORMS.build(dict(type='PoisonForTest', name='001'))
        dataset.pipeline.transforms.insert(2, transform)
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    text = str(caught.value)
    assert text.startswith('training stopped after iteration 4: the scores')
    assert 'day_val/images/001.png' in text
    assert f'{tmp_path}' in text and 'iter_4.pth' in text


def test_a_rate_of_zero_is_refused(build):
    with pytest.raises(UserError, match='the learning rate is 0'):
        build(optim_wrapper__optimizer__lr=0.0).train()


def test_a_schedule_of_epochs_is_refused(build):
    schedule = [dict(type='PolyLR', eta_min=0, begin=0, end=4)]
    with pytest.raises(UserError, match='PolyLR counts epochs'):
        build(param_scheduler=schedule).train()


def test_frozen_models_are_refused(build):
    runner = build()
    runner.model.requires_grad_(False)
    with pytest.raises(UserError, match='no parameter of the model'):
        runner.train()


def test_no_gradient_is_refused(build):
    runner = build()
    original = runner.model.forward

    def cut(inputs, data_samples=None, mode='tensor'):
        out = original(inputs, data_samples, mode)
        if mode == 'loss':
            extra = torch.zeros((), requires_grad=True)
            return {k: v.detach() + extra for k, v in out.items()}
        return out

    runner.model.forward = cut
    with pytest.raises(UserError, match='no parameter has got a gradient'):
        runner.train()


def test_a_training_without_effect_is_told(build, tmp_path):
    runner = build(
        model__decode_head__loss_decode=dict(
            _delete_=True, type='LossForTest', at=-1, scale=0.0
        )
    )
    runner.train()
    text = (tmp_path / 'work' / 'results.json').read_text()
    assert 'have changed no weight' in text


def test_no_validation_is_told(build, caplog):
    runner = build(train_cfg__val_begin=10)
    runner.train()
    warnings = runner.message_hub.get_info('result_warning/no_validation')
    assert 'no validation will be made' in warnings


def test_options_are_checked(build):
    with pytest.raises(UserError, match='max_skipped_steps'):
        build(**{CHECK: -1})


@pytest.mark.parametrize('skips', [0, 6])
def test_two_processes_decide_alike(warm_python, tiny_config, tmp_path, skips):
    work_dir = tmp_path / 'work'
    done = warm_python.torchrun(2, SCRIPT, tiny_config, work_dir, skips)
    assert done.returncode == 0, done.stderr
    ends = [
        json.loads((work_dir / f'end_{rank}.json').read_text())
        for rank in range(2)
    ]
    assert ends[0] == ends[1]
    if skips:
        assert ends[0]['error'] is None
        assert ends[0]['iteration'] == 6
        assert len(ends[0]['skipped']) == 2
    else:
        # The process that has the image is named, in both messages.
        assert '= nan (process ' in ends[0]['error']
        assert ends[0]['error'].count('.png') == 1
        assert 'images/003.png' in ends[0]['error']


class ScaledForTest(AmpOptimWrapper):
    """mmengine's wrapper around a loss scaler, which refuses a CPU."""

    def __init__(self, scale=2.0**16, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


@pytest.fixture
def scaled():
    OPTIM_WRAPPERS.register_module(module=ScaledForTest)
    yield
    del OPTIM_WRAPPERS.module_dict['ScaledForTest']


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0)])
@pytest.mark.parametrize('fused', [False, True])
def test_a_loss_scaler_handles_its_own_overflow(build, scaled, clip, fused):
    runner = build(
        optim_wrapper=dict(
            _delete_=True,
            type='ScaledForTest',
            scale=2.0**127,
            clip_grad=clip,
            optimizer=dict(type='AdamW', lr=1e-3, fused=fused),
        ),
        model__decode_head__loss_decode=dict(
            _delete_=True, type='LossForTest', at=-1, scale=256.0
        ),
        # Enough to halve the scale until nothing overflows.
        train_cfg__max_iters=24,
        train_cfg__val_interval=24,
        default_hooks__checkpoint__interval=24,
    )
    record = Weights()
    runner.register_hook(record)
    runner.train()
    # It has dropped steps, and found the scale at which none overflows.
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127
    assert runner.message_hub.get_info('skipped_steps') is None
    parameters = dict(runner.model.named_parameters())
    assert not all(
        torch.equal(value, record.after[0][key])
        for key, value in parameters.items()
    )


@pytest.mark.parametrize('fused', [False, True])
def test_a_loss_under_a_scaler_is_judged(build, scaled, fused):
    changes = dict(
        **EXACT,
        optim_wrapper=dict(
            _delete_=True,
            type='ScaledForTest',
            optimizer=dict(type='AdamW', lr=1e-3, fused=fused),
        ),
        train_cfg__max_iters=8,
    )
    with pytest.raises(NonFiniteError, match=r'images/003\.png'):
        build(**copy.deepcopy(changes)).train()
    runner = build(**changes, **{CHECK: 8})
    record = Weights()
    runner.register_hook(record)
    runner.train()
    skipped = runner.message_hub.get_info('skipped_steps')
    assert skipped
    for iteration in range(2, 9):
        before, after = record.after[iteration - 2 : iteration]
        assert same(before, after) == (iteration in skipped)
