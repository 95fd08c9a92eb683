"""A trained model as a function of images.

Letters: K classes, H and W of an image.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor, nn

from clouds_mmseg.conversion.convert_file import read_with_meta
from clouds_mmseg.conversion.diagnose import classes_of, classes_of_config
from clouds_mmseg.models.segmentors.pseudo_labels import as_scores
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.config_file import (
    find_config,
    parse_config_text,
    read_file,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import read_image
from clouds_mmseg.utils.visualization import colorize
from clouds_mmseg.weights.load import load_strictly, without_pretrained_init

Source: TypeAlias = str | Path | Image.Image | np.ndarray
_TEACHER = 'teacher.'
# Segmentors whose inference is that of DGSegmentor.
_SAME_NETWORK = ('EncoderDecoder', 'SelfTrainingSegmentor')
# Larger inputs are predicted in overlapping windows.
_MAX_PIXELS = 4_000_000
_WINDOW = 1024
_WORST_SCALE = 16


@dataclass
class Prediction:
    """Result for one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 class indices.
        classes: Names of the classes.
        palette: RGB of each class.
        path: File of the image, if it came from one.
        confidence: (H, W) float32 in [0, 1], the share of the best class in
            the scores of a pixel; None unless requested.
        scores: (K, H, W) float32, not negative: the probabilities of a head
            of MMSegmentation, the semantic scores of ``CLOUDSHead``, which do
            not sum to one. None unless requested.
    """

    image: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    path: Path | None = None
    confidence: np.ndarray | None = None
    scores: np.ndarray | None = field(default=None, repr=False)

    def color(self) -> Image.Image:
        """Return the labels in the colours of the palette."""
        return Image.fromarray(colorize(self.labels, self.palette))

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """Return the labels' colours over the image.

        Args:
            opacity: Of the colours, in [0, 1].

        Raises:
            UserError: ``opacity`` is out of range.
        """
        if not 0 <= opacity <= 1:
            raise UserError(f'opacity must lie in [0, 1], got {opacity}')
        return Image.blend(Image.fromarray(self.image), self.color(), opacity)

    def save(self, path: str | Path, kind: str = 'labels') -> None:
        """Write a PNG file.

        Args:
            path: The file.
            kind: ``labels``: class indices, one grey channel; ``color``;
                ``overlay``; ``confidence``: 0 to 255.

        Raises:
            UserError: There is no such kind, or no confidence was requested.
        """
        image = self.drawing(kind)
        with atomic_path(path) as temporary:
            image.save(temporary, format='png')

    def drawing(self, kind: str) -> Image.Image:
        """Return what :meth:`save` writes."""
        if kind == 'labels':
            return Image.fromarray(self.labels)
        if kind == 'color':
            return self.color()
        if kind == 'overlay':
            return self.overlay()
        if kind == 'confidence':
            if self.confidence is None:
                raise UserError(
                    'this prediction has no confidence; ask for it: '
                    'segmenter(image, confidence=True)'
                )
            return Image.fromarray((self.confidence * 255).astype(np.uint8))
        raise UserError(
            f'kind={kind!r} is none of labels, color, overlay, confidence'
        )


class Segmenter:
    """Predicts images with a trained model.

    ::

        segmenter = Segmenter.from_pretrained('iter_40000.pth')
        prediction = segmenter('street.jpg')
        prediction.overlay().save('overlay.png')

    An image is resized as the test of the model's config resizes its images
    (``Resize`` of the test pipeline), and the prediction is resized back.
    Images that are larger than ``max_pixels`` then are predicted in
    overlapping windows, which bounds the memory.

    Args:
        model: A segmentor of MMSegmentation with loaded weights.
        classes: Names of its classes.
        palette: RGB of each class.
        resize: Configs of the ``Resize`` steps before the network.
        dtype: The network runs under autocast with it; None: float32.
        scales: Scores are averaged over the image at these relative sizes.
        flip: And over its mirror image.
        max_pixels: See above, pixels.
        window: Side of a window, pixels.

    Raises:
        UserError: A setting is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        *,
        resize: Sequence[dict] = (),
        dtype: torch.dtype | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        max_pixels: int = _MAX_PIXELS,
        window: int = _WINDOW,
    ):
        if not scales or not all(
            1 / _WORST_SCALE <= scale <= _WORST_SCALE for scale in scales
        ):
            raise UserError(
                f'scales must be numbers in [1/{_WORST_SCALE}, '
                f'{_WORST_SCALE}], got {list(scales)}'
            )
        if window < 64 or window % 32 or max_pixels < window**2:
            raise UserError(
                'window must be a multiple of 32 of at least 64, and '
                f'max_pixels at least its square, got {window}, {max_pixels}'
            )
        self.model = model.eval()
        self.classes = tuple(classes)
        self.palette = np.asarray(palette, np.uint8)
        self.resize_steps = [dict(step) for step in resize]
        self.resize = [TRANSFORMS.build(dict(step)) for step in resize]
        self.dtype = dtype
        self.scales = tuple(scales)
        self.flip = flip
        self.max_pixels = max_pixels
        self.window = window
        self._test_cfg = model.test_cfg

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        config: str | Path | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> 'Segmenter':
        """Load a checkpoint of a training, or a published file.

        The file is enough: it holds weights, config and classes. Its config
        is read without being executed, and builds registered classes only.

        Args:
            checkpoint: The file.
            config: Used instead of the config in the checkpoint.
            device: By default the first GPU, or the CPU.
            **kwargs: As for the class.

        Raises:
            UserError: The file cannot be read, has no config, belongs to
                another project, or the device does not exist.
        """
        device = _device(device)
        weights, meta, _ = read_with_meta(Path(checkpoint))
        if config is None:
            cfg = parse_config_text(meta.get('cfg'))
            if not cfg or not isinstance(cfg.get('model'), dict):
                raise UserError(
                    f'{checkpoint} holds no config; give the one it was '
                    'trained with (config=..., --config), or convert it if '
                    'it is of another project: clouds convert'
                )
            named = f'the config in {checkpoint}'
        else:
            file = find_config(config, '--config')
            cfg, named = read_file(file).to_dict(), str(file)
        init_default_scope('mmseg')
        model_cfg = dict(cfg['model'])
        if model_cfg.get('type') in _SAME_NETWORK:
            model_cfg = _as_dg_segmentor(model_cfg)
        _require_registered(model_cfg, named)
        # Text embeddings are not in a checkpoint: their source is read.
        model = MODELS.build(without_pretrained_init(Config(model_cfg)))
        kept = {k: v for k, v in weights.items() if not k.startswith(_TEACHER)}
        load_strictly(model, kept, source=str(checkpoint))
        found = _classes(meta, cfg, model, str(checkpoint))
        return cls(
            model.to(device), *found, resize=_resize_steps(cfg), **kwargs
        )

    def __call__(
        self,
        images: Source | Sequence[Source],
        *,
        confidence: bool = False,
        scores: bool = False,
        batch_size: int = 1,
    ) -> Prediction | list[Prediction]:
        """Predict one image or several.

        Args:
            images: A file, a PIL image, or an array (H, W, 3) uint8 RGB; or a
                list of them.
            confidence: Whether to return the confidence of each pixel.
            scores: Whether to return the scores of all classes.
            batch_size: Images that are predicted at once, if their sizes are
                equal.

        Returns:
            A prediction for one image, a list of them for a list.

        Raises:
            UserError: An image cannot be read, or is none.
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
        (one,) = self._predict([images], confidence, scores)
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
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            yield from self._predict(part, confidence, scores)

    @torch.no_grad()
    def _predict(self, sources, confidence, scores):
        arrays = [as_rgb_array(source) for source in sources]
        needed = confidence or scores or len(self.scales) > 1 or self.flip
        if needed:
            totals = self._scores(arrays)
            labels = [total.argmax(0) for total in totals]
        else:
            totals = [None] * len(arrays)
            labels = [
                result.pred_sem_seg.data[0]
                for result in self._run(arrays, keep_scores=False)
            ]
        for source, array, total, label in zip(
            sources, arrays, totals, labels, strict=True
        ):
            share = None
            if confidence:
                share = total.amax(0) / total.sum(0).clamp(min=1e-6)
                share = share.clamp(max=1).cpu().numpy()
            yield Prediction(
                image=array,
                labels=label.to(torch.uint8).cpu().numpy(),
                classes=self.classes,
                palette=self.palette,
                path=Path(source) if isinstance(source, (str, Path)) else None,
                confidence=share,
                scores=total.cpu().numpy() if scores else None,
            )

    def _scores(self, arrays: list[np.ndarray]) -> list[Tensor]:
        """Return scores averaged over scales and flips, (K, H, W) each."""
        totals: list[Any] = [0] * len(arrays)
        views = [(s, f) for s in self.scales for f in (False, True)]
        views = [view for view in views if self.flip or not view[1]]
        for scale, flipped in views:
            inputs = [a[:, ::-1] if flipped else a for a in arrays]
            results = self._run(inputs, keep_scores=True, scale=scale)
            for index, result in enumerate(results):
                found = result.seg_logits.data.float()
                if len(found) == 1:
                    raise UserError(
                        'a model with one output has no scores of classes: '
                        'confidence, scores, flip and scales need them'
                    )
                found = as_scores(self.model.decode_head, found)
                totals[index] += found.flip(-1) if flipped else found
        return [total / len(views) for total in totals]

    def _run(self, arrays, *, keep_scores, scale=1.0):
        """Run the model on arrays (H, W, 3) RGB; samples with results."""
        inputs, samples = [], []
        for array in arrays:
            results = dict(
                img=np.ascontiguousarray(array[..., ::-1]),
                img_shape=array.shape[:2],
                ori_shape=array.shape[:2],
            )
            for step in self.resize:
                results = step(results)
            image = results['img']
            if scale != 1:
                image = cv2.resize(
                    image, None, fx=scale, fy=scale, interpolation=1
                )
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))
            inputs.append(torch.from_numpy(planes))
            meta = dict(ori_shape=array.shape[:2], img_shape=image.shape[:2])
            samples.append(SegDataSample(metainfo=meta))
        largest = max(x.shape[1] * x.shape[2] for x in inputs)
        test_cfg = dict(self._test_cfg or {}, keep_scores=keep_scores)
        if largest > self.max_pixels:
            test_cfg.update(
                mode='slide',
                crop_size=(self.window,) * 2,
                stride=(self.window * 2 // 3,) * 2,
                window_batch=1,
            )
        device = next(self.model.parameters()).device
        autocast = nullcontext()
        if self.dtype is not None:
            autocast = torch.autocast(device.type, self.dtype)
        self.model.test_cfg = Config(dict(test_cfg=test_cfg)).test_cfg
        try:
            with autocast:
                return self.model.test_step(
                    dict(inputs=inputs, data_samples=samples)
                )
        finally:
            self.model.test_cfg = self._test_cfg


def as_rgb_array(source: Source) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB.

    Raises:
        UserError: It cannot be read, or is none.
    """
    if isinstance(source, (str, Path)):
        return read_image(source)
    if isinstance(source, Image.Image):
        return np.asarray(source.convert('RGB'))
    array = np.asarray(source)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UserError(
            'an image is a file, a PIL image or an array (H, W, 3) uint8 RGB, '
            f'got an array {array.shape} {array.dtype}'
        )
    if not array.size:
        raise UserError(f'an image has pixels, got an array {array.shape}')
    return array


def _device(name):
    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = torch.device(name)
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise UserError(
            f'device {name} is not there: torch {torch.__version__} finds no '
            'GPU; give device=cpu'
        )
    return device


def _as_dg_segmentor(cfg):
    """Return the config of the same network, without a teacher."""
    kept = (
        'data_preprocessor',
        'backbone',
        'neck',
        'decode_head',
        'auxiliary_head',
        'train_cfg',
        'test_cfg',
    )
    return dict(
        {k: v for k, v in cfg.items() if k in kept}, type='DGSegmentor'
    )


def _require_registered(cfg: Any, named: str) -> None:
    """Refuse types that would import code: a checkpoint is not trusted.

    Raises:
        UserError: A type is a path to an object, not a registered name.
    """
    if isinstance(cfg, dict):
        kind = cfg.get('type')
        if isinstance(kind, str) and ('.' in kind or ':' in kind):
            raise UserError(
                f'{named} names the type {kind!r}, which would import code; '
                'only names of registered classes are built'
            )
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for value in cfg:
            _require_registered(value, named)


def _classes(meta, cfg, model, named):
    """Return names and colours of the classes of a model."""
    found = classes_of(meta)
    dataset = meta.get('dataset_meta') or {}
    if found is None:
        dataset = classes_of_config(cfg.get('test_dataloader')) or {}
        found = dataset.get('classes')
    if found is None:
        raise UserError(
            f'{named} does not say which classes it has; publish it with its '
            'config: clouds publish CHECKPOINT OUT.safetensors --config FILE'
        )
    if len(found) != model.num_classes:
        raise UserError(
            f'{named} names {len(found)} classes, but its head has '
            f'{model.num_classes}'
        )
    palette = dataset.get('palette') or dataset.get('PALETTE')
    if palette is None or len(palette) != len(found):
        print_log(
            f'{named} has no palette: colours are chosen by a fixed rule',
            logger='current',
            level=logging.WARNING,
        )
        generator = np.random.default_rng(0)
        palette = generator.integers(0, 256, (len(found), 3))
    return found, palette


def _resize_steps(cfg):
    """Return the resizing steps of the test pipeline of a config."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while dataset.get('datasets'):
        dataset = dataset['datasets'][0]
    steps = dataset.get('pipeline') or []
    return [dict(step) for step in steps if step.get('type') == 'Resize']
