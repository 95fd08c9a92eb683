"""Deformable sampling by itself, at the size of one encoder layer."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from benchmark.measure import BenchmarkCase
from benchmark.parts import TimedMethod
from benchmark.report import OURS, PLAIN
from benchmark.setting import DTYPES, check_size
from clouds_mmseg.models.mask2former.deform_attn import (
    ms_deform_attn,
    random_layer_inputs,
)

_STRIDES = (32, 16, 8)


class SampledLayer:
    """Reads a layer's places, and finds the gradients.

    Args:
        sample: With the arguments of ``ms_deform_attn``.
        shapes: Of the maps.
        inputs: Of ``random_layer_inputs``.
        dtype: Of the values.
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

    def run(self):
        """Run both directions once; returns all they give."""
        return [self.forward(), *self.backward()]

    def forward(self):
        """Return (N, Q, H * D)."""
        value, places, weights = self._inputs
        self._out = self._sample(value, self._shapes, places, weights)
        return self._out.detach()

    def backward(self):
        """Return the gradients of value, places and weights."""
        return torch.autograd.grad(
            self._out, self._inputs, torch.ones_like(self._out)
        )

    def traffic(self) -> dict[str, int]:
        """Count the bytes that are read and written if caches were perfect.

        Returns:
            Of ``forward``, ``backward`` and the ``whole``.
        """
        sizes = [x.numel() * x.element_size() for x in self._inputs]
        # As large as the values, but of the dtype of the sums.
        out = self._inputs[0].numel() * 4
        forward = sum(sizes) + out
        # All are read again, and each gets a gradient.
        backward = forward + sum(sizes)
        return dict(
            forward=forward, backward=backward, whole=forward + backward
        )


def sampling(
    size: tuple[int, int],
    batch: int,
    dtype: str,
    device: torch.device,
    plain: ModuleType | None = None,
) -> tuple[dict[str, BenchmarkCase], dict[str, int]]:
    """One encoder layer's sampling, forward and backward.

    Args:
        size: Width and height of the images.
        batch: Images.
        dtype: ``fp32`` or ``bf16``, of the values of ours.
        device: Where.
        plain: Of :func:`load_reference`.

    Returns:
        Each returns the output and three gradients; and the bytes of
        :meth:`SampledLayer.traffic`.
    """
    check_size(size, batch)
    width, height = size
    shapes = [(height // s, width // s) for s in _STRIDES]
    inputs = random_layer_inputs(shapes, device, batch)
    ours = SampledLayer(ms_deform_attn, shapes, inputs, DTYPES[dtype])
    layers = {OURS: ours}
    if plain:
        other = SampledLayer(plain.sample_by_grid, shapes, inputs)
        layers = {PLAIN: other, OURS: ours}
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
