"""Multi-scale deformable attention (arXiv 2010.04159, section 4.1).

Letters: N images, S tokens (the pixels of all maps together), Q queries,
H heads, L levels (maps), P sampling points, C channels, D channels of a head.
"""

import functools
import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.deform_attn_cpu import ms_deform_attn_cpu
from clouds_mmseg.models.mask2former.layers import reference_points
from clouds_mmseg.utils.errors import UserError

ENV_VARIABLE = 'CLOUDS_DEFORMABLE_SAMPLING'
# Backends are timed on one encoder layer for a crop of 512x512, with the
# official widths.
_SHAPES = ((16, 16), (32, 32), (64, 64))
_HEADS, _CHANNELS, _POINTS = 8, 32, 4


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples a few learned locations of every level.

    Args:
        channels: Channels C of queries and values.
        num_heads: Heads, a divisor of ``channels``.
        num_levels: Maps that are sampled.
        num_points: Sampling points in each map, for each head.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, samples * 2)
        self.attention_weights = nn.Linear(channels, samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self._init_parameters()

    def _init_parameters(self):
        # Initially each head samples in its own direction, each point one
        # pixel further away than the previous one, all with equal weight.
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        radius = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * radius[:, None]  # (H, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        centres: Tensor,
        shapes: list[tuple[int, int]],
    ) -> Tensor:
        """Let every pixel of the maps attend to the maps; add the input.

        Args:
            x: (N, S, C), the maps flattened, one after the other.
            position: (S, C), positional encodings of the queries.
            centres: (S, 2) float32, xy of each pixel in [0, 1].
            shapes: Height and width of each map.

        Returns:
            (N, S, C).
        """
        query = x + position
        heads = (self.num_heads, self.num_levels, self.num_points)
        # Locations are computed in float32 even under autocast: half
        # precision cannot distinguish neighbouring pixels of a large map.
        offsets = self.sampling_offsets(query).float()  # (N, Q, H * L * P * 2)
        sizes = offsets.new_tensor([[w, h] for h, w in shapes])[:, None]
        sizes = sizes.expand(*heads, 2).flatten()
        centres = centres.repeat(1, math.prod(heads))
        locations = (centres + offsets / sizes).unflatten(-1, (*heads, 2))
        weights = self.attention_weights(query).float()
        weights = weights.unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, heads[1:])  # (N, Q, H, L, P)
        value = self.value_proj(x).unflatten(-1, (self.num_heads, -1))
        out = ms_deform_attn(value, shapes, locations, weights)
        return x + self.output_proj(out.to(x.dtype))


def ms_deform_attn(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Sum the values at the sampling locations with the attention weights.

    Values between pixels are interpolated bilinearly; outside of a map they
    are zero. All backends compute the same: the CPU has one of its own
    (``deform_attn_cpu.py``), other devices get the fastest one, see
    :func:`select_backend`.

    Args:
        value: (N, S, H, D), the maps flattened, one after the other.
        shapes: Height and width of each map.
        locations: (N, Q, H, L, P, 2), xy in [0, 1] of a map.
        weights: (N, Q, H, L, P), the attention weights.

    Returns:
        (N, Q, H * D) float32.
    """
    device = value.device
    backend = (
        ms_deform_attn_cpu if device.type == 'cpu' else select_backend(device)
    )
    with torch.autocast(device.type, enabled=False):
        return backend(value, shapes, locations.float(), weights.float())


def ms_deform_attn_grid_sample(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Sample one level after the other; see :func:`ms_deform_attn`."""
    n, _, heads, _ = value.shape
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (N * H, Q, L, P)
    maps = value.to(locations.dtype).split([h * w for h, w in shapes], dim=1)
    out: Any = 0
    for level, (shape, tokens) in enumerate(zip(shapes, maps, strict=True)):
        tokens = tokens.permute(0, 2, 3, 1).flatten(0, 1)  # (N * H, D, h * w)
        sampled = F.grid_sample(
            tokens.unflatten(2, shape), grid[:, :, level], align_corners=False
        )  # (N * H, D, Q, P)
        out = out + (sampled * weights[:, None, :, level]).sum(-1)
    return out.unflatten(0, (n, heads)).flatten(1, 2).transpose(1, 2)


def _load_triton():
    from clouds_mmseg.models.mask2former.deform_attn_triton import (
        ms_deform_attn_triton,
    )

    return ms_deform_attn_triton


def _load_mmcv():
    from clouds_mmseg.models.mask2former.deform_attn_mmcv import (
        ms_deform_attn_mmcv,
    )

    return ms_deform_attn_mmcv


# The results of the others must equal those of the first.
_BACKENDS = {
    'grid_sample': lambda: ms_deform_attn_grid_sample,
    'triton': _load_triton,
}
if importlib.util.find_spec('mmcv._ext'):  # If mmcv has been compiled.
    _BACKENDS['mmcv'] = _load_mmcv


def select_backend(device: torch.device) -> Callable[..., Tensor]:
    """Select the fastest backend by measuring, once for each device.

    Triton needs a C compiler for its launcher and a device that it supports,
    mmcv's op a compiled mmcv; ``grid_sample`` runs everywhere. The
    environment variable ``CLOUDS_DEFORMABLE_SAMPLING`` names one without
    measuring. Where ``torch.use_deterministic_algorithms`` is set,
    ``grid_sample`` is returned: torch itself then raises an error, as its
    gradient has no deterministic implementation.

    Args:
        device: Any but the CPU.

    Returns:
        A function with the arguments of :func:`ms_deform_attn`.

    Raises:
        UserError: The variable names no backend.
    """
    name = os.environ.get(ENV_VARIABLE)
    if name:
        if name not in _BACKENDS:
            raise UserError(
                f'{ENV_VARIABLE}={name}: known are {", ".join(_BACKENDS)}'
            )
        return _BACKENDS[name]()
    if torch.are_deterministic_algorithms_enabled():
        return ms_deform_attn_grid_sample
    return _autotune_once(device)


@functools.cache
def _autotune_once(device):
    return autotune(_BACKENDS, device)


# The first call may be in a validation, without gradients.
@torch.inference_mode(False)
@torch.enable_grad()
def autotune(
    loaders: dict[str, Callable[[], Callable[..., Tensor]]],
    device: torch.device,
    shapes: Sequence[tuple[int, int]] = _SHAPES,
) -> Callable[..., Tensor]:
    """Find the fastest backend of those that agree with the first.

    Args:
        loaders: By name, functions that return a backend. All but the first
            may fail.
        device: Where it is to run.
        shapes: Height and width of the maps that are sampled.

    Returns:
        The backend.
    """
    inputs = random_layer_inputs(shapes, device)
    backends, seconds, expected = {}, {}, None
    for name, load in loaders.items():
        try:
            backend = load()
            results = _forward_backward(backend, shapes, inputs)
            if expected is None:
                expected = results
            _check(results, expected)
            seconds[name] = _time(backend, shapes, inputs)
            backends[name] = backend
        # A missing compiler, an unknown device, too little shared memory: of
        # many types, and none of them may end a training.
        except Exception as error:
            if expected is None:
                raise
            print_log(
                f'Deformable sampling on {device}: {name} is skipped, as '
                f'it does not work here ({type(error).__name__}: {error})',
                'current',
                logging.WARNING,
            )
    best = min(seconds, key=seconds.__getitem__)
    times = ', '.join(f'{k} {v * 1e3:.2f} ms' for k, v in seconds.items())
    print_log(
        f'Deformable sampling on {device}: {best} (forward and backward of '
        f'a layer: {times})',
        'current',
    )
    return backends[best]


def random_layer_inputs(
    shapes: Sequence[tuple[int, int]],
    device: torch.device,
    images: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the inputs of one encoder layer of the official widths.

    Every pixel of all maps is a query that samples around itself, in part
    outside of the map. No location is near a pixel centre's row or column,
    where the gradient jumps and rounding decides on which side it is.

    Args:
        shapes: Height and width of the maps.
        device: Device of the tensors; random numbers are drawn on the CPU,
            by a generator of their own.
        images: N.

    Returns:
        Values (N, S, 8, 32), locations (N, S, 8, L, 4, 2) and weights
        (N, S, 8, L, 4), float32 leaves that require gradients.
    """
    generator = torch.Generator().manual_seed(0)
    centres = reference_points(shapes)
    size = (images, len(centres), _HEADS, len(shapes), _POINTS)
    sides = torch.tensor([[w, h] for h, w in shapes])[:, None]
    pixels = centres[:, None, None, None] * sides
    pixels = pixels + 2 * torch.randn(*size, 2, generator=generator)
    fraction = torch.rand(*size, 2, generator=generator) * 0.8 + 0.1
    locations = (pixels.floor() + fraction - 0.5) / sides
    weights = torch.rand(size, generator=generator)
    value = torch.rand(
        images, len(centres), _HEADS, _CHANNELS, generator=generator
    )
    value, locations, weights = (
        x.to(device).requires_grad_() for x in (value, locations, weights)
    )
    return value, locations, weights


def _forward_backward(backend, shapes, inputs):
    """Return the output of a backend and its three gradients."""
    value, locations, weights = inputs
    with torch.autocast(value.device.type, enabled=False):
        out = backend(value, shapes, locations, weights)
        grads = torch.autograd.grad(out.square().sum(), inputs)
    return [out.detach(), *grads]


def _check(results, expected):
    for ours, reference in zip(results, expected, strict=True):
        error = (ours - reference).abs().max() / reference.abs().max()
        if not error < 1e-3:
            raise ValueError(f'its numbers are off by {error:.1e}')


def _time(backend, shapes, inputs):
    """Seconds of the fastest of five runs; the first one compiles."""
    seconds = []
    for _ in range(5):
        _synchronize(inputs[0].device)
        start = time.perf_counter()
        _forward_backward(backend, shapes, inputs)
        _synchronize(inputs[0].device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _synchronize(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
