"""What the samples of a batch want of the head."""

import torch


def stack_labels(samples):
    """Collect the labels of a batch.

    Args:
        samples (list[SegDataSample]): With ``gt_sem_seg``, (1, H, W).

    Returns:
        Tensor: (B, H, W) int64.

    Raises:
        ValueError: A label is missing or of another size.
    """
    missing = [
        sample.metainfo.get('img_path', f'number {index} of the batch')
        for index, sample in enumerate(samples)
        if 'gt_sem_seg' not in sample
    ]
    if missing:
        raise ValueError(
            f'no gt_sem_seg in the training sample {missing[0]}: load the '
            'labels in the training pipeline'
        )
    labels = [sample.gt_sem_seg.data.squeeze(0) for sample in samples]
    sizes = {tuple(label.shape) for label in labels}
    if len(sizes) > 1:
        raise ValueError(
            f'labels of one batch must have one size, got {sorted(sizes)}: '
            'pad them in the data preprocessor'
        )
    return torch.stack(labels).long()


def stack_weights(samples):
    """Collect the weights of a batch's pixels.

    Args:
        samples (list[SegDataSample]): With ``gt_sem_seg`` and optionally
            ``gt_weight``, (1, H, W) float32.

    Returns:
        Tensor | None: (B, H, W) float32, 1 where a sample has no weights;
        None where no sample has.
    """
    if not any('gt_weight' in sample for sample in samples):
        return None
    return torch.cat(
        [
            sample.gt_weight.data
            if 'gt_weight' in sample
            else torch.ones_like(sample.gt_sem_seg.data, dtype=torch.float32)
            for sample in samples
        ]
    )
