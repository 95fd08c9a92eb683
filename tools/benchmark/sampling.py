"""Deformable attention sampling at the size of one encoder layer."""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from benchmark.measure import BenchmarkCase
from benchmark.parts import TimedMethod
from benchmark.report import OURS, REFERENCE
from benchmark.setting import DTYPES, check_size
from clouds_mmseg.models.mask2former.deform_attn import (
    IMPLEMENTATIONS,
    check_implementation,
    default_implementation,
    ms_deform_attn,
)
from clouds_mmseg.models.mask2former.layers import reference_points
from clouds_mmseg.utils.errors import UserError

_STRIDES = (32, 16, 8)
# The official widths.
_HEADS, _CHANNELS, _POINTS = 8, 32, 4


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


class SampledLayer:
    """Forward and backward pass of one layer's deformable sampling.

    Args:
        sample: Function with the arguments of ``ms_deform_attn``.
        shapes: (H, W) of the feature maps.
        inputs: Result of ``random_layer_inputs``.
        dtype: Dtype of the values.
    """

    def __init__(
        self,
        sample: Callable,
        shapes: list[tuple[int, int]],
        inputs: tuple[Tensor, Tensor, Tensor],
        dtype: torch.dtype = torch.float32,
    ):
        self._sample = sample
        self._shapes = shapes
        value, *others = inputs
        self._inputs = [
            value.detach().to(dtype).requires_grad_(),
            *others,
        ]
        self._out = None

    def run(self) -> list[Tensor]:
        """Run forward and backward once; return output and gradients."""
        return [self.forward(), *self.backward()]

    def forward(self) -> Tensor:
        """Return (N, Q, H * D)."""
        value, locations, weights = self._inputs
        self._out = self._sample(value, self._shapes, locations, weights)
        return self._out.detach()

    def backward(self) -> tuple[Tensor, ...]:
        """Return the gradients of value, sampling locations and weights."""
        return torch.autograd.grad(
            self._out, self._inputs, torch.ones_like(self._out)
        )

    def traffic(self) -> dict[str, int]:
        """Count the bytes read and written with a perfect cache.

        Returns:
            Bytes of ``forward``, ``backward`` and the ``whole``.
        """
        sizes = [x.numel() * x.element_size() for x in self._inputs]
        # Same size as the values, in float32.
        out = self._inputs[0].numel() * 4
        forward = sum(sizes) + out
        # All inputs are read again, and each gets a gradient.
        backward = forward + sum(sizes)
        return dict(
            forward=forward, backward=backward, whole=forward + backward
        )


def sampling(
    size: tuple[int, int],
    batch: int,
    dtype: str,
    device: torch.device,
    reference: ModuleType | None = None,
) -> tuple[dict[str, BenchmarkCase], dict[str, int]]:
    """Build the cases for one encoder layer's deformable sampling.

    Args:
        size: Width and height of the images.
        batch: Batch size.
        dtype: ``fp32`` or ``bf16``, dtype of our values.
        device: Device to measure.
        reference: Of :func:`load_reference`.

    Returns:
        Cases whose result is the output and three gradients: the reference
        implementation, the default of the device (``ours``) and the others
        that run here, by name. And the bytes of :meth:`SampledLayer.traffic`.
    """
    check_size(size, batch)
    width, height = size
    shapes = [(height // s, width // s) for s in _STRIDES]
    inputs = random_layer_inputs(shapes, device, batch)
    ours = SampledLayer(ms_deform_attn, shapes, inputs, DTYPES[dtype])
    layers = {OURS: ours}
    if reference:
        other = SampledLayer(reference.sample_by_grid, shapes, inputs)
        layers = {REFERENCE: other, OURS: ours}
    default = default_implementation(device.type)
    print(f'ours is {default}, the default of this device')
    expected = ours.run()
    for name in IMPLEMENTATIONS:
        sample = functools.partial(ms_deform_attn, implementation=name)
        layer = SampledLayer(sample, shapes, inputs, DTYPES[dtype])
        if name != default and _works(name, layer, expected, device):
            layers[name] = layer
    cases = {
        name: BenchmarkCase(
            lambda _, layer=layer: layer.run(),
            watches=(
                TimedMethod(layer, 'forward', 'forward'),
                TimedMethod(layer, 'backward', 'backward'),
            ),
        )
        for name, layer in layers.items()
    }
    return cases, ours.traffic()


def _works(name, layer, expected, device):
    """Tell whether an implementation runs here, with the expected results."""
    try:
        check_implementation(name)
        check_implementation(name, device.type)
    except UserError as error:
        print(f'{name} is left out: {error}')
        return False
    try:
        found = layer.run()
    # A missing compiler, an unknown device, too little shared memory: of many
    # types, and the others are to be measured all the same.
    except Exception as error:
        print(f'{name} FAILS: {type(error).__name__}: {error}')
        return False
    # Half precision has 8 bits; sums of it are rounded once.
    largest = 1e-3 if found[1].dtype == torch.float32 else 2**-7
    for ours, other in zip(found, expected, strict=True):
        error = ((ours - other).abs().max() / other.abs().max()).item()
        if not error < largest:
            print(f'{name} IS WRONG: its results differ by {error:.1e}')
            return False
    return True
