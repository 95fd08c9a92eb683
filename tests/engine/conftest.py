"""Runners on a model of seconds; see tests/tiny_run.py."""

import pytest
import torch
from tiny_run import read_config, write_config, write_data
from tiny_sam import build_tiny_sam

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.refine.sam_model import PromptedSAM


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """Folder with day_train, day_val and dusk_val. Not to be changed."""
    return write_data(tmp_path_factory.mktemp('tiny_data'))


@pytest.fixture
def tiny_config(tmp_path, tiny_data):
    """Path of a config file."""
    return write_config(tmp_path / 'tiny.py', tiny_data)


@pytest.fixture
def build(tmp_path, tiny_config):
    """Build a runner; keyword arguments change the config."""

    def build_one(work_dir=None, **changes):
        work_dir = work_dir or tmp_path / 'work'
        # A fifth of the run would be drawing.
        hooks = [dict(type='ProgressHook'), dict(type='ResultsHook')]
        changes.setdefault('custom_hooks', hooks)
        return build_runner(read_config(tiny_config, work_dir, **changes))

    return build_one


@pytest.fixture(scope='session')
def trained(tmp_path_factory, tiny_data):
    """Work dir of a run of four iterations. Not to be changed."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', tiny_data)
    build_runner(read_config(config, folder / 'work')).train()
    return folder / 'work'


@pytest.fixture
def tiny_sam(tmp_path, monkeypatch):
    """Config of SAMRefiner with a small SAM, and what it has embedded."""
    registry = pytest.importorskip('segment_anything').sam_model_registry
    monkeypatch.setitem(registry, 'vit_b', build_tiny_sam)
    torch.manual_seed(0)
    torch.save(build_tiny_sam().state_dict(), tmp_path / 'sam.pth')
    calls = []
    embed = PromptedSAM.embed

    def counted(self, image):
        calls.append(image.shape)
        return embed(self, image)

    monkeypatch.setattr(PromptedSAM, 'embed', counted)
    refiner = dict(
        type='SAMRefiner',
        variant='vit_b',
        checkpoint=str(tmp_path / 'sam.pth'),
        min_area=40,
        points_per_component=2,
    )
    return refiner, calls
