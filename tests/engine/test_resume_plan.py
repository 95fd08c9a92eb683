"""Runs that resume under another plan, against runs in one go."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tiny_run import read_config, write_images

from ablation.rows import ROWS
from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.engine.resumable_runner import CHANGES_KEY
from clouds_mmseg.engine.resume_plan import config_changes
from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.utils.config_file import literal_config, parse_config_text
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import read_checkpoint

POLY = dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False)
EXACT = dict(type='ExactTrainLoop', max_iters=4, val_interval=100)


@pytest.fixture
def run(build, tmp_path):
    """Train in a folder of a name; returns the runner."""

    def run_one(name, **changes):
        changes.setdefault('custom_hooks', [])
        # mmengine takes _delete_ out of what it merges.
        runner = build(tmp_path / name, **copy.deepcopy(changes))
        runner.train()
        return runner

    return run_one


def tensors(runner):
    """Weights, state of the optimiser, rates and states of schedulers."""
    found = dict(unwrap_model(runner.model).state_dict())
    state = runner.optim_wrapper.optimizer.state_dict()
    for index, values in state['state'].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                found[f'{index}.{name}'] = value
    groups = [
        {k: v for k, v in group.items() if k != 'params'}
        for group in runner.optim_wrapper.param_groups
    ]
    return found, groups, [s.state_dict() for s in runner.param_schedulers]


def assert_equal(one, other):
    (a, *rest), (b, *others) = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    assert rest == others


def log_of(runner):
    return Path(runner.logger.log_file).read_text()


def notes_of(runner):
    return runner.message_hub.runtime_info.get(CHANGES_KEY)


ADAMW = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))
    ),
    clip_grad=dict(max_norm=1.0),
    _delete_=True,
)


# Each began with the rates of the longer run, and ended the schedule.
@pytest.mark.parametrize(
    'optimizer, schedulers',
    [
        # The end is filled in: mmengine keeps the rate of iteration 3.
        (None, [dict(type='StepLR', step_size=1, gamma=0.5, by_epoch=False)]),
        (
            ADAMW,
            [
                dict(type='PolyRestartLR', period=4, warmup=2, by_epoch=False),
                dict(type='CosineAnnealingMomentum', T_max=9, by_epoch=False),
            ],
        ),
        (
            None,
            [
                dict(type='LinearLR', start_factor=0.1, end=2, by_epoch=False),
                dict(POLY, begin=2, end=9),
            ],
        ),
    ],
    ids=['filled-in end', 'period, momentum, groups', 'warm-up, decay'],
)
def test_a_longer_run_equals_the_run_in_one_go(run, optimizer, schedulers):
    plan = dict(param_scheduler=schedulers, train_cfg=EXACT)
    if optimizer is not None:
        plan['optim_wrapper'] = optimizer
    longer = dict(plan, train_cfg=dict(EXACT, max_iters=8))
    through = run('through', **longer)
    run('parted', **plan)
    resumed = run('parted', **longer, resume=True)
    assert_equal(through, resumed)
    assert notes_of(resumed) == []


@pytest.mark.parametrize(
    'schedule',
    [
        dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False),
        dict(type='MultiStepLR', milestones=[3, 5], by_epoch=False),
        dict(type='CosineRestartLR', periods=[9], eta_min=0, by_epoch=False),
    ],
    ids=lambda schedule: schedule['type'],
)
def test_every_schedule_can_be_resumed(run, schedule):
    plan = dict(param_scheduler=[schedule])
    longer = dict(plan, train_cfg=dict(EXACT, max_iters=6))
    run('parted', **plan, train_cfg=EXACT)
    resumed = run('parted', **longer, resume=True)
    through = run('through', **longer)
    assert notes_of(resumed) == []
    found, groups, _ = tensors(resumed)
    expected, expected_groups, _ = tensors(through)
    assert groups == expected_groups
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_decay_to_another_end_is_followed_and_said(run, caplog):
    plan = dict(param_scheduler=[POLY], train_cfg=EXACT)
    longer = dict(plan, train_cfg=dict(EXACT, max_iters=8, val_interval=8))
    through = run('through', **longer)
    run('parted', **plan)
    hooks = [dict(type='ResultsHook')]
    resumed = run('parted', **longer, resume=True, custom_hooks=hooks)
    # The rates, but not the weights, of the run in one go.
    assert tensors(resumed)[1:] == tensors(through)[1:]
    [note] = notes_of(resumed)
    assert 'first 4 iterations were trained at other rates' in note
    assert 'in iteration 2' in note and 'from iteration 5 on' in note
    log = log_of(resumed)
    assert log.count(note) == 2
    assert 'not those of one run with this config' in log
    results = json.loads((Path(resumed.work_dir) / 'results.json').read_text())
    assert results['resumed_with_changes'] == [note]
    # Who continues it once more hears of it, too.
    again = run(
        'parted',
        param_scheduler=[dict(POLY, end=8)],
        train_cfg=dict(EXACT, max_iters=9),
        resume=True,
    )
    assert notes_of(again) == [note]
    assert f'The checkpoint is not that of one run: {note}' in log_of(again)


@pytest.mark.parametrize(
    'before, after',
    [
        ([], [dict(type='StepLR', step_size=2, by_epoch=False)]),
        ([dict(type='StepLR', step_size=2, by_epoch=False)], []),
        ([POLY], [POLY, dict(type='StepLR', step_size=2, by_epoch=False)]),
        ([POLY], [dict(type='ExponentialLR', gamma=0.9, by_epoch=False)]),
    ],
    ids=['none before', 'none after', 'one more', 'another type'],
)
def test_another_number_or_type_of_schedulers(run, before, after):
    run('parted', param_scheduler=before)
    changes = dict(param_scheduler=after, train_cfg__max_iters=6)
    resumed = run('parted', resume=True, **changes)
    through = run('through', **changes)
    assert tensors(resumed)[1:] == tensors(through)[1:]
    assert 'at other rates' in notes_of(resumed)[0]


def test_another_learning_rate_is_used_and_said(run):
    run('parted')
    changes = dict(optim_wrapper__optimizer__lr=0.2, train_cfg__max_iters=6)
    resumed = run('parted', resume=True, **changes)
    lr = resumed.optim_wrapper.optimizer.param_groups[0]['lr']
    assert lr == pytest.approx(0.2)
    [note] = notes_of(resumed)
    assert 'lr 0.025 instead of 0.1 in iteration 1' in note


@pytest.mark.parametrize(
    'key, value, text',
    [
        ('optim_wrapper.optimizer.weight_decay', 0.1, '(not set) -> 0.1'),
        ('optim_wrapper.optimizer.momentum', 0.5, '0.9 -> 0.5'),
        ('optim_wrapper.type', 'BF16OptimWrapper', '-> BF16OptimWrapper'),
        ('optim_wrapper.clip_grad', dict(max_norm=1), "{'max_norm': 1}"),
        ('randomness.seed', 3, '0 -> 3'),
        ('model.decode_head.loss_decode.loss_weight', 2, '-> 2'),
        ('train_dataloader.batch_size', 3, '2 (2 x 1) -> 3 (3 x 1)'),
        ('train_cfg.type', 'ExactTrainLoop', '-> ExactTrainLoop'),
    ],
)
def test_other_settings_are_refused_or_accepted(
    build, run, trained, key, value, text
):
    changes = {key.replace('.', '__'): value, 'train_cfg__max_iters': 5}
    resume = str(trained / 'iter_4.pth')
    with pytest.raises(UserError) as caught:
        build(resume=resume, **changes).train()
    message = str(caught.value)
    assert text in message and resume in message
    named = message.split('resume_cfg.accept="[')[1].split(']')[0]
    assert named == key.replace('train_dataloader.batch', 'total_batch')
    resumed = run(
        'new', resume=resume, resume_cfg=dict(accept=[named]), **changes
    )
    assert resumed.iter == 5
    [note] = notes_of(resumed)
    assert named in note


def test_accepted_settings_are_really_used(run, trained):
    changes = dict(
        optim_wrapper__optimizer__weight_decay=0.1,
        randomness__seed=3,
        train_cfg__max_iters=5,
    )
    resumed = run(
        'new',
        resume=str(trained / 'iter_4.pth'),
        resume_cfg=dict(accept=['optim_wrapper.optimizer', 'randomness.seed']),
        **changes,
    )
    assert resumed.seed == 3
    group = resumed.optim_wrapper.optimizer.param_groups[0]
    assert group['weight_decay'] == 0.1
    saved = torch.load(
        Path(resumed.work_dir) / 'iter_5.pth', weights_only=False
    )
    assert saved['optimizer']['param_groups'][0]['weight_decay'] == 0.1
    assert saved['meta']['seed'] == 3


def test_another_optimiser_is_never_accepted(build, trained):
    runner = build(
        resume=str(trained / 'iter_4.pth'),
        optim_wrapper=copy.deepcopy(ADAMW),
        train_cfg__max_iters=5,
        resume_cfg=dict(accept=['optim_wrapper']),
    )
    with pytest.raises(UserError, match='type: SGD -> AdamW') as caught:
        runner.train()
    assert 'load_from=' in str(caught.value)
    assert 'resume_cfg' not in str(caught.value)


def test_other_parameter_groups_are_refused(build, trained):
    runner = build(
        resume=str(trained / 'iter_4.pth'),
        optim_wrapper__paramwise_cfg=dict(bias_lr_mult=2.0),
        train_cfg__max_iters=5,
        resume_cfg=dict(accept=['optim_wrapper.paramwise_cfg']),
    )
    with pytest.raises(UserError, match='parameters in 1 groups -> '):
        runner.train()


def test_unfreezing_is_known(build, trained, run):
    first = run('frozen', model__backbone__frozen_stages=1)
    changes = dict(
        resume=str(Path(first.work_dir) / 'iter_4.pth'),
        train_cfg__max_iters=5,
    )
    with pytest.raises(UserError) as caught:
        build(**changes).train()
    message = str(caught.value)
    assert 'model.backbone.frozen_stages: 1 -> (not set)' in message
    assert 'was frozen' in message
    resumed = run('new', **changes, resume_cfg=dict(accept=['model']))
    assert resumed.iter == 5


def test_what_changes_nothing_may_change(run, trained):
    resumed = run(
        'new',
        resume=str(trained / 'iter_4.pth'),
        train_dataloader__num_workers=1,
        train_cfg__max_iters=5,
        train_cfg__val_interval=3,
        model__test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(8, 8)),
        default_hooks__logger__interval=1,
        default_hooks__checkpoint__interval=1,
    )
    assert resumed.iter == 5 and notes_of(resumed) == []


def test_a_checkpoint_behind_the_end_is_refused(build, trained):
    resume = str(trained / 'iter_4.pth')
    with pytest.raises(UserError, match=r'4 iters, more than .*max_iters=3'):
        build(resume=resume, train_cfg__max_iters=3).train()


def test_a_finished_run_has_nothing_left_to_train(run, trained):
    runner = run('new', resume=str(trained / 'iter_4.pth'))
    assert runner.iter == 4
    assert 'nothing is left to train' in log_of(runner)


def test_a_finished_run_need_not_fit_another_optimiser(run, trained):
    before = read_checkpoint(str(trained / 'iter_4.pth'))['state_dict']
    runner = run(
        'new',
        resume=str(trained / 'iter_4.pth'),
        optim_wrapper__paramwise_cfg=dict(
            custom_keys=dict(backbone=dict(lr_mult=0.1))
        ),
    )
    assert 'nothing is left to train' in log_of(runner)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_other_images_are_known(build, run, trained, tmp_path):
    resume = str(trained / 'iter_4.pth')
    changes = dict(resume=resume, train_cfg__max_iters=5)
    write_images(tmp_path / 'more', 7, 0)
    key = 'train_dataloader__dataset__data_root'
    with pytest.raises(UserError, match='dataset: day 6 -> day 7'):
        build(**changes, **{key: str(tmp_path / 'more')}).train()
    # The same images elsewhere are the same images.
    write_images(tmp_path / 'moved', 6, 0)
    moved = run('moved', **changes, **{key: str(tmp_path / 'moved')})
    assert moved.iter == 5
    for folder in ('images', 'labels'):
        path = tmp_path / 'moved' / folder
        (path / '003.png').rename(path / 'renamed.png')
    with pytest.raises(UserError, match='of other names'):
        build(**changes, **{key: str(tmp_path / 'moved')}).train()


def test_another_number_of_processes_is_a_warning(run, trained, tmp_path):
    path = tmp_path / 'two.pth'
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    checkpoint['meta']['training'].update(processes=2, batch_size=1)
    torch.save(checkpoint, path)
    resumed = run('new', resume=str(path), train_cfg__max_iters=5)
    [note] = notes_of(resumed)
    assert 'ran in 2 processes, the later ones in 1' in note


def old_checkpoint(trained, path, *keys):
    """A checkpoint without some entries of its meta."""
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    for key in keys:
        del checkpoint['meta'][key]
    torch.save(checkpoint, path)
    return str(path)


@pytest.mark.parametrize('keys', [('training',), ('training', 'cfg', 'seed')])
def test_old_checkpoints_still_resume(run, trained, tmp_path, keys):
    path = old_checkpoint(trained, tmp_path / 'old.pth', *keys)
    plan = dict(train_cfg__max_iters=6)
    resumed = run('new', resume=path, **plan)
    assert notes_of(resumed) == []
    fresh = run('fresh', resume=str(trained / 'iter_4.pth'), **plan)
    assert_equal(resumed, fresh)


def test_a_config_is_not_needed_to_notice(build, run, trained, tmp_path):
    path = old_checkpoint(trained, tmp_path / 'old.pth', 'training', 'cfg')
    plan = dict(resume=path, train_cfg__max_iters=6)
    with pytest.raises(UserError, match='weight_decay: 0 -> 0.1'):
        build(**plan, optim_wrapper__optimizer__weight_decay=0.1).train()
    resumed = run('new', **plan, param_scheduler=[POLY])
    assert 'the checkpoint has lr 0.05 after 4' in notes_of(resumed)[0]


def test_a_stale_end_of_an_earlier_version_is_put_right(run, tmp_path):
    step = [dict(type='StepLR', step_size=1, gamma=0.5, by_epoch=False)]
    run('parted', param_scheduler=step, train_cfg=EXACT)
    path = tmp_path / 'parted' / 'iter_4.pth'
    checkpoint = torch.load(path, weights_only=False)
    # As if a run to iteration 2 had been resumed: the rate stayed.
    for state in checkpoint['param_schedulers']:
        state['end'] = 2
    checkpoint['optimizer']['param_groups'][0]['lr'] = 0.025
    torch.save(checkpoint, path)
    resumed = run(
        'new',
        param_scheduler=step,
        train_cfg=dict(EXACT, max_iters=6),
        resume=str(path),
    )
    lr = resumed.optim_wrapper.optimizer.param_groups[0]['lr']
    assert lr == 0.05 * 0.5**5
    assert 'schedule of its own config' in notes_of(resumed)[0]


def test_a_seed_that_nobody_gave_is_the_checkpoints(run):
    plan = dict(randomness=dict(seed=None), train_cfg=EXACT)
    first = run('parted', **plan)
    resumed = run(
        'parted',
        **dict(plan, train_cfg=dict(EXACT, max_iters=8)),
        resume=True,
    )
    through = run(
        'through',
        randomness=dict(seed=first.seed),
        train_cfg=dict(EXACT, max_iters=8),
    )
    assert resumed.train_dataloader.dataset.seed == first.seed
    assert_equal(resumed, through)


def test_no_code_of_a_checkpoint_is_run(run, trained, tmp_path):
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    code = f'import os\nos.mkdir({str(tmp_path / "ran")!r})\n'
    checkpoint['meta'].update(cfg=code, config=code)
    torch.save(checkpoint, tmp_path / 'evil.pth')
    run('new', resume=str(tmp_path / 'evil.pth'), train_cfg__max_iters=5)
    assert not (tmp_path / 'ran').exists()


class TestAccumulation:
    plan = dict(
        optim_wrapper__accumulative_counts=2,
        train_cfg=EXACT,
        param_scheduler=[],
    )

    def test_between_updates_no_checkpoint_is_saved(self, build):
        runner = build(**self.plan, default_hooks__checkpoint__interval=3)
        with pytest.raises(UserError, match='interval=2 or 4'):
            runner.train()

    def test_at_an_update_a_run_resumes_exactly(self, run):
        longer = dict(self.plan, train_cfg=dict(EXACT, max_iters=7))
        through = run('through', **longer)
        run('parted', **self.plan)
        assert_equal(through, run('parted', **longer, resume=True))

    def test_an_early_last_update_is_not_continued(self, build, run):
        run('parted', **dict(self.plan, train_cfg=dict(EXACT, max_iters=3)))
        longer = dict(self.plan, train_cfg=dict(EXACT, max_iters=6))
        runner = build(
            resume=str(Path(build().work_dir).parent / 'parted/iter_3.pth'),
            **longer,
        )
        with pytest.raises(UserError, match='3 is no multiple of 2'):
            runner.train()


@pytest.mark.parametrize(
    'row', [r for r in ROWS if r.warm_up], ids=lambda row: row.name
)
def test_rows_of_the_ablation_share_their_warm_up(row, repo_root):
    paths = {r.name: repo_root / r.config for r in ROWS}
    was, now = (
        literal_config(Config.fromfile(paths[name]).to_dict())
        for name in (row.warm_up, row.name)
    )
    begin = now['train_cfg']['warmup_iters']
    assert was != now
    assert config_changes(was, now, begin) == []
    # The number of images is a fact of the checkpoint, not of its config.
    changes = config_changes(was, now, begin + 1)
    assert bool(changes) == (row.name != 'labelled_six')


@pytest.mark.usefixtures('formatted_configs')
def test_the_text_of_a_config_has_its_values(repo_root):
    for name in ('toycity/clouds.py', 'clouds/gta2cs.py', 'warmup/syn2cs.py'):
        cfg = Config.fromfile(repo_root / 'configs' / name)
        assert parse_config_text(cfg.pretty_text) == literal_config(
            cfg.to_dict()
        )
    assert parse_config_text("a = dict({'b c': [(1, -2.5), None]})") == {
        'a': {'b c': [[1, -2.5], None]}
    }
    assert parse_config_text('a = (') is None
    assert parse_config_text('') is None


def test_accept_must_be_a_list(build, trained):
    runner = build(
        resume=str(trained / 'iter_4.pth'),
        resume_cfg=dict(acept=['model']),
        train_cfg__max_iters=5,
    )
    with pytest.raises(UserError, match='resume_cfg is .*acept'):
        runner.train()


def test_read_config_is_what_the_tools_read(tiny_config, tmp_path, trained):
    cfg = read_config(
        tiny_config,
        tmp_path / 'work',
        resume=str(trained / 'iter_4.pth'),
        train_cfg__max_iters=5,
        resume_cfg=dict(accept='model'),
    )
    assert build_runner(cfg).train() is not None
