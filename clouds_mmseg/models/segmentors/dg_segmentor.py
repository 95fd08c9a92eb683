"""Segmentor for training on a source domain and testing on others.

Letters: N images, K classes, H and W of the network's input, h and w of a
result.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from clouds_mmseg.models.backbones.freezing import FreezableMixin
from clouds_mmseg.models.mask2former.inference import label_of_scores
from clouds_mmseg.models.segmentors.checks import (
    check_input,
    check_queries,
    check_test_cfg,
    check_text,
    check_widths_of_maps,
    fit_head,
    use_statistics,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import require_finite_scores
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.load import without_pretrained_init


@MODELS.register_module()
class DGSegmentor(EncoderDecoder):
    """An ``EncoderDecoder`` whose head gets its widths from the backbone.

    To exchange the backbone, a config changes one line: the ``in_channels``
    of the head are the ``channels`` of the backbone unless the config gives
    them.

    With a :class:`TIMMTower` ``mean`` and ``std`` of ``data_preprocessor``
    may be left out: they are those that its weights were trained with.

    In mode ``slide`` the network gets several windows at once:
    ``test_cfg.window_batch`` of them, 4 by default.

    A test batch may hold images of different sizes: the network then gets
    each of them alone, so that the results are those of batch size 1.

    A result has ``seg_logits`` beside the labels unless
    ``test_cfg.keep_scores`` is False: they are K float maps of the size of
    the image, 2.7 GB for 19 classes at 8192x4320. Without them only a strip
    of the scores is held at a time. :class:`~clouds_mmseg.engine.DGRunner`
    needs labels only and makes False the default of its runs.

    Args:
        **kwargs: As for :class:`mmseg.models.EncoderDecoder`.

    Attributes:
        missing_weights (MissingWeightsError | None): Which pretrained
            weights of the backbone are not here; None once a checkpoint has
            provided them.
        keep_scores (bool): Whether results have ``seg_logits`` if
            ``test_cfg.keep_scores`` is not given.

    Raises:
        UserError: ``decode_head`` has no ``in_channels`` and the backbone no
            attribute ``channels``.
        UserError: ``test_cfg`` or the preprocessor contradicts the model.
    """

    keep_scores = True

    def __init__(self, **kwargs: Any):
        # MMSegmentation's init_model and MMSegInferencer build the model
        # first and load a checkpoint then, which makes the pretrained weights
        # unnecessary. Without a checkpoint, the error is raised before the
        # first use.
        missing = None
        try:
            super().__init__(**kwargs)
        except MissingWeightsError as error:
            # Raised again if other files than the backbone's are missing.
            # The first attempt has already moved `pretrained` into the
            # backbone's config.
            kwargs = without_pretrained_init(kwargs)
            super().__init__(**dict(kwargs, pretrained=None))
            missing = error
        self.missing_weights = missing
        check_test_cfg(self.test_cfg)
        check_queries(self)
        check_text(self)
        use_statistics(self)
        check_input(self)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[SegDataSample] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | list[SegDataSample] | tuple[Tensor, ...] | Tensor:
        """Run as any ``BaseSegmentor``; missing weights are an error."""
        self._require_weights()
        return super().forward(inputs, data_samples, mode)

    def init_weights(self) -> None:
        """Initialise as any ``BaseModule``; missing weights are an error."""
        self._require_weights()
        super().init_weights()

    def _require_weights(self):
        if self.missing_weights is not None:
            raise self.missing_weights

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # A file without its frozen backbone may have adapters of it.
        if all(
            f'{prefix}backbone.{key}' in state_dict
            for key in self.backbone.state_dict()
            if not key.endswith('num_batches_tracked')
        ):
            self.missing_weights = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _init_decode_head(self, decode_head):
        decode_head = fit_head(self.backbone, decode_head, self.with_neck)
        if isinstance(self.backbone, FreezableMixin) and not self.with_neck:
            check_widths_of_maps(self.backbone, decode_head)
        if 'in_channels' not in decode_head:
            channels = getattr(self.backbone, 'channels', None)
            if channels is None:
                raise UserError(
                    f'{type(self.backbone).__name__} does not say how many '
                    'channels its feature maps have: give '
                    'model.decode_head.in_channels in the config, one number '
                    'a map'
                )
            decode_head = dict(decode_head, in_channels=list(channels))
        super()._init_decode_head(decode_head)

    def parse_losses(
        self, losses: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum up the losses as mmengine does.

        Args:
            losses: Of this process.

        Returns:
            The total of this process, for its gradient, and what is logged:
            the means over all processes.
        """
        total, logged = super().parse_losses(losses)
        if get_world_size() > 1:
            values = torch.stack([value.float() for value in logged.values()])
            all_reduce(values, op='mean')
            logged = dict(zip(logged, values, strict=True))
        return total, logged

    def test_step(self, data: dict) -> list[SegDataSample]:
        """Predict a batch of images of any sizes.

        Args:
            data: ``inputs``, N images (3, H, W), and ``data_samples``.

        Returns:
            See :meth:`postprocess_result`.
        """
        return self._split_by_size(data, super().test_step)

    def val_step(self, data: dict) -> list[SegDataSample]:
        """Predict a batch: see :meth:`test_step`."""
        return self._split_by_size(data, super().val_step)

    @staticmethod
    def _split_by_size(data: dict, step: Callable) -> list[SegDataSample]:
        """Run ``step`` on the batch, or image by image if sizes differ."""
        images = data['inputs']
        if len({tuple(image.shape) for image in images}) < 2:
            return step(data)
        results = []
        for index in range(len(images)):
            one = {k: v[index : index + 1] for k, v in data.items()}
            results.extend(step(one))
        return results

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predict labels, and scores if they are to be kept.

        Args:
            inputs: (N, 3, H, W), normalised.
            data_samples: N samples to fill; new ones by default.

        Returns:
            See :meth:`postprocess_result`; without ``seg_logits`` unless
            scores are kept.
        """
        keep = (self.test_cfg or {}).get('keep_scores', self.keep_scores)
        if keep:
            return super().predict(inputs, data_samples)
        if data_samples is None:
            size = tuple(inputs.shape[2:])
            meta = dict(ori_shape=size, img_shape=size, pad_shape=size)
            data_samples = [SegDataSample(metainfo=meta) for _ in inputs]
        metas = [sample.metainfo for sample in data_samples]
        labels = None
        if not any(self._is_resized(inputs.shape[2:], m) for m in metas):
            labels = self._labels_at_input_size(inputs, metas)
        if labels is not None:
            for sample, label in zip(data_samples, labels, strict=True):
                label = _undo_padding_and_flip(label[None], sample.metainfo)
                sample.pred_sem_seg = PixelData(data=label)
            return data_samples
        for sample, scores in zip(
            data_samples, self.inference(inputs, metas), strict=True
        ):
            scores = _undo_padding_and_flip(scores, sample.metainfo)
            size = tuple(sample.metainfo.get('ori_shape', scores.shape[1:]))
            sample.pred_sem_seg = PixelData(
                data=self._best_class(scores, size, sample.get('img_path'))
            )
        return data_samples

    def _labels_at_input_size(
        self, inputs: Tensor, metas: list[dict]
    ) -> Tensor | None:
        """Predict labels (N, H, W) int64; None if the head only has scores."""
        if self.test_cfg.mode == 'slide':
            return self._slide_labels(inputs, metas)
        if not hasattr(self.decode_head, 'predict_labels'):
            return None
        return self.decode_head.predict_labels(
            self.extract_feat(inputs), metas, self.test_cfg
        )

    @staticmethod
    def _is_resized(size, meta):
        """Return whether the result has another size than the input."""
        left, right, top, bottom = _padding(meta)
        size = (size[0] - top - bottom, size[1] - left - right)
        return size != tuple(meta.get('ori_shape', size))

    def _best_class(self, scores, size=None, image=None):
        """Find the class of each pixel: (K, H, W) -> (1, h, w) int64."""
        head = self.decode_head
        if len(scores) == 1 and self.num_classes != 1:
            # In MMSegmentation, two classes may have one output.
            logits = scores
            if size is not None:
                logits = self._resized(scores, size)
            require_finite_scores(logits, image)
            return (logits.sigmoid() > head.threshold).long()
        return label_of_scores(
            scores,
            getattr(head, 'threshold', None),
            size=size,
            align_corners=self.align_corners,
            image=image,
        )[None]

    def slide_inference(
        self, inputs: Tensor, batch_img_metas: list[dict]
    ) -> Tensor:
        """Predict sliding windows and average the scores where they overlap.

        Windows and result are those of ``EncoderDecoder``, which predicts one
        window at a time.

        Args:
            inputs: (N, 3, H, W), normalised.
            batch_img_metas: N metainfos.

        Returns:
            (N, K, H, W) scores.
        """
        images, _, height, width = inputs.shape
        total = inputs.new_zeros(images, self.out_channels, height, width)
        count = inputs.new_zeros(height, width)
        for window, part in self._windows(inputs, batch_img_metas):
            total[window] += part
            count[window] += 1
        return total.div_(count)

    def _windows(
        self, inputs: Tensor, batch_img_metas: list[dict]
    ) -> Iterator[tuple[tuple, Tensor]]:
        """Predict the scores of all windows, row by row.

        Yields:
            The index of a window, whose last two entries are its rows and
            columns, and its scores (N, K, h, w).
        """
        images, _, height, width = inputs.shape
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        windows = [
            (..., rows, columns)
            for rows in _spans(height, crop[0], stride[0])
            for columns in _spans(width, crop[1], stride[1])
        ]
        window_batch = self.test_cfg.get('window_batch', 4)
        for first in range(0, len(windows), window_batch):
            group = windows[first : first + window_batch]
            crops = torch.cat([inputs[window] for window in group])
            metas = [
                # A torch.Size: heads of MMSegmentation recognise a window
                # by this type.
                dict(meta, img_shape=crops.shape[2:])
                for _ in group
                for meta in batch_img_metas
            ]
            scores = self.encode_decode(crops, metas).split(images)
            yield from zip(group, scores, strict=True)

    def _slide_labels(self, inputs: Tensor, metas: list[dict]) -> Tensor:
        """Predict the labels of :meth:`slide_inference`, band by band.

        Windows come row by row: the scores above the rows of a window are
        complete. Only the band of incomplete rows is held.

        Returns:
            (N, H, W) int64.
        """
        images, _, height, width = inputs.shape
        labels = inputs.new_empty((images, height, width), dtype=torch.long)
        total = inputs.new_zeros(images, self.out_channels, 0, width)
        count = inputs.new_zeros(0, width)
        above = 0  # Rows that have labels already.

        def finish(rows):
            nonlocal total, count, above
            done = total[:, :, :rows] / count[:rows]
            for label, scores, meta in zip(labels, done, metas, strict=True):
                label[above : above + rows] = self._best_class(
                    scores, image=meta.get('img_path')
                )[0]
            total, count = total[:, :, rows:].clone(), count[rows:].clone()
            above += rows

        for (_, rows, columns), part in self._windows(inputs, metas):
            if rows.start > above:
                finish(rows.start - above)
            more = rows.stop - above - len(count)
            if more > 0:
                shape = (images, self.out_channels, more, width)
                total = torch.cat([total, total.new_zeros(shape)], dim=2)
                count = torch.cat([count, count.new_zeros(more, width)])
            inside = slice(rows.start - above, rows.stop - above)
            total[:, :, inside, columns] += part
            count[inside, columns] += 1
        finish(len(count))
        return labels

    def postprocess_result(
        self,
        seg_logits: Tensor,
        data_samples: list[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Resize scores to the size of the image and find the best class.

        The result is that of ``EncoderDecoder``; scores that have the right
        size are not resized, and on a CPU the best class of K maps is found
        in a quarter of the time of ``argmax``.

        Args:
            seg_logits: (N, K, H, W) scores.
            data_samples: N samples to fill; of the metainfo
                ``img_padding_size`` (or ``padding_size``), ``flip``,
                ``flip_direction`` and ``ori_shape`` are read. By default new
                ones, at the size of the scores.

        Returns:
            Samples with ``seg_logits`` (K, h, w) and ``pred_sem_seg``
            (1, h, w) int64.

        Raises:
            NonFiniteError: A pixel's best score is NaN or infinite; the
                message names the image.
        """
        if seg_logits.shape[1] == 1 and self.num_classes != 1:
            # Two classes with one output.
            results = super().postprocess_result(seg_logits, data_samples)
            for sample in results:
                require_finite_scores(
                    sample.seg_logits.data, sample.get('img_path')
                )
            return results
        if data_samples is None:
            data_samples = [SegDataSample() for _ in seg_logits]
        for sample, scores in zip(data_samples, seg_logits, strict=True):
            scores = self._undo_preprocessing(scores, sample.metainfo)
            sample.seg_logits = PixelData(data=scores)
            label = self._best_class(scores, image=sample.get('img_path'))
            sample.pred_sem_seg = PixelData(data=label)
        return data_samples

    def _undo_preprocessing(self, scores, meta):
        """Undo padding, flip and resizing of the input for (K, H, W)."""
        scores = _undo_padding_and_flip(scores, meta)
        size = tuple(meta.get('ori_shape', scores.shape[1:]))
        if size == tuple(scores.shape[1:]):
            return scores
        return self._resized(scores, size)

    def _resized(self, scores, size):
        return resize(
            scores[None],
            size=size,
            mode='bilinear',
            align_corners=self.align_corners,
            warning=False,
        )[0]


def _padding(meta):
    """Return the padding of the input: left, right, top, bottom, pixels."""
    padding = meta.get('img_padding_size', meta.get('padding_size'))
    return padding or (0, 0, 0, 0)


def _undo_padding_and_flip(maps, meta):
    """Undo padding and flip of the input for maps (..., H, W)."""
    left, right, top, bottom = _padding(meta)
    height, width = maps.shape[-2:]
    maps = maps[..., top : height - bottom, left : width - right]
    if meta.get('flip'):
        horizontal = meta['flip_direction'] == 'horizontal'
        maps = maps.flip(-1 if horizontal else -2)
    return maps


def _spans(side, crop, stride):
    """Return the windows along one side as slices of equal length."""
    number = max(side - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, side) for i in range(number)]
    return [slice(max(end - crop, 0), end) for end in ends]
