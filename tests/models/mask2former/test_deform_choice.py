import logging

import pytest
import torch
from mmengine.logging import MMLogger

from clouds_mmseg.models.mask2former import deform_attn as deform_choice
from clouds_mmseg.models.mask2former.deform_attn import (
    core_of_device,
    fastest,
    sample_textures,
)
from clouds_mmseg.models.mask2former.deform_attn_cpu import sample_rows
from clouds_mmseg.utils.errors import UserError

CPU = torch.device('cpu')
SHAPES = [(2, 3), (4, 5)]


@pytest.fixture
def said(monkeypatch):
    """What is logged, line by line."""
    lines = []
    logger = MMLogger.get_instance('choice')
    monkeypatch.setattr(
        logger, 'handle', lambda record: lines.append(record.getMessage())
    )
    logger.setLevel(logging.INFO)
    return lines


@pytest.fixture(autouse=True)
def nothing_known():
    deform_choice._fastest_once.cache_clear()
    yield
    deform_choice._fastest_once.cache_clear()


def slow(core, times=30):
    def repeated(*args):
        for _ in range(times):
            core(*args)
        return core(*args)

    return repeated


@pytest.mark.parametrize('delayed', ['first', 'second'])
def test_the_faster_of_two_is_taken(said, delayed):
    first, second = sample_textures, sample_rows
    if delayed == 'first':
        first = slow(first)
    else:
        second = slow(second)
    loaders = {'first': lambda: first, 'second': lambda: second}
    chosen = fastest(loaders, CPU, SHAPES)
    assert chosen is (second if delayed == 'first' else first)
    (line,) = said
    assert line.startswith('Deformable sampling on cpu: ')
    assert 'first' in line and 'second' in line and ' ms' in line


def broken():
    raise RuntimeError('Failed to find C compiler.')


def absent():
    raise ImportError("No module named 'triton'")


def wrong(value, shapes, places, weights):
    return sample_rows(value, shapes, places, weights) * 1.01


def half_wrong(value, shapes, places, weights):
    """The right numbers, whose gradients miss a part."""
    return (
        sample_rows(value, shapes, places.detach(), weights) + 0 * places.sum()
    )


@pytest.mark.parametrize(
    'load, reason',
    [
        (broken, 'RuntimeError: Failed to find C compiler.'),
        (absent, "ImportError: No module named 'triton'"),
        (lambda: wrong, 'ValueError: its numbers are off by 1.0e-02'),
        (lambda: half_wrong, 'ValueError: its numbers are off by 1.0e+00'),
    ],
)
def test_what_does_not_work_is_left_out_and_said(said, load, reason):
    loaders = {'grid_sample': lambda: sample_textures, 'other': load}
    assert fastest(loaders, CPU, SHAPES) is sample_textures
    assert said[0] == (
        'Deformable sampling on cpu: other is left out, as it does not work '
        f'here ({reason})'
    )


def test_a_validation_may_ask_first_and_numbers_drawn_stay(said):
    loaders = {'a': lambda: sample_textures, 'b': lambda: sample_rows}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert fastest(loaders, CPU, SHAPES) in (sample_textures, sample_rows)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_device_is_measured_once(monkeypatch):
    asked = []

    def load():
        asked.append(1)
        return sample_textures

    monkeypatch.setattr(deform_choice, '_LOADERS', {'grid_sample': load})
    assert core_of_device(CPU) is core_of_device(CPU) is sample_textures
    assert len(asked) == 1


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv('CLOUDS_DEFORMABLE_SAMPLING', 'grid_sample')
    assert core_of_device(CPU) is sample_textures
    monkeypatch.setenv('CLOUDS_DEFORMABLE_SAMPLING', 'rows')
    with pytest.raises(
        UserError,
        match='CLOUDS_DEFORMABLE_SAMPLING=rows: known are grid_sample, triton',
    ):
        core_of_device(CPU)


def test_wanted_determinism_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(deform_choice, '_LOADERS', {'none': broken})
    torch.use_deterministic_algorithms(True)
    try:
        assert core_of_device(CPU) is sample_textures
    finally:
        torch.use_deterministic_algorithms(False)


def test_without_a_gpu_triton_is_left_out(said):
    """As Triton itself says, on a machine that has none."""
    pytest.importorskip('triton')
    if torch.cuda.is_available():
        pytest.skip('here is a GPU')
    chosen = fastest(deform_choice._LOADERS, CPU, SHAPES)
    assert chosen is sample_textures
    assert 'triton is left out' in said[0]
