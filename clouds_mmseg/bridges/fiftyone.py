"""Export for FiftyOne: predictions, labels and errors as masks.

A mask holds the class index plus one, because FiftyOne shows 0 as
background. The folders have the layout of its ``ImageSegmentationDirectory``:
masks under the names of their images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clouds_mmseg.bridges.review import (
    IMAGES,
    Review,
    png_of,
    read_review,
    stem_of,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError

TOOL = 'fiftyone'
# Folder, and field of a sample -> names of its values.
PREDICTIONS, LABELS, ERRORS = 'predictions', 'ground_truth', 'errors'
_WRONG = 1
_MOST_CLASSES = 254
_NUMBERS = ('expected_iou', 'confidence', 'agreement', 'wrong')


def write_fiftyone(
    folder: Path,
    review: Review,
    arrays: Callable[[int], tuple[np.ndarray, np.ndarray | None]],
) -> None:
    """Write the masks of a review.

    Args:
        folder: Of the review.
        review: Its description.
        arrays: Index of an image -> its prediction and label (or None).

    Raises:
        UserError: There are too many classes for a mask of 8 bits.
    """
    if len(review.classes) > _MOST_CLASSES:
        raise UserError(
            f'masks of FiftyOne hold at most {_MOST_CLASSES} classes, got '
            f'{len(review.classes)}'
        )
    for index, image in enumerate(review.images):
        prediction, label = arrays(index)
        masks = {PREDICTIONS: _shifted(prediction)}
        if label is not None:
            masks[LABELS] = _shifted(label)
            wrong = (label != prediction) & (label != IGNORE)
            masks[ERRORS] = wrong * np.uint8(_WRONG)
        for field, mask in masks.items():
            path = folder / field / f'{stem_of(image.name)}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_of(mask))


def _shifted(label):
    """Return class index plus one, and 0 for not labelled."""
    return np.where(label == IGNORE, 0, label + 1).astype(np.uint8)


def mask_targets(review: Review) -> dict[int, str]:
    """Return what the values of the masks mean."""
    return {i + 1: name for i, name in enumerate(review.classes)}


def load_fiftyone(folder: str | Path, name: str) -> Any:
    """Create a dataset of FiftyOne from an exported folder.

    Args:
        folder: Of the review.
        name: Of the new dataset.

    Returns:
        A ``fiftyone.Dataset``, persistent, with the fields ``predictions``,
        ``ground_truth``, ``errors``, ``expected_iou``, ``confidence``,
        ``agreement`` and ``wrong``, as far as they were exported.

    Raises:
        UserError: FiftyOne is not installed, the folder is of another tool,
            or a dataset of that name exists.
    """
    try:
        import fiftyone
    except ModuleNotFoundError as error:
        raise UserError(
            'FiftyOne is not installed: pip install fiftyone'
        ) from error
    folder = Path(folder).expanduser().resolve()
    review = read_review(folder)
    if review.tool != TOOL:
        raise UserError(
            f'{folder} was exported for {review.tool}, not for {TOOL}'
        )
    if name in fiftyone.list_datasets():
        raise UserError(f'FiftyOne has a dataset {name!r}; give another name')
    dataset = fiftyone.Dataset(name, persistent=True)
    targets = mask_targets(review)
    dataset.mask_targets = {
        PREDICTIONS: targets,
        LABELS: targets,
        ERRORS: {_WRONG: 'wrong'},
    }
    samples = []
    for image in review.images:
        sample = fiftyone.Sample(filepath=str(folder / IMAGES / image.name))
        for field in (PREDICTIONS, LABELS, ERRORS):
            path = folder / field / f'{stem_of(image.name)}.png'
            if path.is_file():
                sample[field] = fiftyone.Segmentation(mask_path=str(path))
        for number in _NUMBERS:
            value = getattr(image, number)
            if value is not None:
                sample[number] = value
        samples.append(sample)
    dataset.add_samples(samples, progress=False)
    return dataset
