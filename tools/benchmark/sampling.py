"""Deformable attention sampling at the size of one encoder layer."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from benchmark.measure import BenchmarkCase
from benchmark.parts import TimedMethod
from benchmark.report import OURS, REFERENCE
from benchmark.setting import DTYPES, check_size
from clouds_mmseg.models.mask2former.deform_attn import (
    ms_deform_attn,
    random_layer_inputs,
)

_STRIDES = (32, 16, 8)


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
        Cases whose result is the output and three gradients, and the bytes
        of :meth:`SampledLayer.traffic`.
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
