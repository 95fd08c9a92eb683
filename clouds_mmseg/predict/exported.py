"""Run exported programs: images in, predictions out, without a config.

Letters: N images, K classes, H and W of an image.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope

from clouds_mmseg.models.mask2former.inference import label_of_scores
from clouds_mmseg.models.segmentors.pseudo_labels import best_share
from clouds_mmseg.predict.loading import EXPORTED
from clouds_mmseg.predict.predictor import (
    MAX_PIXELS,
    WINDOW,
    Predictor,
    build_resize,
    check_windows,
    resized,
    several_scores,
    to_bytes,
)
from clouds_mmseg.predict.program_check import check_program
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.remote import is_address
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.weights.load import find_checkpoint
from clouds_mmseg.weights.locate import weights_only

# Key of the metadata, a JSON text, in files of every format.
METADATA_KEY = 'clouds_mmseg'
# (N, 3, H, W) uint8 RGB -> output by name.
Program = Callable[[np.ndarray], dict[str, np.ndarray]]


class ExportedSegmenter(Predictor):
    """Predicts images with a file of ``clouds export``.

    Called as :class:`Segmenter`; an image is resized as the test of the
    model's config resizes its images, and the prediction is resized back:
    bilinearly if the file has the output ``scores``, else each pixel gets
    the nearest label. Large images are predicted in overlapping windows if
    the file has scores, which are averaged where windows overlap, else whole.

    Args:
        path: ``.onnx``, run by onnxruntime; ``.pt2``, by torch; ``.xml``, by
            OpenVINO.
        threads: Threads of the CPU; by default those that the runtime
            chooses. Not for ``.pt2``, which follows torch.
        providers: Execution providers of onnxruntime, by default the CPU's.
        max_pixels: Above which windows are used, pixels.
        window: Side of a window, pixels.

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
        providers: Sequence[Any] | None = None,
        max_pixels: int = MAX_PIXELS,
        window: int = WINDOW,
    ):
        check_windows(max_pixels, window)
        self.max_pixels = max_pixels
        self.window = window
        path = Path(path).expanduser()
        self.program, self.metadata = open_program(
            path, threads=threads, providers=providers
        )
        self.classes = tuple(self.metadata['classes'])
        self.palette = np.asarray(self.metadata['palette'], np.uint8)
        init_default_scope('mmseg')
        self.resize = build_resize(
            self.metadata['preprocessing']['resize_outside']
        )

    @property
    def has_scores(self) -> bool:
        """See :class:`Predictor`; a file may be without them."""
        return 'scores' in self.metadata['outputs'] and len(self.classes) > 1

    def _predict(self, arrays, confidence, scores, smoothing):
        needed = bool(confidence or scores or smoothing)
        if needed and 'scores' not in self.metadata['outputs']:
            raise UserError(
                'this file has no scores, which confidence, scores and smooth '
                'need: export it with --outputs labels scores'
            )
        inputs = [resized(array, self.resize) for array in arrays]
        if self.has_scores and any(
            self._is_large(array, image, needed)
            for array, image in zip(arrays, inputs, strict=True)
        ):
            for array, image in zip(arrays, inputs, strict=True):
                yield self._in_strips(
                    array,
                    image,
                    partial(self._window, image),
                    to_scores=several_scores,
                    to_label=label_of_scores,
                    align_corners=False,
                    confidence=confidence,
                    scores=scores,
                    smoothing=smoothing,
                )
            return
        for array, (label, score) in zip(
            arrays, self._run(arrays, inputs), strict=True
        ):
            if not needed:
                yield label, None, None
                continue
            total = several_scores(torch.from_numpy(score))
            if smoothing:
                smoothing.begin(array)
                total = smoothing(total)
                label = to_bytes(label_of_scores(total))
            yield (
                label,
                best_share(total).numpy() if confidence else None,
                total.numpy() if scores else None,
            )

    def _window(self, image, rows, columns):
        """Return the scores (K, rows, columns) of a part of an image."""
        found = self.program(to_batch([image[rows, columns]]))
        return torch.from_numpy(found['scores'][0])

    def _run(self, arrays, inputs):
        """Return labels (H, W) and scores (K, H, W) or None, of each image."""
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


def to_batch(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images (H, W, 3) of one size to (N, 3, H, W)."""
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def _resized_back(label, score, size):
    if label.shape == size:
        return label, score
    nearest = torch.from_numpy(label)[None, None]
    nearest = F.interpolate(nearest, size=size, mode='nearest')[0, 0].numpy()
    if score is None:
        return nearest, None
    score = F.interpolate(
        torch.from_numpy(score)[None],
        size=size,
        mode='bilinear',
        align_corners=False,
    )[0]
    if len(score) > 1:
        nearest = to_bytes(label_of_scores(score))
    return nearest, score.numpy()


def load_predictor(
    checkpoint: str | Path,
    *,
    device: str | torch.device | None = None,
    **options: Any,
) -> Predictor:
    """Load a checkpoint, or a file of ``clouds export``.

    Args:
        checkpoint: What :meth:`Segmenter.from_pretrained` takes, or an
            exported file.
        device: Of an exported file the CPU; ``cuda`` and ``cuda:N`` for ONNX
            where onnxruntime has CUDA.
        **options: Of :meth:`Segmenter.from_pretrained`; an exported program
            has none of them.

    Raises:
        UserError: As there, or an option is given for an exported file.
    """
    path = Path(checkpoint).expanduser()
    if is_address(checkpoint):
        path = find_checkpoint(checkpoint)
    if path.suffix not in EXPORTED:
        return Segmenter.from_pretrained(checkpoint, device=device, **options)
    # Scales are a list, which is the default if it is [1].
    given = [k for k, v in options.items() if v and v != [1.0]]
    if given:
        raise UserError(
            f'{path} is an exported program, which does what it was exported '
            f'with: {", ".join(given)} cannot be given; predict with the '
            'checkpoint that it was made of'
        )
    return ExportedSegmenter(path, providers=_providers(path, device))


def _providers(path, device):
    """Return the execution providers of onnxruntime for a device."""
    name, _, index = str(device or 'cpu').partition(':')
    if name == 'cpu':
        return None
    if name != 'cuda' or path.suffix != '.onnx':
        raise UserError(
            f'{path} is run on the CPU, not on {device}; of exported files '
            'only .onnx runs on cuda'
        )
    known = require('onnxruntime').get_available_providers()
    if 'CUDAExecutionProvider' not in known:
        raise UserError(
            f'device {device} is not there: this onnxruntime runs on '
            f'{", ".join(known)}; install onnxruntime-gpu, or give cpu'
        )
    options = {'device_id': int(index or 0)}
    return [('CUDAExecutionProvider', options), 'CPUExecutionProvider']


def open_program(
    path: Path,
    *,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
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
    loaders = dict(
        zip(EXPORTED, (_open_onnx, _open_pt2, _open_openvino), strict=True)
    )
    if path.suffix not in loaders:
        raise UserError(
            f'{path}: an exported file ends in {", ".join(EXPORTED)}; a '
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
    try:
        return program, parse_json(text)
    except ValueError as error:
        raise UserError(
            f'what {path} says of its classes is no JSON: {error}'
        ) from error


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
    try:
        check_program(path)
    except ValueError as error:
        raise UserError(
            f'{path} was not written by clouds export: {error}. torch would '
            'run what stands in it, which is refused'
        ) from error
    # Its sample inputs are a pickle.
    with weights_only():
        program = torch.export.load(path, extra_files=extra)
    text = extra[f'{METADATA_KEY}.json']
    if not text:
        return None, text
    module, names = program.module(), parse_json(text)['outputs']

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
