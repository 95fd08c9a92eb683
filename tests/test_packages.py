"""What an installation holds."""

from configparser import ConfigParser

from setuptools import find_packages


def test_every_package_is_installed(repo_root):
    config = ConfigParser()
    config.read(repo_root / 'setup.cfg')
    listed = config['options']['packages'].split()
    found = find_packages(
        repo_root, include=['clouds_mmseg', 'clouds_mmseg.*']
    )
    assert sorted(listed) == sorted([*found, 'clouds_mmseg_cli'])
