"""The segmentor of the benchmarks.

Letters: N images, K classes, H and W pixels of the network's input, h and w
those of a result.
"""

import torch
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from clouds_mmseg.models.mask2former.inference import label_of_scores
from clouds_mmseg.models.segmentors.checks import check_input, check_test_cfg
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import require_finite_scores
from clouds_mmseg.weights.load import disable_pretrained_init


@MODELS.register_module()
class DGSegmentor(EncoderDecoder):
    """An ``EncoderDecoder`` whose head asks the backbone for its widths.

    A config that exchanges the backbone then changes one line: the head's
    ``in_channels`` are the backbone's ``channels`` unless the config states
    them.

    In the mode ``slide`` several windows go through the network at once:
    ``test_cfg.window_batch`` of them, 4 by default.

    A batch of a test may hold images of different sizes: each then goes
    through the network alone, so that every number is that of batch size 1.

    A result has ``seg_logits`` beside the labels unless
    ``test_cfg.keep_scores`` is False: they are K float maps of the size of
    the image, 2.7 GB for 19 classes at 8192x4320. Without them no more than
    a strip of them is made. :class:`~clouds_mmseg.engine.DGRunner` compares
    labels and makes False the default of its runs.

    Args:
        **kwargs: As for :class:`mmseg.models.EncoderDecoder`.

    Attributes:
        missing_weights (UserError | None): Why the pretrained weights of
            the backbone could not be read; None once a checkpoint brought
            them.
        keep_scores (bool): Whether results have ``seg_logits`` where
            ``test_cfg.keep_scores`` does not say it.

    Raises:
        ValueError: ``decode_head`` states no ``in_channels`` and the
            backbone has no attribute ``channels``.
        UserError: ``test_cfg`` or the preprocessor contradicts the model.
    """

    keep_scores = True

    def __init__(self, **kwargs):
        # MMSegmentation's init_model and MMSegInferencer build the model
        # first and load a checkpoint then: whoever has one needs no files
        # that its training began with. Without one, the error is raised
        # before the first use.
        missing = None
        try:
            super().__init__(**kwargs)
        except UserError as error:
            # If files are not the reason, it is raised again. The first
            # attempt has handed `pretrained` on to the backbone.
            with disable_pretrained_init(True):
                super().__init__(**dict(kwargs, pretrained=None))
            missing = error
        self.missing_weights = missing
        check_test_cfg(self.test_cfg)
        check_input(self)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """As for any ``BaseSegmentor``, once the backbone has its weights."""
        self._require_weights()
        return super().forward(inputs, data_samples, mode)

    def init_weights(self):
        """Initialise as any ``BaseModule``; missing files are an error."""
        self._require_weights()
        super().init_weights()

    def _require_weights(self):
        if self.missing_weights is not None:
            raise self.missing_weights

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if any(key.startswith(f'{prefix}backbone.') for key in state_dict):
            self.missing_weights = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _init_decode_head(self, decode_head):
        if 'in_channels' not in decode_head:
            channels = getattr(self.backbone, 'channels', None)
            if channels is None:
                raise ValueError(
                    f'{type(self.backbone).__name__} does not say how many '
                    'channels its feature maps have: give '
                    'model.decode_head.in_channels in the config, one number '
                    'a map'
                )
            decode_head = dict(decode_head, in_channels=list(channels))
        super()._init_decode_head(decode_head)

    def test_step(self, data):
        """Predict a batch, of images of any sizes.

        Args:
            data (dict): ``inputs``, N images (3, H, W), and
                ``data_samples``.

        Returns:
            list[SegDataSample]: See :meth:`postprocess_result`.
        """
        return self._by_size(data, super().test_step)

    def val_step(self, data):
        """Predict a batch: see :meth:`test_step`."""
        return self._by_size(data, super().val_step)

    @staticmethod
    def _by_size(data, step):
        """Take images of different sizes one by one."""
        images = data['inputs']
        if len({tuple(image.shape) for image in images}) < 2:
            return step(data)
        results = []
        for index in range(len(images)):
            one = {k: v[index : index + 1] for k, v in data.items()}
            results.extend(step(one))
        return results

    def predict(self, inputs, data_samples=None):
        """Predict labels, and scores where they are wanted.

        Args:
            inputs (Tensor): (N, 3, H, W), normalised.
            data_samples (list[SegDataSample], optional): N samples to fill.

        Returns:
            list[SegDataSample]: See :meth:`postprocess_result`; without
            ``seg_logits`` unless scores are kept.
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

    def _labels_at_input_size(self, inputs, metas):
        """Labels (N, H, W) int64, or None if the head cannot but score."""
        if self.test_cfg.mode == 'slide':
            return self._slide_labels(inputs, metas)
        if not hasattr(self.decode_head, 'predict_labels'):
            return None
        return self.decode_head.predict_labels(
            self.extract_feat(inputs), metas, self.test_cfg
        )

    @staticmethod
    def _is_resized(size, meta):
        """Whether the result has another size than the network's input."""
        left, right, top, bottom = _padding(meta)
        size = (size[0] - top - bottom, size[1] - left - right)
        return size != tuple(meta.get('ori_shape', size))

    def _best_class(self, scores, size=None, image=None):
        """Name the class of each pixel: (K, H, W) -> (1, h, w) int64."""
        head = self.decode_head
        if len(scores) == 1 and self.num_classes != 1:
            # MMSegmentation's way of two classes with one output.
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

    def slide_inference(self, inputs, batch_img_metas):
        """Predict windows and take the mean where they overlap.

        Windows and result are those of the class above. A window's features
        depend on where its borders are, so windows share none.

        Args:
            inputs (Tensor): (N, 3, H, W), normalised.
            batch_img_metas (list[dict]): N metainfos.

        Returns:
            Tensor: (N, K, H, W) scores.
        """
        images, _, height, width = inputs.shape
        total = inputs.new_zeros(images, self.out_channels, height, width)
        count = inputs.new_zeros(height, width)
        for window, part in self._windows(inputs, batch_img_metas):
            total[window] += part
            count[window] += 1
        return total.div_(count)

    def _windows(self, inputs, batch_img_metas):
        """Scores of all windows, row by row.

        Yields:
            tuple[tuple, Tensor]: The index of a window, whose last two
            entries are its rows and columns, and its scores (N, K, h, w).
        """
        images, _, height, width = inputs.shape
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        windows = [
            (..., rows, columns)
            for rows in _spans(height, crop[0], stride[0])
            for columns in _spans(width, crop[1], stride[1])
        ]
        at_once = self.test_cfg.get('window_batch', 4)
        for first in range(0, len(windows), at_once):
            group = windows[first : first + at_once]
            crops = torch.cat([inputs[window] for window in group])
            metas = [
                # A torch.Size: by it heads of MMSegmentation know a window.
                dict(meta, img_shape=crops.shape[2:])
                for _ in group
                for meta in batch_img_metas
            ]
            scores = self.encode_decode(crops, metas).split(images)
            yield from zip(group, scores, strict=True)

    def _slide_labels(self, inputs, metas):
        """Labels of :meth:`slide_inference`, with a band of scores at a time.

        Windows come row by row: what lies above the rows of a window has
        all its scores.

        Returns:
            Tensor: (N, H, W) int64.
        """
        images, _, height, width = inputs.shape
        labels = inputs.new_empty((images, height, width), dtype=torch.long)
        total = inputs.new_zeros(images, self.out_channels, 0, width)
        count = inputs.new_zeros(0, width)
        above = 0  # Rows that have their labels.

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

    def postprocess_result(self, seg_logits, data_samples=None):
        """Bring scores to the size of the picture and name the best class.

        The result is that of the class above; scores that have their size
        are not resized, and on a CPU the best class of K maps is found in a
        quarter of the time that ``argmax`` over them takes.

        Args:
            seg_logits (Tensor): (N, K, H, W) scores.
            data_samples (list[SegDataSample], optional): N samples to fill;
                of the metainfo ``img_padding_size`` (or ``padding_size``),
                ``flip``, ``flip_direction`` and ``ori_shape`` are read. New
                ones, at the size of the scores, if None.

        Returns:
            list[SegDataSample]: With ``seg_logits`` (K, h, w) and
            ``pred_sem_seg`` (1, h, w) int64.

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
            scores = self._as_loaded(scores, sample.metainfo)
            sample.seg_logits = PixelData(data=scores)
            label = self._best_class(scores, image=sample.get('img_path'))
            sample.pred_sem_seg = PixelData(data=label)
        return data_samples

    def _as_loaded(self, scores, meta):
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
    """Left, right, top and bottom padding of the input, pixels."""
    padding = meta.get('img_padding_size', meta.get('padding_size'))
    return padding or (0, 0, 0, 0)


def _undo_padding_and_flip(maps, meta):
    """Undo what was done to the input, for (..., H, W)."""
    left, right, top, bottom = _padding(meta)
    height, width = maps.shape[-2:]
    maps = maps[..., top : height - bottom, left : width - right]
    if meta.get('flip'):
        horizontal = meta['flip_direction'] == 'horizontal'
        maps = maps.flip(-1 if horizontal else -2)
    return maps


def _spans(side, crop, stride):
    """Where the windows lie along one side: slices of equal length."""
    number = max(side - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, side) for i in range(number)]
    return [slice(max(end - crop, 0), end) for end in ends]
