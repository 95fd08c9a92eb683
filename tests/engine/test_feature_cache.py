"""When features of images may be kept, and how much room they need."""

from collections import namedtuple

import pytest
from self_training_run import write_bank, write_self_training
from tiny_run import read_config

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.datasets import KeepCleanView
from clouds_mmseg.engine import FeatureCacheHook
from clouds_mmseg.utils import array_cache
from clouds_mmseg.utils.errors import UserError


@pytest.fixture(scope='module')
def runner(tmp_path_factory, tiny_data):
    """A self-training run before its first step. Changes are undone."""
    folder = tmp_path_factory.mktemp('features')
    bank = write_bank(folder)
    config = write_self_training(folder, tiny_data, bank)
    built = build_runner(read_config(config, folder / 'work'))
    assert len(built.train_loop.dataloader.dataset) > 0
    return built


@pytest.fixture
def stored(tmp_path):
    def files():
        return [p for p in tmp_path.rglob('*') if p.is_file()]

    return files


def test_the_size_is_told_and_the_disk_asked(
    runner, tmp_path, stored, monkeypatch
):
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(
        array_cache.shutil, 'disk_usage', lambda _: usage(10_000)
    )
    hook = FeatureCacheHook(str(tmp_path))
    with pytest.raises(UserError, match='of 5 images in 1 view .*make room'):
        hook.before_train(runner)
    assert runner.model.feature_cache is None and not stored()
    monkeypatch.undo()
    said = []
    monkeypatch.setattr(runner.logger, 'info', said.append)
    hook.before_train(runner)
    assert 'of 5 images in 1 view take about' in said[0]
    assert runner.model.feature_cache.half and not stored()
    hook.after_train(runner)
    assert runner.model.feature_cache is None


def test_a_bound_that_is_too_small_names_one_that_is_not(runner, tmp_path):
    small = FeatureCacheHook(str(tmp_path), cache_bytes=1000, dtype='float32')
    with pytest.raises(UserError, match='choose dtype=float16') as caught:
        small.before_train(runner)
    least = int(str(caught.value).partition('at least cache_bytes=')[2][:6])
    enough = FeatureCacheHook(
        str(tmp_path), cache_bytes=least, dtype='float32'
    )
    enough.before_train(runner)
    enough.after_train(runner)
    with pytest.raises(UserError, match="dtype must be one of .*'int8'"):
        FeatureCacheHook(str(tmp_path), dtype='int8')


def test_features_that_change_are_refused(runner, tmp_path, monkeypatch):
    hook = FeatureCacheHook(str(tmp_path))

    def refused(why):
        with pytest.raises(UserError, match=why):
            hook.before_train(runner)

    _, generated = runner.train_loop.dataloader.dataset.datasets
    steps = generated.pipeline.transforms
    at = [isinstance(step, KeepCleanView) for step in steps].index(True)
    turned = [*steps[:at], steps[at + 1], *steps[at:]]
    with monkeypatch.context() as patch:
        patch.setattr(generated.pipeline, 'transforms', turned)
        refused('RandomFlip stands before KeepCleanView')
    with monkeypatch.context() as patch:
        patch.setattr(type(generated), 'has_labels', True)
        refused('no unlabelled images')
    with monkeypatch.context() as patch:
        patch.setattr(runner.model.backbone, 'frozen', False)
        refused('is not frozen')
    with monkeypatch.context() as patch:
        patch.setattr(runner, 'model', runner.model.decode_head)
        refused('SelfTrainingSegmentor; the config has CLOUDSHead')


def test_another_tower_has_another_folder(runner, tmp_path, monkeypatch):
    def folder():
        hook = FeatureCacheHook(str(tmp_path))
        hook.before_train(runner)
        found = runner.model.feature_cache.store.folder
        hook.after_train(runner)
        return found

    first = folder()
    assert folder() == first
    weight = next(runner.model.backbone.parameters())
    kept = weight.data.clone()
    weight.data[0] += 1
    second = folder()
    weight.data.copy_(kept)
    monkeypatch.setitem(runner.cfg.model.data_preprocessor, 'mean', [1, 2, 3])
    assert len({first, second, folder()}) == 3
