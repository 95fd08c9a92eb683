"""Which formulation of deformable sampling a device gets."""

import functools
import importlib.util
import logging
import os
import time

import torch
from mmengine.logging import print_log

from clouds_mmseg.models.mask2former.deform_textures import sample_textures
from clouds_mmseg.models.mask2former.positional import cell_centres
from clouds_mmseg.utils.errors import UserError

VARIABLE = 'CLOUDS_DEFORMABLE_SAMPLING'

# One encoder layer on a crop of 512x512, with the official widths.
_SHAPES = ((16, 16), (32, 32), (64, 64))
_HEADS, _CHANNELS, _POINTS = 8, 32, 4


def _load_fused():
    from clouds_mmseg.models.mask2former.deform_kernels import sample_fused

    return sample_fused


def _load_op():
    from clouds_mmseg.models.mask2former.deform_mmcv import sample_by_op

    return sample_by_op


# The first is what the others must be equal to.
_LOADERS = {'grid_sample': lambda: sample_textures, 'triton': _load_fused}
if importlib.util.find_spec('mmcv._ext'):  # As somebody has compiled mmcv.
    _LOADERS['mmcv'] = _load_op


def core_of_device(device):
    """Choose by measuring, once for each device.

    Triton wants a C compiler for its launcher and a device that it knows,
    mmcv's op an mmcv that has been compiled; ``grid_sample`` runs
    everywhere. The environment variable ``CLOUDS_DEFORMABLE_SAMPLING`` names
    one without measuring. Where ``torch.use_deterministic_algorithms`` is
    set, torch's own says that its gradient cannot be had so.

    Args:
        device (torch.device): Not the CPU.

    Returns:
        Callable: With the arguments of ``deformable_sample``.

    Raises:
        UserError: The variable names none.
    """
    name = os.environ.get(VARIABLE)
    if name:
        if name not in _LOADERS:
            raise UserError(
                f'{VARIABLE}={name}: known are {", ".join(_LOADERS)}'
            )
        return _LOADERS[name]()
    if torch.are_deterministic_algorithms_enabled():
        return sample_textures
    return _fastest_once(device)


@functools.cache
def _fastest_once(device):
    return fastest(_LOADERS, device)


# It may be a validation that asks first.
@torch.inference_mode(False)
@torch.enable_grad()
def fastest(loaders, device, shapes=_SHAPES):
    """Find the fastest formulation of those that are equal to the first.

    Args:
        loaders (dict[str, Callable]): By name, functions that return a
            formulation. All but the first may fail.
        device (torch.device): Where it is to run.
        shapes (Sequence[tuple[int, int]]): Height and width of the maps that
            are read.

    Returns:
        Callable: The formulation.
    """
    inputs = draw_layer(shapes, device)
    cores, seconds, expected = {}, {}, None
    for name, load in loaders.items():
        try:
            core = load()
            found = _both_directions(core, shapes, inputs)
            if expected is None:
                expected = found
            _check(found, expected)
            seconds[name] = _time(core, shapes, inputs)
            cores[name] = core
        # A missing compiler, an unknown device, too little shared memory: of
        # many types, and none of them may end a training.
        except Exception as error:
            if expected is None:
                raise
            print_log(
                f'Deformable sampling on {device}: {name} is left out, as '
                f'it does not work here ({type(error).__name__}: {error})',
                'current',
                logging.WARNING,
            )
    best = min(seconds, key=seconds.get)
    times = ', '.join(f'{k} {v * 1e3:.2f} ms' for k, v in seconds.items())
    print_log(
        f'Deformable sampling on {device}: {best} (forward and backward of '
        f'a layer: {times})',
        'current',
    )
    return cores[best]


def draw_layer(shapes, device, images=1):
    """Draw what one encoder layer of the official widths reads.

    Every cell of all maps is a query that reads around itself, some of it
    outside. No place lies between two cells' spans, where the gradient jumps
    and rounding decides on which side it is.

    Args:
        shapes (Sequence[tuple[int, int]]): Height and width of the maps.
        device (torch.device): Where the tensors are made; random numbers are
            drawn on the CPU, by a generator of their own.
        images (int): N.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Values (N, S, 8, 32), places
        (N, S, 8, L, 4, 2) and weights (N, S, 8, L, 4), float32 leaves that
        want gradients.
    """
    generator = torch.Generator().manual_seed(0)
    centres = cell_centres(shapes)
    size = (images, len(centres), _HEADS, len(shapes), _POINTS)
    sides = torch.tensor([[w, h] for h, w in shapes])[:, None]
    spots = centres[:, None, None, None] * sides
    spots = spots + 2 * torch.randn(*size, 2, generator=generator)
    inside = torch.rand(*size, 2, generator=generator) * 0.8 + 0.1
    places = (spots.floor() + inside - 0.5) / sides
    weights = torch.rand(size, generator=generator)
    value = torch.rand(
        images, len(centres), _HEADS, _CHANNELS, generator=generator
    )
    value, places, weights = (
        x.to(device).requires_grad_() for x in (value, places, weights)
    )
    return value, places, weights


def _both_directions(core, shapes, inputs):
    """What the formulation gives, and its three gradients."""
    value, places, weights = inputs
    with torch.autocast(value.device.type, enabled=False):
        out = core(value, shapes, places, weights)
        grads = torch.autograd.grad(out.square().sum(), inputs)
    return [out.detach(), *grads]


def _check(found, expected):
    for one, other in zip(found, expected, strict=True):
        error = (one - other).abs().max() / other.abs().max()
        if not error < 1e-3:
            raise ValueError(f'its numbers are off by {error:.1e}')


def _time(core, shapes, inputs):
    """Seconds of the fastest of five runs; the first has compiled."""
    seconds = []
    for _ in range(5):
        _wait(inputs[0].device)
        start = time.perf_counter()
        _both_directions(core, shapes, inputs)
        _wait(inputs[0].device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _wait(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
