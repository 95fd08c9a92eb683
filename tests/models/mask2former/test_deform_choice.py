import logging

import pytest
import torch
from mmengine.logging import MMLogger

from clouds_mmseg.models.mask2former import deform_attn
from clouds_mmseg.models.mask2former.deform_attn import (
    autotune,
    ms_deform_attn_grid_sample,
    select_backend,
)
from clouds_mmseg.models.mask2former.deform_attn_cpu import ms_deform_attn_cpu
from clouds_mmseg.utils.errors import UserError

CPU = torch.device('cpu')
SHAPES = [(2, 3), (4, 5)]


@pytest.fixture
def said(monkeypatch):
    """The logged messages, one a line."""
    lines = []
    logger = MMLogger.get_instance('choice')
    monkeypatch.setattr(
        logger, 'handle', lambda record: lines.append(record.getMessage())
    )
    logger.setLevel(logging.INFO)
    return lines


@pytest.fixture(autouse=True)
def clear_cache():
    deform_attn._autotune_once.cache_clear()
    yield
    deform_attn._autotune_once.cache_clear()


def slow(backend, times=30):
    def repeated(*args):
        for _ in range(times):
            backend(*args)
        return backend(*args)

    return repeated


@pytest.mark.parametrize('delayed', ['first', 'second'])
def test_the_faster_of_two_is_taken(said, delayed):
    first, second = ms_deform_attn_grid_sample, ms_deform_attn_cpu
    if delayed == 'first':
        first = slow(first)
    else:
        second = slow(second)
    loaders = {'first': lambda: first, 'second': lambda: second}
    chosen = autotune(loaders, CPU, SHAPES)
    assert chosen is (second if delayed == 'first' else first)
    (line,) = said
    assert line.startswith('Deformable sampling on cpu: ')
    assert 'first' in line and 'second' in line and ' ms' in line


def broken():
    raise RuntimeError('Failed to find C compiler.')


def absent():
    raise ImportError("No module named 'triton'")


def wrong(value, shapes, locations, weights):
    return ms_deform_attn_cpu(value, shapes, locations, weights) * 1.01


def half_wrong(value, shapes, locations, weights):
    """The right numbers, whose gradients miss a part."""
    return (
        ms_deform_attn_cpu(value, shapes, locations.detach(), weights)
        + 0 * locations.sum()
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
def test_a_backend_that_fails_is_skipped_and_logged(said, load, reason):
    loaders = {
        'grid_sample': lambda: ms_deform_attn_grid_sample,
        'other': load,
    }
    assert autotune(loaders, CPU, SHAPES) is ms_deform_attn_grid_sample
    assert said[0] == (
        'Deformable sampling on cpu: other is skipped, as it does not work '
        f'here ({reason})'
    )


def test_it_runs_in_inference_mode_and_leaves_the_random_state(said):
    loaders = {
        'a': lambda: ms_deform_attn_grid_sample,
        'b': lambda: ms_deform_attn_cpu,
    }
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        assert autotune(loaders, CPU, SHAPES) in (
            ms_deform_attn_grid_sample,
            ms_deform_attn_cpu,
        )
    assert torch.equal(torch.get_rng_state(), state)


def test_a_device_is_measured_once(monkeypatch):
    asked = []

    def load():
        asked.append(1)
        return ms_deform_attn_grid_sample

    monkeypatch.setattr(deform_attn, '_BACKENDS', {'grid_sample': load})
    assert (
        select_backend(CPU)
        is select_backend(CPU)
        is ms_deform_attn_grid_sample
    )
    assert len(asked) == 1


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv('CLOUDS_DEFORMABLE_SAMPLING', 'grid_sample')
    assert select_backend(CPU) is ms_deform_attn_grid_sample
    monkeypatch.setenv('CLOUDS_DEFORMABLE_SAMPLING', 'rows')
    with pytest.raises(
        UserError,
        match='CLOUDS_DEFORMABLE_SAMPLING=rows: known are grid_sample, triton',
    ):
        select_backend(CPU)


def test_wanted_determinism_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(deform_attn, '_BACKENDS', {'none': broken})
    torch.use_deterministic_algorithms(True)
    try:
        assert select_backend(CPU) is ms_deform_attn_grid_sample
    finally:
        torch.use_deterministic_algorithms(False)


def test_without_a_gpu_triton_is_skipped(said):
    """Triton itself raises the error on a machine without a GPU."""
    pytest.importorskip('triton')
    if torch.cuda.is_available():
        pytest.skip('here is a GPU')
    chosen = autotune(deform_attn._BACKENDS, CPU, SHAPES)
    assert chosen is ms_deform_attn_grid_sample
    assert 'triton is skipped' in said[0]
