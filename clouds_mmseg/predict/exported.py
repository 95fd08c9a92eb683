"""Run exported programs: images in, predictions out, without a config.

Letters: N images, K classes, H and W of an image.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmseg.registry import TRANSFORMS

from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.predict.segmenter import Source, as_rgb_array
from clouds_mmseg.utils.errors import UserError

# Key of the metadata, a JSON text, in files of every format.
METADATA_KEY = 'clouds_mmseg'
# (N, 3, H, W) uint8 RGB -> output by name.
Program = Callable[[np.ndarray], dict[str, np.ndarray]]


class ExportedSegmenter:
    """Predicts images with a file of ``clouds export``.

    Called as :class:`Segmenter`; an image is resized as the test of the
    model's config resizes its images, and the prediction is resized back:
    bilinearly if the file has the output ``scores``, else each pixel gets
    the nearest label. Large images are not cut into windows.

    Args:
        path: ``.onnx``, run by onnxruntime; ``.pt2``, by torch; ``.xml``, by
            OpenVINO.
        threads: Threads of the CPU; by default those that the runtime
            chooses. Not for ``.pt2``, which follows torch.
        providers: Execution providers of onnxruntime, by default the CPU's.

    Attributes:
        metadata (dict): What the file says of itself: ``classes``,
            ``palette``, ``preprocessing``, ``source``, ``outputs``, ...

    Raises:
        UserError: The file cannot be read, is not of ``clouds export``, or
            its runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ):
        path = Path(path).expanduser()
        self.program, self.metadata = open_program(
            path, threads=threads, providers=providers
        )
        self.classes = tuple(self.metadata['classes'])
        self.palette = np.asarray(self.metadata['palette'], np.uint8)
        init_default_scope('mmseg')
        self.resize = [
            # JSON has no tuples, and mmcv wants one as the scale.
            TRANSFORMS.build(
                {
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in step.items()
                }
            )
            for step in self.metadata['preprocessing']['resize_outside']
        ]

    def __call__(
        self,
        images: Source | Sequence[Source],
        *,
        confidence: bool = False,
        scores: bool = False,
        batch_size: int = 1,
    ) -> Prediction | list[Prediction]:
        """Predict one image or several: see :meth:`Segmenter.__call__`.

        Raises:
            UserError: An image cannot be read, or is none; or the file has no
                output ``scores``, which ``confidence`` and ``scores`` need.
        """
        if isinstance(images, (list, tuple)):
            return list(
                self.stream(
                    images,
                    confidence=confidence,
                    scores=scores,
                    batch_size=batch_size,
                )
            )
        (one,) = self.stream([images], confidence=confidence, scores=scores)
        return one

    def stream(
        self,
        images: Sequence[Source],
        *,
        confidence: bool = False,
        scores: bool = False,
        batch_size: int = 1,
    ) -> Iterator[Prediction]:
        """Predict images one batch after the other, as :meth:`__call__`."""
        if (confidence or scores) and 'scores' not in self.metadata['outputs']:
            raise UserError(
                'this file has no scores, which confidence and scores need: '
                'export it with --outputs labels scores'
            )
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            arrays = [as_rgb_array(source) for source in part]
            for source, array, (label, score) in zip(
                part, arrays, self._run(arrays), strict=True
            ):
                share = None
                if confidence:
                    total = score.sum(0).clip(min=1e-6)
                    share = (score.max(0) / total).clip(max=1)
                is_file = isinstance(source, (str, Path))
                yield Prediction(
                    image=array,
                    labels=label,
                    classes=self.classes,
                    palette=self.palette,
                    path=Path(source) if is_file else None,
                    confidence=share,
                    scores=score if scores else None,
                )

    def _run(self, arrays):
        """Return labels (H, W) and scores (K, H, W) or None, of each image."""
        inputs = [resized(array, self.resize) for array in arrays]
        if len({image.shape for image in inputs}) > 1:
            batches = [[image] for image in inputs]
        else:
            batches = [inputs]
        labels, scores = [], []
        for batch in batches:
            found = self.program(to_batch(batch))
            labels.extend(found['labels'])
            scores.extend(found.get('scores', [None] * len(batch)))
        return [
            _resized_back(*pair, array.shape[:2])
            for *pair, array in zip(labels, scores, arrays, strict=True)
        ]


def resized(image: np.ndarray, steps: Sequence[Any]) -> np.ndarray:
    """Apply ``Resize`` steps to an image (H, W, 3)."""
    if not steps:
        return image
    shape = image.shape[:2]
    results = dict(img=image, img_shape=shape, ori_shape=shape)
    for step in steps:
        results = step(results)
    return results['img']


def to_batch(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images (H, W, 3) of one size to (N, 3, H, W)."""
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def _resized_back(label, score, size):
    if label.shape == size:
        return label, score
    if score is None:
        nearest = torch.from_numpy(label)[None, None]
        nearest = F.interpolate(nearest, size=size, mode='nearest')
        return nearest[0, 0].numpy(), None
    score = F.interpolate(
        torch.from_numpy(score)[None],
        size=size,
        mode='bilinear',
        align_corners=False,
    )[0]
    if len(score) == 1:
        nearest = _resized_back(label, None, size)[0]
        return nearest, score.numpy()
    return score.argmax(0).to(torch.uint8).numpy(), score.numpy()


def open_program(
    path: Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> tuple[Program, dict]:
    """Load an exported file.

    Args:
        path: ``.onnx``, ``.pt2`` or ``.xml``.
        threads: See :class:`ExportedSegmenter`.
        providers: See :class:`ExportedSegmenter`.

    Returns:
        The program, and the metadata in the file.

    Raises:
        UserError: See :class:`ExportedSegmenter`.
    """
    loaders = {'.onnx': _open_onnx, '.pt2': _open_pt2, '.xml': _open_openvino}
    if path.suffix not in loaders:
        raise UserError(
            f'{path}: an exported file ends in {", ".join(loaders)}; a '
            'checkpoint is for Segmenter.from_pretrained'
        )
    if not path.is_file():
        raise UserError(f'{path}: there is no such file')
    try:
        program, text = loaders[path.suffix](path, threads, providers)
    except UserError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise UserError(
            f'{path} cannot be loaded: {"".join(first)[:300]}'
        ) from error
    if not text:
        raise UserError(
            f'{path} does not say what its classes are: it was not written '
            'by clouds export'
        )
    return program, json.loads(text)


def _open_onnx(path, threads, providers):
    runtime = require('onnxruntime')
    options = runtime.SessionOptions()
    # Warnings about single nodes of a graph are no use to its user.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = runtime.InferenceSession(
        str(path),
        options,
        providers=list(providers or ['CPUExecutionProvider']),
    )
    names = [output.name for output in session.get_outputs()]

    def run(images):
        found = session.run(names, {'image': images})
        return dict(zip(names, found, strict=True))

    return run, session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)


def _open_pt2(path, threads, providers):
    del threads, providers
    extra = {f'{METADATA_KEY}.json': ''}
    program = torch.export.load(path, extra_files=extra)
    text = extra[f'{METADATA_KEY}.json']
    if not text:
        return None, text
    module, names = program.module(), json.loads(text)['outputs']

    @torch.no_grad()
    def run(images):
        try:
            found = module(torch.from_numpy(images))
        except AssertionError as error:
            height, width = images.shape[2:]
            raise UserError(
                f'{path} takes no images of {width}x{height}: {error}'
            ) from error
        return {n: x.numpy() for n, x in zip(names, found, strict=True)}

    return run, text


def _open_openvino(path, threads, providers):
    del providers
    core = openvino_core()
    model = core.read_model(path)
    text = ''
    if model.has_rt_info([METADATA_KEY]):
        text = model.get_rt_info([METADATA_KEY]).astype(str)
    # In bfloat16, the default where the CPU has it, labels would differ.
    options: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32'}
    if threads is not None:
        options['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(model, 'CPU', options)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(images):
        found = compiled({'image': images})
        return {name: np.array(found[name]) for name in names}

    return run, text


def require(*packages: str) -> ModuleType:
    """Import packages of the extra ``export``; return the first.

    Raises:
        UserError: One is not installed.
    """
    # ONNX Runtime reports its use to a server unless it is told not to before
    # it is imported.
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            extra = 'openvino' if package == 'openvino' else 'export'
            raise UserError(
                f'{package} is not installed: '
                f'pip install "clouds_mmseg[{extra}]"'
            ) from error
    return import_module(packages[0])


@cache
def openvino_core() -> Any:
    """Return the core of OpenVINO that all programs of a process share.

    A core's CPU plugin gives the thread a stack for signal handlers, unmaps
    it when the core is freed and restores the one before. Of two cores, the
    first to go takes the stack away that the second restores: the process
    then dies at its next signal (Ctrl-C, or the end of a data loader's worker)
    without a message.
    """
    return require('openvino').Core()
