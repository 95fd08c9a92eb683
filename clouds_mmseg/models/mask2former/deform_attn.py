"""Multi-scale deformable attention (arXiv 2010.04159, section 4.1).

Letters: N images, S tokens (the pixels of all maps together), Q queries,
H heads, L levels (maps), P sampling points, C channels, D channels of a head.
"""

import importlib.util
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.deform_attn_cpu import ms_deform_attn_cpu
from clouds_mmseg.models.mask2former.layers import no_autocast
from clouds_mmseg.utils.errors import UserError


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples a few learned locations of every level.

    Args:
        channels: Channels C of queries and values.
        num_heads: Heads, a divisor of ``channels``.
        num_levels: Maps that are sampled.
        num_points: Sampling points in each map, for each head.
        deformable_sampling: Implementation, one of :data:`IMPLEMENTATIONS`;
            None for that of :func:`default_implementation`.

    Raises:
        UserError: There is no such implementation, or not on this machine.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        deformable_sampling: str | None = None,
    ):
        super().__init__()
        if deformable_sampling is not None:
            check_implementation(deformable_sampling)
        self.deformable_sampling = deformable_sampling
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
        # One fill each, not a tensor of a list: an export keeps them variable.
        sizes = torch.stack(
            [offsets.new_full((), side) for h, w in shapes for side in (w, h)]
        ).view(-1, 1, 2)
        sizes = sizes.expand(*heads, 2).flatten()
        centres = centres.repeat(1, math.prod(heads))
        locations = (centres + offsets / sizes).unflatten(-1, (*heads, 2))
        weights = self.attention_weights(query).float()
        weights = weights.unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, heads[1:])  # (N, Q, H, L, P)
        value = self.value_proj(x).unflatten(-1, (self.num_heads, -1))
        out = ms_deform_attn(
            value, shapes, locations, weights, self.deformable_sampling
        )
        return x + self.output_proj(out.to(x.dtype))


def ms_deform_attn(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    implementation: str | None = None,
) -> Tensor:
    """Sum the values at the sampling locations with the attention weights.

    Values between pixels are interpolated bilinearly; outside of a map they
    are zero. All implementations compute the same up to rounding. Sums are
    in float32, whatever the dtype of the values.

    Args:
        value: (N, S, H, D), the maps flattened, one after the other.
        shapes: Height and width of each map.
        locations: (N, Q, H, L, P, 2), xy in [0, 1] of a map.
        weights: (N, Q, H, L, P), the attention weights.
        implementation: One of :data:`IMPLEMENTATIONS`; None for that of
            :func:`default_implementation`.

    Returns:
        (N, Q, H * D) float32.

    Raises:
        UserError: See :func:`check_implementation`.
    """
    device = value.device.type
    if implementation is None:
        implementation = default_implementation(device)
    else:
        check_implementation(implementation, device)
    sample = IMPLEMENTATIONS[implementation]
    with no_autocast(device):
        return sample(value, shapes, locations.float(), weights.float())


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
    out = weights.new_zeros(())
    for level, (shape, tokens) in enumerate(zip(shapes, maps, strict=True)):
        tokens = tokens.permute(0, 2, 3, 1).flatten(0, 1)  # (N * H, D, h * w)
        sampled = F.grid_sample(
            tokens.unflatten(2, shape), grid[:, :, level], align_corners=False
        )  # (N * H, D, Q, P)
        out = out + (sampled * weights[:, None, :, level]).sum(-1)
    return out.unflatten(0, (n, heads)).flatten(1, 2).transpose(1, 2)


def ms_deform_attn_mmcv(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Call mmcv's compiled op; see :func:`ms_deform_attn`."""
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
    )

    # The op computes in the dtype of the values, and half precision cannot
    # distinguish neighbouring locations of a large map.
    value = value.to(locations.dtype)
    sides = torch.tensor(shapes, device=value.device)
    pixels = sides.prod(1)
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(),
        sides,
        pixels.cumsum(0) - pixels,  # first token of each map
        locations.contiguous(),
        weights.contiguous(),
        len(value),  # Images at a time: a divisor of the batch.
    )


def _ms_deform_attn_triton(value, shapes, locations, weights):
    # Not every torch comes with Triton.
    from clouds_mmseg.models.mask2former.deform_attn_triton import (
        ms_deform_attn_triton,
    )

    return ms_deform_attn_triton(value, shapes, locations, weights)


# The Triton kernels have never run on a GPU.
IMPLEMENTATIONS = dict(
    cpu=ms_deform_attn_cpu,
    grid_sample=ms_deform_attn_grid_sample,
    triton=_ms_deform_attn_triton,
    mmcv=ms_deform_attn_mmcv,
)
_NEEDS = dict(triton='triton', mmcv='mmcv._ext')


def default_implementation(device: str) -> str:
    """Name the implementation for a type of device.

    It depends on nothing else, so that it is the same in all processes and
    runs; but where ``torch.jit.trace`` records the operations it is
    ``grid_sample``, as those of ``cpu`` can't be recorded.
    """
    if device == 'cpu' and not torch.jit.is_tracing():
        return 'cpu'
    return 'grid_sample'


def check_implementation(name: str, device: str | None = None) -> None:
    """Refuse an implementation that does not work here as it should.

    Args:
        name: To be checked.
        device: Type of the device where it is to run, if that is known.

    Raises:
        UserError: It is none of :data:`IMPLEMENTATIONS`, its package is not
            installed, it does not run on the device, or it has no
            deterministic gradient although
            ``torch.use_deterministic_algorithms`` asks for one.
    """
    if name not in IMPLEMENTATIONS:
        raise UserError(
            'deformable_sampling must be None or one of '
            f'{", ".join(IMPLEMENTATIONS)}, got {name!r}'
        )
    if device is None:
        if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None:
            package = 'mmcv with compiled ops' if name == 'mmcv' else name
            raise UserError(
                f'deformable_sampling={name!r} needs {package}, which is not '
                'installed: install it, or leave the option out'
            )
        return
    if name != 'grid_sample' and (name == 'cpu') != (device == 'cpu'):
        where = 'the CPU' if name == 'cpu' else 'GPUs'
        raise UserError(
            f'deformable_sampling={name!r} runs on {where} only, and the '
            f'model is on {device!r}: leave the option out, or choose '
            "'grid_sample', which runs on every device"
        )
    # torch itself raises an error for the gradient of grid_sample.
    if (
        name in _NEEDS
        and torch.is_grad_enabled()
        and torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    ):
        raise UserError(
            f'deformable_sampling={name!r} sums gradients in no fixed order, '
            'but torch.use_deterministic_algorithms (randomness.deterministic '
            'of the config) asks for one, which no implementation has on a '
            'GPU: set it to False, or train on the CPU'
        )
