"""What an installation holds, and files that repeat facts of setup.cfg."""

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser

import pytest
import yaml
from setuptools import find_packages

from clouds_mmseg import compat
from clouds_mmseg.version import __version__


@pytest.fixture
def options(repo_root):
    config = ConfigParser()
    config.read(repo_root / 'setup.cfg')
    return config


def test_every_package_is_installed(repo_root, options):
    listed = options['options']['packages'].split()
    found = find_packages(
        repo_root, include=['clouds_mmseg', 'clouds_mmseg.*']
    )
    assert sorted(listed) == sorted([*found, 'clouds_mmseg_cli'])


@pytest.fixture(scope='module')
def wheel(repo_root, tmp_path_factory):
    """Names of the files in the wheel, which is built without a network."""
    # Not in place: what an earlier build left there would be packed too.
    checkout = tmp_path_factory.mktemp('checkout')
    junk = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in ('clouds_mmseg', 'configs', 'tools'):
        shutil.copytree(
            repo_root / name, checkout / name, symlinks=True, ignore=junk
        )
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(repo_root / name, checkout)
    build = "import setuptools.build_meta as b; print(b.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, '-c', build],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (checkout / 'dist').iterdir()
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        entry = next(n for n in names if n.endswith('entry_points.txt'))
        text = file.read(entry).decode()
    return names, text


def test_the_wheel_has_the_package_the_configs_and_nothing_else(
    wheel, repo_root
):
    wanted = {
        'clouds_mmseg/.mim/model-index.yml',
        'clouds_mmseg/py.typed',
        'clouds_mmseg/report/script.js',
        'clouds_mmseg/report/style.css',
        'clouds_mmseg/report/template.html',
    }
    for folder, place in (
        ('clouds_mmseg', 'clouds_mmseg'),
        ('tools/cli', 'clouds_mmseg_cli'),
        ('configs', 'clouds_mmseg/.mim/configs'),
    ):
        root = repo_root / folder
        wanted |= {
            f'{place}/{path.relative_to(root).as_posix()}'
            for path in root.rglob('*.py')
        }
    names = {n for n in wheel[0] if '.dist-info/' not in n}
    assert sorted(names) == sorted(wanted)


def test_the_wheel_has_the_command(wheel):
    command = 'clouds = clouds_mmseg_cli.command:main'
    assert command in wheel[1].splitlines()


def test_the_import_check_has_the_ranges_of_the_installation(options):
    wanted = options['options']['install_requires'].split()
    low, high = compat._TORCH
    assert f'torch>={low},<{high}' in wanted
    last = int(high.split('.')[1]) - 1
    low_mate = f'0.{int(low.split(".")[1]) + 15}'
    assert f'torchvision>={low_mate},<0.{last + 16}' in wanted
    for name, least, below in compat._FRAMEWORK.values():
        assert f'{name}>={least},<{below}' in wanted


def test_pre_commit_has_the_ruff_of_the_development_tools(repo_root, options):
    development = options['options.extras_require']['dev'].split()
    (pin,) = (line for line in development if line.startswith('ruff'))
    text = (repo_root / '.pre-commit-config.yaml').read_text()
    for hook in yaml.safe_load(text)['repos'][0]['hooks']:
        assert hook['additional_dependencies'] == [pin]


def test_citation_names_this_version(repo_root, options):
    citation = yaml.safe_load((repo_root / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert citation['license'] == options['metadata']['license']


def test_the_workflow_runs_what_a_contributor_runs(repo_root):
    path = repo_root / '.github/workflows/ci.yml'
    steps = yaml.safe_load(path.read_text())['jobs']['test']['steps']
    assert '.ci/run' in [step.get('run') for step in steps]
