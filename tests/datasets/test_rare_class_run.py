"""Rare classes and verified data in a real runner."""

import pytest
import torch
from mmseg.registry import DATASETS
from tiny_run import read_config, write_config, write_data

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.cli.data import config_tasks
from clouds_mmseg.data_tools.verify import accept, fix, keep, verify
from clouds_mmseg.engine.data_check import check_dataset
from clouds_mmseg.utils.errors import UserError

RARE = dict(
    train_dataloader__dataset__rare_class=dict(
        temperature=0.05, min_pixels=20
    ),
    train_cfg__type='ExactTrainLoop',
)


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """Data of a run. Not to be damaged."""
    return write_data(tmp_path_factory.mktemp('rare'))


@pytest.fixture
def config(tmp_path):
    """Write the config of a run on some data."""

    def write(data):
        path = write_config(tmp_path / 'tiny.py', data)
        text = path.read_text().replace(
            "    dict(type='PackDGInputs'),",
            "    dict(type='RandomCrop', crop_size=(24, 24)),\n"
            "    dict(type='PackDGInputs'),",
        )
        path.write_text(text)
        return path

    return write


def build(path, work_dir, **changes):
    changes = dict(val_dataloader=None, val_cfg=None, val_evaluator=None) | (
        dict(test_dataloader=None, test_cfg=None, test_evaluator=None)
        | dict(custom_hooks=[])
        | changes
    )
    return build_runner(read_config(path, work_dir, **changes))


def test_resuming_equals_training_through(config, shared, tmp_path):
    path = config(shared)
    # One with a worker process, the other without.
    run = RARE | dict(train_dataloader__num_workers=1)
    through = build(path, tmp_path / 'a', train_cfg__max_iters=4, **run)
    through.train()
    sampling = through.train_dataloader.dataset.datasets[0]
    # Eight crops of the box alone, nearly: it is the rarest.
    assert sampling.probabilities[2] > 0.99
    first = build(path, tmp_path / 'b', train_cfg__max_iters=2, **RARE)
    first.train()
    second = build(
        path,
        tmp_path / 'b',
        train_cfg__max_iters=4,
        resume=True,
        **RARE,
    )
    second.train()
    assert second.iter == 4
    ours, theirs = second.model.state_dict(), through.model.state_dict()
    for key in theirs:
        assert torch.equal(ours[key], theirs[key]), key


def test_other_loops_refuse_the_option(config, shared, tmp_path):
    changes = dict(RARE, train_cfg__type='IterBasedTrainLoop')
    runner = build(config(shared), tmp_path / 'work', **changes)
    with pytest.raises(UserError, match='rare_class, which works .*ExactTra'):
        runner.train()


def test_data_with_known_errors_is_refused(config, tmp_path):
    data = write_data(tmp_path / 'data')
    path = config(data)
    bad = data / 'day_train/images/002.png'
    bad.write_bytes(bad.read_bytes()[:100])
    tasks = config_tasks(read_config(path, tmp_path))
    reports = verify(tasks[:1], workers=1, command='the command')
    with pytest.raises(UserError) as caught:
        build(path, tmp_path / 'work').train()
    text = str(caught.value)
    assert 'the train dataset FolderDataset (day) has 1 error, neither' in text
    assert str(data / 'day_train/clouds_verify.json') in text
    assert 'image images/002.png is truncated' in text
    assert 'the command --fix' in text and 'the command --accept' in text
    fix(reports)
    keep(reports)
    build(path, tmp_path / 'work', train_cfg__max_iters=1).train()


def test_errors_of_skipped_images_do_not_matter(config, tmp_path):
    data = write_data(tmp_path / 'data')
    path = config(data)
    bad = data / 'day_train/images/002.png'
    bad.write_bytes(bad.read_bytes()[:100])
    verify(config_tasks(read_config(path, tmp_path))[:1], workers=1)
    cfg = read_config(path, tmp_path, train_dataloader__dataset__skip=['002'])
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    check_dataset(dataset, 'train')
    cfg.train_dataloader.dataset.skip = ['003']
    with pytest.raises(UserError, match='has 1 error, neither'):
        check_dataset(DATASETS.build(cfg.train_dataloader.dataset), 'train')


def test_accepted_errors_and_later_changes(config, tmp_path, capfd):
    data = write_data(tmp_path / 'data')
    path = config(data)
    for number in range(7, 15):
        other = data / f'day_train/labels/{number:03d}.png'
        other.write_bytes((data / 'day_train/labels/000.png').read_bytes())
    tasks = config_tasks(read_config(path, tmp_path))
    reports = verify(tasks[:1], workers=1, command='the command')
    with pytest.raises(UserError, match=r'(?s)8 errors, neither .*and 3 more'):
        build(path, tmp_path / 'work').train()
    accept(reports)
    keep(reports)
    image = data / 'day_train/images/000.png'
    image.write_bytes(image.read_bytes() + b'\0')
    build(path, tmp_path / 'work', train_cfg__max_iters=1).train()
    assert '1 file new or changed since' in ''.join(capfd.readouterr())
