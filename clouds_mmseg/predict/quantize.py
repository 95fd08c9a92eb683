"""ONNX files in int8: which layers, and with which ranges of values.

Weights have a scale for each output channel, values one for each tensor: its
range on the calibration images. What int8 does to the labels differs from
layer to layer by orders of magnitude and cannot be told from a layer itself,
so it is measured: group by group, on the calibration images and on the same
images darkened, hazy or noisy. Rounding changes more labels there: values are
smaller, and the network is less sure.
"""

import ast
import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_mmseg.predict.exported import require

# Layers with weights; the others stay in float32, and so do products of two
# maps (attention, masks, class scores).
_LAYERS = ('Conv', 'Gemm', 'MatMul')
# They become part of the layer before: its range is then that behind them.
_ACTIVATIONS = ('Relu', 'Clip')
# The exporter notes the module that a node comes from.
_SCOPES = 'pkg.torch.onnx.name_scopes'
_MOST_GROUPS = 24
# Images, and as many changed ones, on which layers are compared.
_COMPARED = 16


@dataclass
class Quantized:
    """Outcome of :func:`to_int8`.

    Attributes:
        equal: Share of the labels that stay on the calibration images, in
            percent.
        equal_changed: The same where these images are darkened, hazy or
            noisy.
        ranges: ``'extreme'`` or ``'mean'``, see :func:`to_int8`.
        left: Groups of layers that stay in float32, those that changed most
            labels first.
        groups: Number of all groups.
        weights: Share of the weights of all layers that are int8, in percent.
    """

    equal: float
    equal_changed: float
    ranges: str
    left: list[str]
    groups: int
    weights: float


def to_int8(
    source: Path,
    target: Path,
    batches: Sequence[np.ndarray],
    least: float,
    log: Callable[[str], None] = lambda line: None,
) -> Quantized:
    """Quantise convolutions and linear layers, calibrated on images.

    The range of a tensor is that of all images (``extreme``), or the mean of
    the ranges of the single images (``mean``), which rare values change less:
    the one that keeps more labels is taken. If fewer than ``least`` stay, of
    the images or of the changed ones, each group of layers is quantised
    alone, and those that change most labels are left in float32, as many as
    it takes.

    Args:
        source: fp32 file.
        target: File to write.
        batches: (N, 3, H, W) uint8 each.
        least: Share of the labels of ``source`` that are to stay on these
            images, in percent.
        log: Called with a line for each step.

    Raises:
        UserError: A package is missing.
    """
    onnx = require('onnx', 'onnxruntime')
    model = onnx.load(str(source))
    groups = _groups(model)
    layers = [node.name for names in groups.values() for node in names]
    ranges = _ranges(model, batches)
    both = (batches, _changed(batches))
    expected = [_labels_of(source, part) for part in both]

    # Spread over all of them.
    some = max(1, len(batches) // _COMPARED)

    def equal(names, kind, step=1):
        """Return the share of equal labels of both kinds of images."""
        quantize(source, target, names, ranges[kind])
        shares = []
        for part, wanted in zip(both, expected, strict=True):
            found = _labels_of(target, part[::step])
            pairs = list(zip(wanted[::step], found, strict=True))
            same = sum(int((a == b).sum()) for a, b in pairs)
            shares.append(100 * same / sum(a.size for a, _ in pairs))
        return shares

    shares = {kind: equal(layers, kind, some) for kind in ranges}
    kind = max(shares, key=lambda name: min(shares[name]))
    for name, (plain, changed) in shares.items():
        log(
            f'  all layers, {name} ranges: {plain:.2f} % equal labels, '
            f'{changed:.2f} % on changed images'
        )
    left: list[str] = []
    if min(shares[kind]) < least:
        alone = {
            name: min(equal([n.name for n in nodes], kind, some))
            for name, nodes in groups.items()
        }
        order = sorted(alone, key=lambda name: alone[name])
        for name in order[:5]:
            log(f'  {name} alone: {alone[name]:.2f} %')
        # The least number of groups, by bisection: more left, more equal.
        few, many = 0, len(order)
        while many - few > 1:
            middle = (few + many) // 2
            names = [n.name for k in order[middle:] for n in groups[k]]
            if min(equal(names, kind, some)) >= least:
                many = middle
            else:
                few = middle
        left = order[:many]
    kept = {name: nodes for name, nodes in groups.items() if name not in left}
    plain, changed = equal([n.name for k in kept.values() for n in k], kind)
    share = _weights(model, kept) / _weights(model, groups)
    return Quantized(plain, changed, kind, left, len(groups), 100 * share)


def quantize(
    source: Path,
    target: Path,
    layers: Sequence[str],
    ranges: dict[str, tuple[float, float]],
) -> None:
    """Write a file in which some layers are int8.

    Args:
        source: fp32 file.
        target: File to write.
        layers: Names of nodes: convolutions and linear layers.
        ranges: Lowest and highest value of their inputs and outputs.
    """
    onnx = require('onnx', 'onnxruntime')
    from onnxruntime import quantization

    model = onnx.load(str(source))
    if not layers:
        onnx.save(model, str(target))
        return
    activations = [
        node.name for node in model.graph.node if node.op_type in _ACTIVATIONS
    ]
    data: dict[str, Any] = {
        name: tuple(np.float32(value) for value in pair)
        for name, pair in ranges.items()
    }
    with _quiet():
        quantizer = quantization.QDQQuantizer(
            model,
            per_channel=True,
            # Sums of two products of 8 bits overflow 16 without VNNI.
            reduce_range=True,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=quantization.TensorsData(
                quantization.CalibrationMethod.MinMax, data
            ),
            nodes_to_quantize=[*layers, *activations],
            nodes_to_exclude=[],
            op_types_to_quantize=[*_LAYERS, *_ACTIVATIONS],
            # What a linear layer returns is added to what came before, or
            # normalised: it needs no range.
            extra_options={
                'OpTypesToExcludeOutputQuantization': ['MatMul', 'Gemm']
            },
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target), False)


def _changed(batches):
    """Darken images, lay haze over them, or add noise."""
    rng = np.random.default_rng(0)
    found = []
    for batch in batches:
        image = batch.astype(np.float32)
        kind = rng.integers(3)
        if kind == 0:
            image *= rng.uniform(0.25, 0.6)
        elif kind == 1:
            image *= rng.uniform(0.3, 0.6)
            image += rng.uniform(90, 150)
        else:
            image *= rng.uniform(0.6, 1)
            image += rng.normal(0, 20, image.shape).astype(np.float32)
        found.append(image.clip(0, 255).astype(np.uint8))
    return found


def _groups(model):
    """Return the nodes that can be quantised, by the module they come from."""
    constant = _constants(model)
    nodes = [
        node
        for node in model.graph.node
        if node.op_type in _LAYERS and node.input[1] in constant
    ]
    scopes = {node.name: _scope(node) for node in nodes}
    depth = max(map(len, scopes.values()), default=1)
    while True:
        groups: dict[str, list] = {}
        for node in nodes:
            name = '.'.join(scopes[node.name][:depth])
            groups.setdefault(name or 'the network', []).append(node)
        if len(groups) <= _MOST_GROUPS or depth == 1:
            return groups
        depth -= 1


def _scope(node):
    """Return the path of the module that a node comes from."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            # The last but one: the last is the operation.
            path = ast.literal_eval(entry.value)[-2:-1]
            parts = (path[0] if path else '').split('.')
            return tuple(parts[1:] if parts[0] == 'model' else parts)
    return ('',)


def _constants(model):
    constant = {tensor.name for tensor in model.graph.initializer}
    return constant | {
        name
        for node in model.graph.node
        if node.op_type == 'Constant'
        for name in node.output
    }


def _weights(model, groups):
    """Count the weights of the layers in some groups."""
    sizes = {
        tensor.name: int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
    }
    return sum(
        sizes.get(node.input[1], 0)
        for nodes in groups.values()
        for node in nodes
    )


def _ranges(model, batches):
    """Measure lowest and highest value of each tensor.

    Returns:
        ``extreme`` and ``mean`` -> name of a tensor -> both values.
    """
    onnx = require('onnx')
    names = _measured(model)
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    graph = measured.graph
    del graph.output[:]
    for name in names:
        for kind in ('Min', 'Max'):
            output = f'{name}_{kind}'
            graph.node.append(
                onnx.helper.make_node(
                    f'Reduce{kind}', [name], [output], keepdims=0
                )
            )
            graph.output.append(
                onnx.helper.make_tensor_value_info(
                    output, onnx.TensorProto.FLOAT, []
                )
            )
    session = _session(measured.SerializeToString())
    found = np.array([session.run(None, {'image': x}) for x in batches])
    lows, highs = found[:, ::2], found[:, 1::2]
    both = dict(
        extreme=(lows.min(0), highs.max(0)),
        mean=(lows.mean(0), highs.mean(0)),
    )
    return {
        kind: {
            name: (float(low), float(high))
            for name, low, high in zip(names, *pair, strict=True)
        }
        for kind, pair in both.items()
    }


def _measured(model):
    """Return the tensors whose ranges a quantised layer may need."""
    layers = [node for nodes in _groups(model).values() for node in nodes]
    outputs = {node.output[0] for node in layers}
    activations = [
        node
        for node in model.graph.node
        if node.op_type in _ACTIVATIONS and node.input[0] in outputs
    ]
    return list(
        dict.fromkeys(
            name
            for node in layers + activations
            for name in (node.input[0], node.output[0])
        )
    )


def _labels_of(path, batches):
    session = _session(str(path))
    return [session.run(['labels'], {'image': x})[0] for x in batches]


def _session(model):
    runtime = require('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(
        model, options, providers=['CPUExecutionProvider']
    )


@contextmanager
def _quiet():
    """Silence onnxruntime's advice to preprocess, which the exporter did."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
