"""A trained model as a function of images.

Letters: K classes, H and W of an image.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from torch import nn

from clouds_mmseg.models.mask2former.inference import label_of_scores
from clouds_mmseg.models.segmentors.pseudo_labels import (
    as_scores,
    best_share,
)
from clouds_mmseg.predict.loading import find_device, load_model
from clouds_mmseg.predict.prediction import palette_of
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
from clouds_mmseg.predict.vocabulary import with_classes
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import UserError

_WORST_SCALE = 16


class Segmenter(Predictor):
    """Predicts images with a trained model.

    ::

        segmenter = Segmenter.from_pretrained('iter_40000.pth')
        prediction = segmenter('street.jpg')
        prediction.overlay().save('overlay.png')

    An image is resized as the test of the model's config resizes its images
    (``Resize`` of the test pipeline), and the prediction is resized back.
    Images that are larger than ``max_pixels`` then are predicted in
    overlapping windows, row by row, and their scores are never all held:
    an image of 8192x4096 takes less than 4 GB.

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
        text_tower: Which CLIP :meth:`with_classes` takes: the arguments of
            :func:`~clouds_mmseg.models.text_embeddings.class_text_embeddings`
            without ``classes``.

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
        max_pixels: int = MAX_PIXELS,
        window: int = WINDOW,
        text_tower: dict | None = None,
    ):
        if not scales or not all(
            1 / _WORST_SCALE <= scale <= _WORST_SCALE for scale in scales
        ):
            raise UserError(
                f'scales must be numbers in [1/{_WORST_SCALE}, '
                f'{_WORST_SCALE}], got {list(scales)}'
            )
        check_windows(max_pixels, window)
        self.model = model.eval()
        self.classes = tuple(classes)
        self.palette = np.asarray(palette, np.uint8)
        self.resize_steps = [dict(step) for step in resize]
        self.resize = build_resize(self.resize_steps)
        self.dtype = dtype
        self.scales = tuple(scales)
        self.flip = flip
        self.max_pixels = max_pixels
        self.window = window
        self.text_tower = text_tower
        self._test_cfg = model.test_cfg

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        *,
        config: str | Path | None = None,
        device: str | torch.device | None = None,
        teacher: bool = False,
        **kwargs: Any,
    ) -> 'Segmenter':
        """Load a checkpoint of a training, or a published file.

        The file is enough: it holds weights, config and classes. Its config
        is read without being executed, and builds registered classes only.

        Args:
            checkpoint: A file, the work dir of a training, a published
                folder, a URL, or a repository of the Hugging Face hub
                (``owner/name``), see
                :func:`~clouds_mmseg.weights.load.find_checkpoint`.
            config: Used instead of the config in the checkpoint.
            device: By default the first GPU, or the CPU; of processes that
                ``torchrun`` or ``srun`` started, each has its own GPU.
            teacher: Predict with the teacher of self-training, which labels
                its images, instead of the student.
            **kwargs: As for the class.

        Raises:
            UserError: The file cannot be read, has no config, belongs to
                another project, or the device does not exist.
        """
        device = find_device(device)
        found = load_model(checkpoint, config, teacher=teacher)
        options = dict(resize=found.resize, text_tower=found.text_tower)
        return cls(
            found.model.to(device),
            found.classes,
            found.palette,
            **(options | kwargs),
        )

    @property
    def has_scores(self) -> bool:
        """See :class:`Predictor`; a model may have one output."""
        return getattr(self.model, 'out_channels', None) != 1

    def with_classes(
        self,
        classes: Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]],
        **text_tower: Any,
    ) -> 'Segmenter':
        """Return a segmenter for other classes, which shares the weights.

        The model needs the text classifier: the names are embedded by CLIP's
        text tower, the one that the model was trained with. How well a name
        is recognised that the model was not trained for is another question.

        Args:
            classes: Names; or for each class a list of synonyms, of which the
                first is its name; or name -> synonyms. Names that the model
                or Cityscapes has keep their colours.
            **text_tower: ``model_name``, ``pretrained``, ``templates`` or
                ``cache_dir`` of
                :func:`~clouds_mmseg.models.text_embeddings.class_text_embeddings`
                where the config of the model does not name its CLIP.

        Raises:
            UserError: The classifier is linear, a class has no name or the
                name of another, or the text tower is not at hand or is of
                another CLIP than the model's.
        """
        model, names = with_classes(
            self.model, classes, {**(self.text_tower or {}), **text_tower}
        )
        known = dict(zip(CLASSES, PALETTE, strict=True))
        known |= dict(zip(self.classes, self.palette.tolist(), strict=True))
        other = copy.copy(self)
        other.model, other.classes = model, names
        other.palette = palette_of(names, known)
        return other

    @torch.no_grad()
    def _predict(self, arrays, confidence, scores, smoothing):
        inputs = [resized(array[..., ::-1], self.resize) for array in arrays]
        needed = bool(
            confidence
            or scores
            or smoothing
            or len(self.scales) > 1
            or self.flip
        )
        if any(
            self._is_large(array, image, needed)
            for array, image in zip(arrays, inputs, strict=True)
        ):
            for pair in zip(arrays, inputs, strict=True):
                yield self._predict_large(*pair, confidence, scores, smoothing)
        elif needed:
            yield from self._predict_scores(
                arrays, inputs, confidence, scores, smoothing
            )
        else:
            sizes = [array.shape[:2] for array in arrays]
            for result in self._run(inputs, sizes, keep_scores=False):
                yield to_bytes(result.pred_sem_seg.data[0]), None, None

    def _predict_scores(self, arrays, inputs, confidence, scores, smoothing):
        """Predict images whose scores can be held.

        Yields:
            Labels, confidence and scores of each image, as in a Prediction.
        """
        sizes = [array.shape[:2] for array in arrays]
        totals: list[Any] = [0] * len(arrays)
        views = self._views()
        for scale, flipped in views:
            view = [a[:, ::-1] if flipped else a for a in inputs]
            results = self._run(view, sizes, keep_scores=True, scale=scale)
            for index, result in enumerate(results):
                found = several_scores(result.seg_logits.data.float())
                found = as_scores(self.model.decode_head, found)
                totals[index] += found.flip(-1) if flipped else found
        for array, total in zip(arrays, totals, strict=True):
            total = total / len(views)
            if smoothing:
                smoothing.begin(array)
                total = smoothing(total)
            yield (
                to_bytes(label_of_scores(total)),
                best_share(total).cpu().numpy() if confidence else None,
                total.cpu().numpy() if scores else None,
            )

    def _predict_large(self, array, image, confidence, scores, smoothing):
        """Predict an image in windows and strips.

        Args:
            array: (H, W, 3) uint8 RGB.
            image: (h, w, 3) uint8 BGR, the input of the network.
            confidence: Whether to return it.
            scores: Whether to return them.
            smoothing: Over the frames of a video.

        Returns:
            Labels, confidence and scores, as in a Prediction.
        """
        views = self._views()
        alone = len(views) == 1
        head = self.model.decode_head

        def predict(rows, columns):
            part, total = image[rows, columns], 0
            for scale, flipped in views:
                view = part[:, ::-1] if flipped else part
                (result,) = self._run(
                    [view], [part.shape[:2]], keep_scores=True, scale=scale
                )
                found = result.seg_logits.data.float()
                if not alone:
                    found = as_scores(head, several_scores(found))
                total = total + (found.flip(-1) if flipped else found)
            return total / len(views)

        return self._in_strips(
            array,
            image,
            predict,
            to_scores=(lambda strip: as_scores(head, several_scores(strip)))
            if alone
            else several_scores,
            to_label=self._label,
            align_corners=self.model.align_corners,
            confidence=confidence,
            scores=scores,
            smoothing=smoothing,
        )

    def _views(self):
        """Return the scale, and whether it is mirrored, of each view."""
        views = [(s, f) for s in self.scales for f in (False, True)]
        return [view for view in views if self.flip or not view[1]]

    def _label(self, scores):
        """Find the class of each pixel: (K, H, W) -> (H, W) int64."""
        head = self.model.decode_head
        if len(scores) == 1 and self.model.num_classes != 1:
            # In MMSegmentation, two classes may have one output.
            return (scores[0].sigmoid() > head.threshold).long()
        return label_of_scores(scores, getattr(head, 'threshold', None))

    def _run(self, images, sizes, *, keep_scores, scale=1.0):
        """Run the model.

        Args:
            images: (h, w, 3) uint8 BGR each.
            sizes: H and W of the results.
            keep_scores: Whether the results have scores.
            scale: By which the images are resized before.

        Returns:
            Samples with results.
        """
        inputs, samples = [], []
        for image, size in zip(images, sizes, strict=True):
            if scale != 1:
                image = cv2.resize(
                    np.ascontiguousarray(image),
                    None,
                    fx=scale,
                    fy=scale,
                    interpolation=cv2.INTER_LINEAR,
                )
            planes = np.ascontiguousarray(image.transpose(2, 0, 1))
            inputs.append(torch.from_numpy(planes))
            meta = dict(ori_shape=size, img_shape=image.shape[:2])
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
