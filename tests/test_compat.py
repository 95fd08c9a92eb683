import warnings
from importlib import metadata

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from clouds_mmseg import compat
from clouds_mmseg.compat import (
    IncompatibleStackError,
    check_framework,
    check_stack,
    check_torch,
    prepare_framework,
)

GOOD = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
}


def test_the_installed_stack_is_good():
    check_stack()


@pytest.mark.parametrize(
    ('torch', 'torchvision'),
    [
        ('2.6.0', '0.21.0'),
        ('2.10.0', '0.25.0'),
        ('2.14.0', '0.29.0'),
        ('2.14.1+cpu', '0.29.1+cpu'),
        ('2.14.1', '0.29.1+cu130'),
    ],
)
def test_pairs_of_one_release(torch, torchvision):
    check_torch(torch, torchvision)


@pytest.mark.parametrize(
    ('torch', 'torchvision', 'words'),
    [
        (None, '0.29.1', ['torch is not installed', 'torch >=2.6']),
        ('2.5.1', '0.20.1', ['torch 2.5.1 is installed', '>=2.6,<2.15']),
        ('2.15.0', '0.30.0', ['torch 2.15.0 is installed']),
        ('2.14.1', None, ['torchvision is not installed']),
        ('2.14.1', '0.28.0', ['torchvision 0.28.0', 'torchvision 0.29']),
        ('2.6.0', '0.29.1', ['torchvision 0.29.1', 'torchvision==0.21']),
    ],
)
def test_wrong_pairs_say_what_is_needed(torch, torchvision, words):
    with pytest.raises(IncompatibleStackError) as caught:
        check_torch(torch, torchvision)
    message = str(caught.value)
    assert '\n' not in message
    for word in (*words, 'uv pip install'):
        assert word in message


def test_a_good_framework():
    check_framework(GOOD.get)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'onedl-mmsegmentation': None}, ['mmsegmentation is not installed']),
        ({'onedl-mmcv': '2.1.0'}, ['onedl-mmcv 2.1.0', '>=2.3.6,<2.4']),
        ({'onedl-mmengine': '0.11.0'}, ['onedl-mmengine 0.11.0', '<0.11']),
        (
            {'mmcv': '2.2.0'},
            ['mmcv 2.2.0', '(both provide `mmcv`)', 'uv pip uninstall mmcv'],
        ),
        ({'mmcv-lite': '2.0.1'}, ['mmcv-lite 2.0.1']),
        ({'mmsegmentation': '1.2.2'}, ['mmsegmentation 1.2.2']),
    ],
)
def test_another_generation_says_what_is_needed(change, words):
    with pytest.raises(IncompatibleStackError) as caught:
        check_framework((GOOD | change).get)
    message = str(caught.value)
    assert '\n' not in message
    for word in (*words, 'uv pip'):
        assert word in message


def test_a_wrong_stack_stops_the_import(monkeypatch):
    def version(name):
        if name == 'torchvision':
            raise metadata.PackageNotFoundError(name)
        return GOOD.get(name, '2.14.1')

    monkeypatch.setattr(compat.metadata, 'version', version)
    with pytest.raises(ImportError, match='torchvision is not installed'):
        check_stack()


def test_configs_of_mmseg_can_be_inherited(tmp_path):
    path = tmp_path / 'child.py'
    path.write_text("_base_ = ['mmseg::_base_/models/fcn_r50-d8.py']\n")
    old = MODULE2PACKAGE['mmseg']
    try:
        MODULE2PACKAGE['mmseg'] = 'mmsegmentation'
        with pytest.raises(ModuleNotFoundError):
            Config.fromfile(path)
        prepare_framework()
        assert Config.fromfile(path).model.type == 'EncoderDecoder'
    finally:
        MODULE2PACKAGE['mmseg'] = old


def test_the_warning_of_an_unused_op_is_quiet():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        prepare_framework()
        warnings.warn(
            'Fail to import ``MultiScaleDeformableAttention`` from mmcv',
            stacklevel=1,
        )
        warnings.warn('something else', stacklevel=1)
    assert [str(w.message) for w in seen] == ['something else']
