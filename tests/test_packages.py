"""What an installation holds, and files that repeat facts of setup.cfg."""

from configparser import ConfigParser

import pytest
import yaml
from setuptools import find_packages

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
