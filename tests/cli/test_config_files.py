"""Configs by path, of the installed package and of MMSegmentation's zoo."""

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from test_configs import shrink

from clouds_mmseg.cli.config import read_config
from clouds_mmseg.utils.config_file import CONFIGS, OWN, find_config
from clouds_mmseg.utils.errors import UserError


def without_scope(value):
    """Drop the marks that MMEngine sets on what is inherited by scope."""
    if isinstance(value, dict):
        return {
            key: without_scope(child)
            for key, child in value.items()
            if key != '_scope_'
        }
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_scope, value))
    return value


@pytest.fixture
def inherited(tmp_path, monkeypatch):
    """Read a config whose base is one of the package, away from it."""
    monkeypatch.chdir(tmp_path)

    def read(name):
        path = tmp_path / 'child.py'
        path.write_text(f"_base_ = 'clouds_mmseg::{name}'\n")
        return Config.fromfile(path)

    return read


def test_the_package_has_every_config(repo_root):
    folder = repo_root / 'configs'
    ours = {p.relative_to(folder) for p in folder.rglob('*.py')}
    found = CONFIGS[OWN].resolve().rglob('*.py')
    assert ours == {p.relative_to(CONFIGS[OWN].resolve()) for p in found}
    assert len(ours) > 80


@pytest.mark.parametrize('name', ['clouds/gta2cs.py', 'toycity/clouds.py'])
def test_an_inherited_config_is_the_same(inherited, repo_root, name):
    whole = Config.fromfile(repo_root / 'configs' / name).to_dict()
    assert without_scope(inherited(name).to_dict()) == whole


def test_what_is_inherited_can_be_built(inherited, capsys):
    cfg = inherited('toycity/warmup.py')
    shrink(cfg)
    # From the root of the registries, as MMEngine's runner does.
    model = MODELS.build(cfg.model)
    assert type(model).__module__.startswith('clouds_mmseg.')
    with pytest.raises(UserError, match='FolderDataset needs metainfo'):
        DATASETS.build(dict(type='FolderDataset', _scope_=OWN))
    shown = capsys.readouterr()
    assert 'Failed to search registry' not in shown.out + shown.err


@pytest.mark.parametrize(
    'name', ['clouds_mmseg::warmup/gta2cs.py', 'clouds_mmseg::warmup/gta2cs']
)
def test_a_config_of_the_package_by_name(
    name, repo_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = repo_root / 'configs/warmup/gta2cs.py'
    assert find_config(name).resolve() == path
    assert read_config(name).to_dict() == read_config(str(path)).to_dict()


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('clouds_mmseg::warmup/gta2c.py', 'near: clouds_mmseg::warmup/gta2cs'),
        ('mmdet::retinanet/x.py', 'none of mmdet::'),
        ('no.py', 'there is no config no.py; give a file'),
        (
            'configs/toycity/clouds.py',
            'package has clouds_mmseg::toycity/clouds.py',
        ),
    ],
)
def test_a_missing_config_says_what_there_is(
    name, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        find_config(name)
    assert words in str(caught.value)
