"""Counting of pixels by label and prediction."""

import math

import numpy as np
import torch

from clouds_mmseg.utils.errors import UserError


def confusion_matrix(prediction, label, num_classes, ignore_index):
    """Count the pixels of one image.

    Args:
        prediction (torch.Tensor): (H, W), integer, class indices.
        label (torch.Tensor): (H, W), integer, class indices.
        num_classes (int): Number of classes.
        ignore_index (int): Label of pixels that do not count.

    Returns:
        torch.Tensor: (num_classes, num_classes) int64 on the CPU: rows
        labels, columns predictions, pixels.

    Raises:
        UserError: A counted pixel is outside the classes.
    """
    counted = label != ignore_index
    label = label[counted].long()
    prediction = prediction[counted].long()
    for name, values in (('label', label), ('prediction', prediction)):
        if values.numel() and not (
            0 <= values.min() <= values.max() < num_classes
        ):
            raise UserError(
                f'a {name} to evaluate holds class indices '
                f'{int(values.min())}..{int(values.max())}, but the dataset '
                f'has {num_classes} classes (ignored: {ignore_index})'
            )
    cells = torch.bincount(
        label * num_classes + prediction, minlength=num_classes**2
    )
    return cells.reshape(num_classes, num_classes).cpu()


def confusion_with_background(prediction, label):
    """Count the pixels of one image for a single class.

    All that is not the class is background, ignored pixels too: there is
    nothing else that it could be mistaken for.

    Args:
        prediction (torch.Tensor): (H, W), integer, 0 for the class.
        label (torch.Tensor): (H, W), integer, 0 for the class.

    Returns:
        torch.Tensor: (2, 2) int64 on the CPU: rows labels, columns
        predictions, of the class and of the background, pixels.
    """
    return confusion_matrix(
        (prediction != 0).long(), (label != 0).long(), 2, ignore_index=-1
    )


def areas(confusion):
    """Reduce a confusion matrix to what mmseg's formulas take.

    Args:
        confusion (torch.Tensor): (C, C) int64, rows labels.

    Returns:
        tuple[torch.Tensor]: Intersection, union, predicted, labelled: each
        (C,) float64, pixels.
    """
    labelled = confusion.sum(1).double()
    predicted = confusion.sum(0).double()
    intersection = confusion.diag().double()
    union = labelled + predicted - intersection
    return intersection, union, predicted, labelled


def mean_percent(fractions):
    """Average the values of the classes that have one.

    Args:
        fractions (Iterable[float]): In [0, 1]; NaN where there is no value.

    Returns:
        float: In [0, 100]; NaN if no class has a value.
    """
    present = [f for f in fractions if not math.isnan(f)]
    return float(np.mean(present) * 100) if present else math.nan
