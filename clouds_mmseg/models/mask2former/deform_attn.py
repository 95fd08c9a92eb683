"""Multi-scale deformable attention (arXiv 2010.04159, section 4.1)."""

import functools
import importlib.util
import logging
import math
import os
import time

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import nn

from clouds_mmseg.models.mask2former.deform_attn_cpu import ms_deform_attn_cpu
from clouds_mmseg.models.mask2former.layers import reference_points
from clouds_mmseg.utils.errors import UserError


def ms_deform_attn_grid_sample(value, shapes, places, weights):
    """Read map by map; see ``ms_deform_attn``."""
    n, _, heads, _ = value.shape
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (N * H, Q, L, P)
    maps = value.to(places.dtype).split([h * w for h, w in shapes], dim=1)
    out = 0
    for level, (shape, cells) in enumerate(zip(shapes, maps, strict=True)):
        cells = cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shape)
        read = F.grid_sample(
            cells, grid[:, :, level], align_corners=False
        )  # (N * H, D, Q, P)
        out = out + (read * weights[:, None, :, level]).sum(-1)
    return out.unflatten(0, (n, heads)).flatten(1, 2).transpose(1, 2)


VARIABLE = 'CLOUDS_DEFORMABLE_SAMPLING'

# One encoder layer on a crop of 512x512, with the official widths.
_SHAPES = ((16, 16), (32, 32), (64, 64))
_HEADS, _CHANNELS, _POINTS = 8, 32, 4


def _load_fused():
    from clouds_mmseg.models.mask2former.deform_attn_triton import (
        ms_deform_attn_triton,
    )

    return ms_deform_attn_triton


def _load_op():
    from clouds_mmseg.models.mask2former.deform_attn_mmcv import (
        ms_deform_attn_mmcv,
    )

    return ms_deform_attn_mmcv


# The first is what the others must be equal to.
_LOADERS = {
    'grid_sample': lambda: ms_deform_attn_grid_sample,
    'triton': _load_fused,
}
if importlib.util.find_spec('mmcv._ext'):  # As somebody has compiled mmcv.
    _LOADERS['mmcv'] = _load_op


def select_backend(device):
    """Choose by measuring, once for each device.

    Triton wants a C compiler for its launcher and a device that it knows,
    mmcv's op an mmcv that has been compiled; ``grid_sample`` runs
    everywhere. The environment variable ``CLOUDS_DEFORMABLE_SAMPLING`` names
    one without measuring. Where ``torch.use_deterministic_algorithms`` is
    set, torch's own says that its gradient cannot be had so.

    Args:
        device (torch.device): Not the CPU.

    Returns:
        Callable: With the arguments of ``ms_deform_attn``.

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
        return ms_deform_attn_grid_sample
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
    inputs = random_layer_inputs(shapes, device)
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


def random_layer_inputs(shapes, device, images=1):
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
    centres = reference_points(shapes)
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


def ms_deform_attn(value, shapes, places, weights):
    """Sum values read at given places with given weights.

    Values between cells are bilinear; outside the map they are zero. All
    formulations give the same numbers: on CPU tables of rows are read
    (``deform_rows.py``), on other devices it is told by a measurement
    (``deform_choice.py``).

    Args:
        value (Tensor): (N, S, H, D), the maps one after the other.
        shapes (list[tuple[int, int]]): Height and width of each map.
        places (Tensor): (N, Q, H, L, P, 2) float32, xy in [0, 1] of a map.
        weights (Tensor): (N, Q, H, L, P) float32.

    Returns:
        Tensor: (N, Q, H * D) float32.
    """
    device = value.device
    core = (
        ms_deform_attn_cpu if device.type == 'cpu' else select_backend(device)
    )
    with torch.autocast(device.type, enabled=False):
        return core(value, shapes, places.float(), weights.float())


class MultiScaleDeformableAttention(nn.Module):
    """Each query reads a few learned places of every level.

    Args:
        channels (int): Channels of queries and values.
        num_heads (int): Heads, a divisor of ``channels``.
        num_levels (int): Maps that are read.
        num_points (int): Places read in each map, for each head.
    """

    def __init__(self, *, channels, num_heads, num_levels, num_points):
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        places = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, places * 2)
        self.attention_weights = nn.Linear(channels, places)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self._init_parameters()

    def _init_parameters(self):
        # Each head starts by looking in its own direction, each point one
        # cell further than the last, all with equal weight.
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)
        reach = torch.arange(1, self.num_points + 1)
        offsets = ray[:, None, None] * reach[:, None]  # (H, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, position, centres, shapes):
        """Let every cell of the maps attend to the maps; add the input.

        Args:
            x (Tensor): (N, S, C), the maps flattened, one after the other.
            position (Tensor): (S, C), position codes for the queries.
            centres (Tensor): (S, 2) float32, xy of each cell in [0, 1].
            shapes (list[tuple[int, int]]): Height and width of each map.

        Returns:
            Tensor: (N, S, C).
        """
        query = x + position
        heads = (self.num_heads, self.num_levels, self.num_points)
        # Places are computed in float32 even under autocast: half precision
        # cannot tell neighbouring cells of a large map apart.
        offsets = self.sampling_offsets(query).float()  # (N, Q, H * L * P * 2)
        cells = offsets.new_tensor([[w, h] for h, w in shapes])[:, None]
        cells = cells.expand(*heads, 2).flatten()
        centres = centres.repeat(1, math.prod(heads))
        places = (centres + offsets / cells).unflatten(-1, (*heads, 2))
        weights = self.attention_weights(query).float()
        weights = weights.unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, heads[1:])  # (N, Q, H, L, P)
        value = self.value_proj(x).unflatten(-1, (self.num_heads, -1))
        out = ms_deform_attn(value, shapes, places, weights)
        return x + self.output_proj(out.to(x.dtype))
