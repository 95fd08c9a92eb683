"""Warm-up, teacher, refinement and resume, by real runs."""

import functools
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from every_refiner_run import (
    StoppedError,
    every_refiner,
    write_every_refiner,
)
from mmengine.config import Config
from mmengine.hooks import Hook
from self_training_run import (
    RecordLosses,
    write_bank,
    write_self_training,
)
from tiny_run import CLASSES, read_config
from tiny_sam import build_tiny_sam

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.engine.self_training_runner import require_generated_images
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError

SCRIPT = Path(__file__).with_name('self_training_run.py')
EVERY_REFINER = SCRIPT.with_name('every_refiner_run.py')


@pytest.fixture(scope='module')
def bank(tmp_path_factory):
    return write_bank(tmp_path_factory.mktemp('bank'))


@pytest.fixture(scope='module')
def config(tmp_path_factory, tiny_data, bank):
    folder = tmp_path_factory.mktemp('self_training')
    return write_self_training(folder, tiny_data, bank)


@pytest.fixture(scope='module')
def script(warm_python):
    """Run the script as a process that may be killed."""
    return functools.partial(warm_python.run, SCRIPT)


@pytest.fixture(scope='module')
def train_on(warm_python, config):
    """Train in processes, whose losses and weights must agree; the losses."""

    def train(processes, work_dir, *options):
        done = warm_python.torchrun(
            *(processes, SCRIPT, config, work_dir, '--distributed', *options)
        )
        assert done.returncode == 0, done.stderr
        first, *others = (
            (
                losses(work_dir, f'losses_{rank}.txt'),
                torch.load(work_dir / f'state_{rank}.pth', weights_only=True),
            )
            for rank in range(processes)
        )
        for other in others:
            # What is logged is the mean over the processes.
            assert other[0] == first[0]
            for key, value in first[1].items():
                assert torch.equal(value, other[1][key]), key
        return first[0]

    return train


@pytest.fixture(scope='module')
def whole(tmp_path_factory, config):
    """Work dir of a run that nothing interrupted, and what it printed."""
    work_dir = tmp_path_factory.mktemp('whole') / 'work'
    # In a process of its own, whose hashes are not those of the others.
    done = subprocess.run(
        [sys.executable, SCRIPT, config, work_dir],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return work_dir, done.stdout + done.stderr


def losses(work_dir, name='losses_0.txt'):
    lines = (work_dir / name).read_text().split('\n')[:-1]
    return dict(line.split() for line in lines)


def weights(work_dir):
    path = (work_dir / 'last_checkpoint').read_text()
    return torch.load(path, weights_only=False)['state_dict']


# In the warm-up, at the switch, and after the teacher has moved.
@pytest.mark.parametrize('kill_at', [2, 3, 7])
def test_killed_run_continues_exactly(
    tmp_path, whole, config, kill_at, script
):
    work_dir = tmp_path / 'work'
    killed = script(config, work_dir, '--kill-at', kill_at)
    assert killed.returncode == -signal.SIGKILL
    done = script(config, work_dir, '--resume')
    assert done.returncode == 0, done.stderr
    assert losses(work_dir) == losses(whole[0])
    expected = weights(whole[0])
    got = weights(work_dir)
    assert expected.keys() == got.keys()
    for key in expected:
        assert torch.equal(expected[key], got[key]), key


def test_killed_run_with_every_extension_continues_exactly(
    tmp_path, config, script
):
    works = [tmp_path / 'whole', tmp_path / 'killed']
    for work_dir, options in (
        (works[0], []),
        (works[1], ['--kill-at', 7]),
        (works[1], ['--resume']),
    ):
        # Each run makes its own features; the second begins with half.
        features = ['--features', work_dir.with_name(f'{work_dir.name}_f')]
        done = script(config, work_dir, '--plus', *features, *options)
        killed = '--kill-at' in options
        expected = -signal.SIGKILL if killed else 0
        assert done.returncode == expected, done.stderr
    assert losses(works[0]) == losses(works[1])
    expected, got = map(weights, works)
    assert 'class_pixels' in expected and expected['class_pixels'].sum() > 0
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_every_refiner_trains_and_continues_exactly(
    tmp_path, tiny_data, bank, warm_python, promptable, monkeypatch
):
    registry = pytest.importorskip('segment_anything').sam_model_registry
    monkeypatch.setitem(registry, 'vit_b', build_tiny_sam)
    write_self_training(tmp_path, tiny_data, bank)
    refiners = every_refiner(promptable, tmp_path / 'cache')
    config = write_every_refiner(tmp_path, refiners)
    done = warm_python.run(
        EVERY_REFINER, config, '--work-dir', tmp_path / 'whole'
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for refiner in refiners:
        # Each has run.
        assert list(Path(refiner['cache_dir']).rglob('*.arr')), refiner
    # With a cache that is empty at first.
    config = write_every_refiner(
        tmp_path, every_refiner(promptable, tmp_path / 'other')
    )
    monkeypatch.setenv('STOP_AT', '2')
    with pytest.raises(StoppedError):
        build_runner(read_config(config, tmp_path / 'stopped')).train()
    monkeypatch.delenv('STOP_AT')
    resumed = read_config(config, tmp_path / 'stopped', resume=True)
    build_runner(resumed).train()
    expected, got = (weights(tmp_path / x) for x in ('whole', 'stopped'))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_the_words_of_a_refiner_are_those_of_the_dataset(
    tmp_path, config, promptable
):
    words = {name: [name] for name in CLASSES[::-1]}
    cfg = read_config(
        config,
        tmp_path / 'work',
        custom_hooks=[
            dict(
                type='SAMRefineHook',
                refiner=dict(
                    type='ConceptRefiner',
                    weights=str(promptable('sam3')),
                    words=words,
                ),
            )
        ],
    )
    said = (
        'its words are box, sky, ground; those of the dataset, .*, are ground'
    )
    with pytest.raises(UserError, match=said):
        build_runner(cfg).train()


def assert_equal_runs(expected, got, atol=1e-5):
    """Compare losses and weights of two work dirs, up to summation order."""
    one, two = losses(expected), losses(got)
    assert two
    for step, value in two.items():
        assert float.fromhex(value) == pytest.approx(
            float.fromhex(one[step]), rel=1e-4
        ), step
    one, two = weights(expected), weights(got)
    assert one.keys() == two.keys()
    for key, value in one.items():
        # The bias of the keys changes no attention: its gradient is rounding,
        # which AdamW scales up to a step.
        if not key.endswith('in_proj_bias'):
            torch.testing.assert_close(
                two[key], value, rtol=1e-4, atol=atol, msg=key
            )


def test_processes_draw_the_same_views(tmp_path, train_on, config, script):
    """Mixing, colours, masks: of 1, 2 and 4 processes, 4 images in all."""
    # Three of them with both stages' images.
    options = ('--plus', '--total', 4, '--iterations', 6)
    done = script(config, tmp_path / '1', *options)
    assert done.returncode == 0, done.stderr
    # More parts, more rounding: 2.7e-7 and 2.4e-5 were seen.
    for processes, atol in ((2, 1e-5), (4, 1e-4)):
        work_dir = tmp_path / str(processes)
        train_on(processes, work_dir, *options)
        assert_equal_runs(tmp_path / '1', work_dir, atol)


# A trained tower, and two batches of four images an update.
TOWER = ('--tower', '--total', 4, '--iterations', 6)


@pytest.fixture(scope='module')
def one_tower(tmp_path_factory, config, script):
    """Work dir of a trained tower in one process."""
    work_dir = tmp_path_factory.mktemp('tower') / 'one'
    done = script(config, work_dir, *TOWER)
    assert done.returncode == 0, done.stderr
    return work_dir


def test_accumulated_gradients_are_exchanged_before_an_update_only(
    tmp_path, one_tower, train_on
):
    assert len(train_on(2, tmp_path / 'two', *TOWER)) == 6
    assert_equal_runs(one_tower, tmp_path / 'two')
    for rank in range(2):
        steps = (tmp_path / 'two' / f'exchanges_{rank}.txt').read_text()
        assert list(dict.fromkeys(steps.split())) == ['2', '4', '6']


def test_a_sharded_tower_trains_as_one_process_does(
    tmp_path, config, script, train_on, one_tower
):
    """With accumulated gradients; each continues the other's checkpoint."""

    def take_over(name, other, step):
        (tmp_path / name).mkdir()
        file = shutil.copy(other / f'iter_{step}.pth', tmp_path / name)
        (tmp_path / name / 'last_checkpoint').write_text(str(file))
        return tmp_path / name

    two = take_over('two', one_tower, 2)
    assert len(train_on(2, two, *TOWER, '--sharded', '--resume')) == 4
    assert_equal_runs(one_tower, two)
    again = take_over('again', two, 4)
    done = script(config, again, *TOWER, '--resume')
    assert done.returncode == 0, done.stderr
    assert_equal_runs(one_tower, again)


def test_generated_images_beside_leave_the_warm_up_as_it_is(
    tmp_path, config, whole
):
    cfg = read_config(
        config,
        tmp_path / 'work',
        train_cfg__generated_share=None,
        train_cfg__generated_beside=1,
        train_cfg__max_iters=4,
        param_scheduler=[],
    )
    sizes = []

    class Sizes(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            labelled = ['gt_sem_seg' in s for s in data_batch['data_samples']]
            sizes.append((len(data_batch['inputs']), sum(labelled)))

    runner = build_runner(cfg)
    runner.register_hook(Sizes())
    runner.train()
    assert sizes == [(2, 2), (2, 2), (2, 2), (3, 2)]


def test_warmup_alone_continues_exactly_too(tmp_path, config, script):
    works = [tmp_path / 'whole', tmp_path / 'killed']
    for work_dir, options in (
        (works[0], []),
        (works[1], ['--kill-at', 3]),
        (works[1], ['--resume']),
    ):
        done = script(config, work_dir, '--source-only', *options)
        killed = '--kill-at' in options
        expected = -signal.SIGKILL if killed else 0
        assert done.returncode == expected, done.stderr
    assert losses(works[0]) == losses(works[1])
    expected, got = map(weights, works)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_warm_up_of_another_run_can_be_shared(tmp_path, whole, config):
    alone = read_config(
        config,
        tmp_path / 'alone',
        train_cfg__warmup_iters=10,
        default_hooks__checkpoint__max_keep_ckpts=-1,
    )
    build_runner(alone).train()
    shared = tmp_path / 'alone' / 'iter_3.pth'
    runner = build_runner(
        read_config(config, tmp_path / 'work', resume=str(shared))
    )
    runner.train()
    expected, got = weights(whole[0]), weights(tmp_path / 'work')
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_a_beginning_that_ended_its_schedule_can_be_shared(tmp_path, config):
    # `end` is filled in with max_iters, so the schedules differ by it.
    rates = dict(type='PolyRestartLR', period=4, warmup=2, by_epoch=False)
    plan = dict(
        param_scheduler=[rates],
        train_cfg__warmup_iters=4,
        train_cfg__max_iters=8,
    )
    build_runner(read_config(config, tmp_path / 'whole', **plan)).train()
    short = dict(plan, train_cfg__max_iters=4)
    build_runner(read_config(config, tmp_path / 'short', **short)).train()
    shared = tmp_path / 'short' / 'iter_4.pth'
    build_runner(
        read_config(config, tmp_path / 'work', resume=str(shared), **plan)
    ).train()
    expected, got = (
        torch.load(tmp_path / name / 'iter_8.pth', weights_only=False)
        for name in ('whole', 'work')
    )
    for key, value in expected['state_dict'].items():
        assert torch.equal(got['state_dict'][key], value), key
    for index, state in expected['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(got['optimizer']['state'][index][key], value)
    for key in ('param_groups', 'base_param_settings'):
        a, b = (c['optimizer'].get(key) for c in (expected, got))
        assert str(a) == str(b)
    assert expected['param_schedulers'] == got['param_schedulers']


def test_only_the_warm_up_can_be_shared(tmp_path, whole, config):
    first = Path(whole[0]) / 'iter_9.pth'
    for changes, key in (
        (dict(train_cfg__warmup_iters=4), 'train_cfg.warmup_iters: 3 -> 4'),
        (dict(model__teacher_decay=0.9), 'model.teacher_decay: 0.5 -> 0.9'),
    ):
        cfg = read_config(
            config, tmp_path / 'work', resume=str(first), **changes
        )
        with pytest.raises(UserError, match=key):
            build_runner(cfg).train()


def test_named_checkpoint_is_resumed_in_another_folder(
    tmp_path, whole, config
):
    # Copied in time: the run keeps its two newest checkpoints only.
    first = Path(whole[0]) / 'iter_9.pth'
    cfg = read_config(config, tmp_path / 'other', resume=str(first))
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 10
    assert not (tmp_path / 'other' / 'iter_8.pth').exists()
    expected, got = weights(whole[0]), weights(tmp_path / 'other')
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_teacher_is_saved_and_behind_the_student(whole):
    state = weights(whole[0])
    teacher = {k: v for k, v in state.items() if k.startswith('teacher.')}
    # Copied at iteration 3, moved after 5, 7 and 9.
    assert teacher['teacher.steps'] == 4
    name = 'decode_head.query_feat.weight'
    assert not torch.equal(teacher[f'teacher.module.{name}'], state[name])
    assert not any('backbone' in key for key in teacher)
    assert not any('refiner' in key for key in state)


def test_run_tells_what_a_user_needs(whole):
    text = whole[1]
    assert 'Self-training begins at iteration 3' in text
    assert 'Pseudo labels of' in text
    assert 'unchanged by refinement' in text
    line = next(x for x in text.splitlines() if 'Iter(train) [10/10]' in x)
    assert '  decode.loss_mask: ' in line
    assert '.d0.' not in line
    scalars = next(whole[0].rglob('scalars.json')).read_text()
    assert '"decode.d0.loss_mask"' in scalars
    assert list(whole[0].rglob('pseudo_label_0*.png'))


def test_report_reaches_the_scalars(tmp_path, config):
    cfg = read_config(
        config,
        tmp_path / 'work',
        train_cfg__warmup_iters=1,
        train_cfg__max_iters=4,
        custom_hooks=[
            dict(type='EMATeacherHook', interval=1),
            dict(type='PseudoLabelReportHook', interval=2),
        ],
    )
    runner = build_runner(cfg)
    runner.train()
    lines = [
        json.loads(line)
        for line in next(Path(runner.log_dir).rglob('scalars.json'))
        .read_text()
        .splitlines()
    ]
    reports = [x for x in lines if 'pseudo_label/kept' in x]
    assert [x['step'] for x in reports] == [2, 4]
    for report in reports:
        shares = [report[f'pseudo_label/share/{c}'] for c in CLASSES]
        assert sum(shares) == pytest.approx(1)
        assert 0 < report['pseudo_label/confidence'] <= 1
        # Nothing refined these labels.
        assert report['pseudo_label/agreement'] == 1


def test_workers_do_not_change_the_run(
    tmp_path, tiny_data, bank, whole, script
):
    config = write_self_training(tmp_path, tiny_data, bank, workers=2)
    done = script(config, tmp_path / 'work')
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / 'work') == losses(whole[0])


def test_two_processes_continue_what_one_trains(tmp_path, config, train_on):
    """From the warm-up, so that the switch is in both."""
    cfg = read_config(
        config,
        tmp_path / 'one',
        train_dataloader__batch_size=4,
        default_hooks__checkpoint__max_keep_ckpts=-1,
    )
    runner = build_runner(cfg)
    runner.register_hook(RecordLosses(tmp_path / 'one' / 'losses_0.txt'))
    runner.train()
    (tmp_path / 'two').mkdir()
    start = shutil.copy(tmp_path / 'one' / 'iter_2.pth', tmp_path / 'two')
    (tmp_path / 'two' / 'last_checkpoint').write_text(str(start))
    assert len(train_on(2, tmp_path / 'two', '--resume')) == 8
    assert_equal_runs(tmp_path / 'one', tmp_path / 'two')
    state = weights(tmp_path / 'two')
    assert state['teacher.steps'] == 4


def test_only_training_needs_the_weights_of_the_refiner(
    tmp_path, whole, config
):
    refiner = dict(
        type='SAMRefiner', variant='vit_b', checkpoint='/none/sam.pth'
    )
    cfg = read_config(
        config,
        tmp_path / 'work',
        load_from=str(whole[0] / 'iter_10.pth'),
        custom_hooks=[dict(type='SAMRefineHook', refiner=refiner)],
    )
    assert build_runner(cfg).test()['mean_mIoU'] >= 0
    with pytest.raises(UserError, match='/none/sam.pth'):
        build_runner(cfg).train()


def test_missing_bank_names_the_command(tmp_path, tiny_data):
    config = write_self_training(tmp_path, tiny_data, tmp_path / 'none')
    runner = build_runner(read_config(config, tmp_path / 'work'))
    with pytest.raises(UserError, match='clouds generate .*--num 5'):
        runner.train()


def test_missing_bank_is_made_where_the_config_says_so(tmp_path, capsys):
    out = tmp_path / 'bank'
    bank = dict(
        out=str(out), num=2, num_prompts=2, size=(64, 32), make=True, seed=1
    )
    with pytest.raises(UserError, match='distributed run does not make it'):
        require_generated_images(dict(bank), launcher='pytorch')
    require_generated_images(dict(bank), launcher='none')
    files = {path: path.read_bytes() for path in (out / 'images').iterdir()}
    assert len(files) == 2
    require_generated_images(dict(bank), launcher='pytorch')
    assert all(path.read_bytes() == data for path, data in files.items())


def test_self_training_needs_a_warmup(tmp_path, config):
    for resume in (False, True):
        cfg = read_config(
            config, tmp_path / 'work', train_cfg__warmup_iters=0, resume=resume
        )
        with pytest.raises(UserError, match='load_from names none'):
            build_runner(cfg).train()


def test_finished_warmup_is_a_start(tmp_path, config, whole):
    state = weights(whole[0])
    student = {k: v for k, v in state.items() if 'teacher' not in k}
    torch.save(dict(state_dict=student), tmp_path / 'warmup.pth')
    cfg = read_config(
        config,
        tmp_path / 'work',
        load_from=str(tmp_path / 'warmup.pth'),
        train_cfg__warmup_iters=0,
        train_cfg__max_iters=1,
    )
    model = build_runner(cfg).train()
    assert model.teacher.steps == 1
    name = 'decode_head.query_feat.weight'
    teacher = model.teacher.module.state_dict()
    assert torch.equal(teacher[name], student[name])
    assert not torch.equal(model.state_dict()[name], student[name])


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(train_cfg__warmup_iters=11), 'warmup_iters must lie in'),
        (dict(train_cfg__generated_share=0.0), 'generated_share must lie'),
        (dict(model__teacher_decay=1.0), 'teacher_decay must lie'),
        (dict(model__label_threshold=2.0), 'label_threshold must lie'),
        (dict(train_cfg__generated_share=None), 'generated_beside'),
        (dict(train_cfg__generated_beside=2), 'got 0.5 and 2'),
        (
            dict(
                train_cfg__generated_share=0.9,
                model__mixing=dict(type='ClassMix'),
            ),
            'a batch may have none: raise total_batch_size',
        ),
        (
            dict(
                model__mixing=dict(type='ClassMix'),
                train_dataloader__dataset__datasets__0__pipeline=[
                    dict(type='LoadSegImage'),
                    dict(type='LoadSegLabels'),
                    dict(type='RandomCrop', crop_size=(64, 64)),
                    dict(type='PackDGInputs'),
                ],
            ),
            r'crops of 64x64 .* only 64x32: make the image bank .* --size',
        ),
    ],
)
def test_impossible_values_are_refused(tmp_path, config, changes, message):
    cfg = read_config(config, tmp_path / 'work', banks=[], **changes)
    with pytest.raises((ValueError, UserError), match=message):
        build_runner(cfg).train()


def test_hooks_refuse_impossible_values():
    from clouds_mmseg.engine import (
        EMATeacherHook,
        PolyRestartLR,
        PseudoLabelReportHook,
        SAMRefineHook,
    )

    with pytest.raises(UserError, match='interval must be at least 1'):
        EMATeacherHook(interval=0)
    with pytest.raises(UserError, match='interval must be at least 1'):
        PseudoLabelReportHook(interval=0)
    with pytest.raises(UserError, match='num_pictures must be at least 1'):
        SAMRefineHook({}, num_pictures=0)
    with pytest.raises(UserError, match='period must be at least 1'):
        PolyRestartLR(None, period=0, by_epoch=False)
    with pytest.raises(UserError, match='give by_epoch=False'):
        PolyRestartLR(None, period=4)


def test_refiner_needs_a_model_that_labels(build):
    runner = build(
        custom_hooks=[
            dict(type='SAMRefineHook', refiner=dict(type='SuperpixelRefiner'))
        ]
    )
    with pytest.raises(UserError, match='SelfTrainingSegmentor'):
        runner.train()


def test_rate_restarts_with_every_stage():
    from clouds_mmseg.engine import PolyRestartLR

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    kwargs = dict(period=4, power=1.0, by_epoch=False)
    scheduler = PolyRestartLR(optimizer, **kwargs)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 1.5, 1.0, 0.5] * 2
    kwargs['warmup'] = 2
    scheduler = PolyRestartLR(optimizer, **kwargs)
    assert optimizer.param_groups[0]['lr'] == 1.0
    scheduler.step()
    assert optimizer.param_groups[0]['lr'] == 1.5


def test_configs_of_the_benchmarks_fit_their_classes(repo_root):
    for path in sorted((repo_root / 'configs/clouds').glob('*.py')):
        cfg = Config.fromfile(path)
        assert len(path.read_text().splitlines()) <= 40
        assert cfg.train_cfg.warmup_iters < cfg.train_cfg.max_iters
        assert cfg.runner_type == 'SelfTrainingRunner'


def test_the_teacher_does_not_follow_weights_that_are_not_finite(
    tmp_path, config, whole
):
    cfg = read_config(
        config,
        tmp_path / 'work',
        load_from=str(whole[0] / 'iter_10.pth'),
        train_cfg__warmup_iters=0,
        train_cfg__max_iters=2,
    )
    runner = build_runner(cfg)

    class Break(Hook):
        priority = 'VERY_HIGH'

        def after_train_iter(
            self, runner, batch_idx, data_batch=None, outputs=None
        ):
            if runner.iter == 1:
                with torch.no_grad():
                    runner.model.decode_head.query_feat.weight[0] = math.inf

    runner._hooks.insert(0, Break())
    expected = 'the teacher would follow at iteration 2 are not finite'
    with pytest.raises(NonFiniteError, match=expected):
        runner.train()
    state = runner.model.teacher.state_dict()
    assert all(value.isfinite().all() for value in state.values())
