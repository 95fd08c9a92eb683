import logging
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from tiny_run import read_config, write_config

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.utils.errors import UserError


def test_a_run_leaves_all_that_is_promised(trained):
    assert (trained / 'iter_4.pth').is_file()
    assert (trained / 'last_checkpoint').read_text() == str(
        trained / 'iter_4.pth'
    )
    assert (trained / 'results.json').is_file()
    assert list(trained.glob('*/pictures/iter_4/overview.png'))
    assert list(trained.glob('*/vis_data/events.out.tfevents.*'))


def test_the_terminal_is_short_and_the_log_complete(build, capsys):
    runner = build()
    runner.test()
    terminal = capsys.readouterr().out
    log = Path(runner.logger.log_file).read_text()
    for text in ('System environment', 'Config:', 'Hooks will be executed'):
        assert text in log
        assert text not in terminal
    for text in ('The run:', 'day 3, dusk 3', 'mean of 2', 'results.json'):
        assert text in log
        assert text in terminal


def test_tensorboard_is_added_once(build):
    runner = build(
        visualizer__vis_backends=[dict(type='TensorboardVisBackend')]
    )
    assert list(runner.visualizer._vis_backends) == ['TensorboardVisBackend']
    runner = build()
    assert set(runner.visualizer._vis_backends) == {
        'LocalVisBackend',
        'TensorboardVisBackend',
    }


def test_tensorboard_is_optional(build, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert list(build().visualizer._vis_backends) == ['LocalVisBackend']


def test_resuming_equals_training_through(build, tmp_path):
    through = build(tmp_path / 'a', train_cfg__max_iters=6)
    through.train()
    first = build(tmp_path / 'b', train_cfg__max_iters=4)
    first.train()
    second = build(tmp_path / 'b', train_cfg__max_iters=6, resume=True)
    second.train()
    assert second.iter == 6
    ours, theirs = second.model.state_dict(), through.model.state_dict()
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key


def test_resume_prefers_the_own_checkpoint_to_load_from(build, trained):
    other = trained / 'iter_2.pth'
    runner = build(trained, resume=True, load_from=str(other))
    runner._choose_checkpoint()
    assert runner._load_from == str(trained / 'iter_4.pth')


def test_resume_of_nothing_starts_with_load_from(build, tmp_path, trained):
    runner = build(resume=True, load_from=str(trained / 'iter_4.pth'))
    runner.train()
    # Weights only: the iterations are counted from zero.
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()
    assert not runner._resume
    # Where MMEngine would continue load_from.
    (log,) = Path(runner.log_dir).glob('*.log')
    (line,) = [x for x in log.read_text().splitlines() if '--resume' in x]
    assert 'WARNING' in line and 'starts at iteration 0, with the' in line
    assert f'resume={trained / "iter_4.pth"}' in line


def test_resume_takes_a_path(build, trained):
    runner = build(resume=str(trained / 'iter_2.pth'), train_cfg__max_iters=3)
    runner.train()
    assert runner.iter == 3
    assert runner.message_hub.get_info('keep_ckpt_ids') == [2, 3]


@pytest.mark.parametrize('key', ['load_from', 'resume'])
def test_a_missing_checkpoint_is_known_first(build, key, monkeypatch):
    def never(self, *args, **kwargs):
        raise AssertionError('a model was built')

    monkeypatch.setattr(
        'clouds_mmseg.engine.runner.DGRunner.build_model', never
    )
    with pytest.raises(UserError, match=f'{key} names .*nowhere.pth'):
        build(**{key: 'nowhere.pth'})


def test_nothing_is_loaded_from_another_architecture(build, trained):
    runner = build(
        model__backbone__base_channels=4, model__decode_head__in_channels=32
    )
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    with pytest.raises(UserError, match='another architecture') as caught:
        runner.load_checkpoint(str(trained / 'iter_4.pth'))
    assert 'backbone.layer1.0.conv1.weight' in str(caught.value)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_another_number_of_classes_is_said_in_words(build, trained):
    runner = build(model__decode_head__num_classes=5)
    with pytest.raises(UserError, match='trained for 3 classes .*has 5'):
        runner.load_checkpoint(str(trained / 'iter_4.pth'))


def test_named_prefixes_may_differ_for_load_from_only(
    build, trained, tmp_path
):
    path = tmp_path / 'partial.pth'
    checkpoint = torch.load(trained / 'iter_4.pth', weights_only=False)
    state = checkpoint['state_dict']
    for key in [k for k in state if k.startswith('decode_head.')]:
        del state[key]
    state['teacher.weight'] = torch.zeros(1)
    torch.save(checkpoint, path)
    changes = dict(
        load_cfg=dict(
            allow_missing=['decode_head'], allow_unexpected=['teacher']
        )
    )
    runner = build(**changes)
    runner.load_checkpoint(str(path))
    loaded = unwrap_model(runner.model).backbone.conv1.weight
    assert torch.equal(loaded, state['backbone.conv1.weight'])
    with pytest.raises(UserError, match='decode_head.conv_seg.weight'):
        build().load_checkpoint(str(path))
    with pytest.raises(UserError, match='decode_head.conv_seg.weight'):
        build(resume=str(path), **changes).train()


def test_weights_load_as_mmengine_loads_them(build, trained):
    ours, theirs = build(), build()
    path = str(trained / 'iter_4.pth')
    ours.load_checkpoint(path)
    load_checkpoint(theirs.model, path)
    for key, value in theirs.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[key], value)


def test_loading_what_fits_is_still_there(build, trained):
    runner = build(model__decode_head__num_classes=5)
    runner.load_checkpoint(str(trained / 'iter_4.pth'), strict=False)
    assert runner._has_loaded


@pytest.mark.parametrize('split', ['val', 'test'])
def test_a_missing_target_is_known_before_training(build, split, tiny_data):
    runner = build(
        **{
            f'{split}_dataloader__dataset__datasets__1__data_root': str(
                tiny_data / 'gone'
            )
        }
    )
    with pytest.raises(UserError, match='gone'):
        runner.train()
    assert not runner._has_loaded
    assert runner.iter == 0


def test_an_unknown_domain_is_known_before_training(build):
    runner = build(val_evaluator__domains=['day', 'night'])
    with pytest.raises(UserError, match="domain 'dusk'.*val_evaluator"):
        runner.train()


def test_classes_of_data_and_model_are_compared(build):
    runner = build(model__decode_head__num_classes=4)
    with pytest.raises(UserError, match='3 classes.*num_classes is 4'):
        runner.train()


def test_validation_alone(build, trained, tmp_path):
    runner = build(load_from=str(trained / 'iter_4.pth'))
    assert runner.val()['mean_mIoU'] > 0
    # Asking for the iteration would have built the training data.
    assert isinstance(runner._train_loop, dict)


def test_stock_hooks_and_visualizer_objects_still_work(build):
    runner = build(default_hooks__checkpoint__type='CheckpointHook')
    runner.train()
    assert runner.iter == 4
    assert runner.build_visualizer(runner.visualizer) is runner.visualizer


def test_a_launcher_without_a_gpu_says_which_one_works(
    tmp_path, tiny_data, monkeypatch
):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    config = write_config(tmp_path / 'slurm.py', tiny_data)
    cfg = read_config(config, tmp_path / 'work', launcher='slurm')
    with pytest.raises(UserError, match='--launcher slurm needs a GPU'):
        build_runner(cfg)


def test_errors_are_never_hidden(build, capsys):
    runner = build()
    runner.logger.log(logging.ERROR, 'Config:\n broken')
    assert 'broken' in capsys.readouterr().out


def test_total_batch_is_divided_among_processes(build, monkeypatch):
    runner = build(total_batch_size=6)
    del runner._train_dataloader['batch_size']
    monkeypatch.setattr(type(runner), 'world_size', 3)
    runner._split_batch_size()
    assert runner._train_dataloader['batch_size'] == 2


def test_total_batch_must_be_divisible(build, monkeypatch):
    runner = build(total_batch_size=6)
    del runner._train_dataloader['batch_size']
    monkeypatch.setattr(type(runner), 'world_size', 4)
    with pytest.raises(UserError, match='total_batch_size=6 .* 4 processes'):
        runner._split_batch_size()


def test_two_batch_sizes_are_refused(build):
    with pytest.raises(UserError, match='train_dataloader.batch_size=2'):
        build(total_batch_size=6).train()
