"""ONNX files: write, lower the precision, convert to OpenVINO."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clouds_mmseg.predict.exported import (
    METADATA_KEY,
    openvino_core,
    require,
)
from clouds_mmseg.utils.errors import UserError

# From the first that torch translates to, to the last that it knows.
OPSETS = (18, 19, 20, 21, 22, 23)
# Products with weights or of two maps: where time and weights are.
_PRODUCTS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about single nodes."""
    loggers = [logging.getLogger(n) for n in ('onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    outputs: Sequence[str],
    opset: int,
) -> None:
    """Translate a recorded program to ONNX, which can be done once with it.

    Args:
        program: With one input.
        path: File to write; weights are inside.
        outputs: Names of its outputs.
        opset: One of :data:`OPSETS`.

    Raises:
        UserError: Packages are missing, or an operation has no translation.
    """
    require('onnx', 'onnxscript')
    with _quiet():
        try:
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=['image'],
                output_names=list(outputs),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            # The exporter's own text says how to report a bug.
            first = str(error.__cause__ or error).strip().splitlines()[0]
            raise UserError(
                f'the model cannot be translated to ONNX: {first[:300]}'
            ) from error
        translated.save(str(path), external_data=False)


def write_metadata(path: Path, text: str) -> None:
    """Store the metadata in an ONNX file."""
    onnx = require('onnx')
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, str(path))


def to_fp16(source: Path, target: Path) -> None:
    """Let convolutions and matrix products compute in fp16.

    Their weights are stored in fp16. Everything between them stays in
    float32, as under autocast: sampling locations need it, and inputs and
    outputs keep their types.
    """
    onnx = require('onnx')
    helper, half = onnx.helper, onnx.TensorProto.FLOAT16
    model = onnx.load(str(source))
    graph = model.graph
    weights = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    halved: dict[str, str] = {}
    nodes, new_weights = [], []

    def as_half(name):
        if name in halved:
            return halved[name]
        halved[name] = f'{name}_fp16'
        if name in weights:
            array = onnx.numpy_helper.to_array(weights[name])
            new_weights.append(
                onnx.numpy_helper.from_array(
                    array.astype(np.float16), halved[name]
                )
            )
        else:
            cast = helper.make_node('Cast', [name], [halved[name]], to=half)
            cast.name = f'{name}_to_fp16'
            nodes.append(cast)
        return halved[name]

    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            nodes.append(node)
            continue
        inputs = [as_half(name) if name else '' for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
        (name,) = node.output
        node.output[0] = f'{name}_of_fp16'
        back = helper.make_node(
            'Cast', [node.output[0]], [name], to=onnx.TensorProto.FLOAT
        )
        back.name = f'{name}_to_fp32'
        nodes += [node, back]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(new_weights)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.save(model, str(target))


def write_openvino(
    source: Path, target: Path, text: str, *, halve: bool
) -> None:
    """Convert an ONNX file to OpenVINO's two files, ``.xml`` and ``.bin``.

    Args:
        source: ONNX file.
        target: The ``.xml``; the ``.bin`` lies beside it.
        text: Metadata.
        halve: Store the weights in fp16.
    """
    openvino = require('openvino')
    # Not openvino.convert_model, which reports its use to a server.
    model: Any = openvino_core().read_model(source)
    model.set_rt_info(text, [METADATA_KEY])
    openvino.save_model(model, target, compress_to_fp16=halve)
