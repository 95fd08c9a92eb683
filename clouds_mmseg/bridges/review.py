"""Choice of the images to review, and the folder in which they are written.

The folder is the same for all tools: ``images/`` with copies, the files of
the tool, and ``review.json``, from which what comes back is understood.
"""

import heapq
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from clouds_mmseg.models.segmentors.pseudo_labels import expected_iou
from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.atomic import atomic_folder
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError, disk_error
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.images import (
    ImageFileError,
    decode_ids,
    read_image,
)
from clouds_mmseg.utils.text_files import inner_path, read_json
from clouds_mmseg.weights.load import find_checkpoint

RANKS = ('expected_iou', 'confidence', 'agreement')
REVIEW_FILE = 'review.json'
IMAGES = 'images'
FORMAT = 1
_COMMAND = 'clouds review export'


@dataclass
class Reviewed:
    """An image and how good its prediction is likely to be.

    Attributes:
        name: Path below ``images/``, with the suffix of the file.
        width: Of the image, pixels.
        height: Of the image, pixels.
        sha256: Of the file.
        expected_iou: Mean over the classes in the prediction of the IoU that
            the scores let expect
            (:func:`~clouds_mmseg.models.segmentors.pseudo_labels.expected_iou`).
        confidence: Mean over pixels.
        agreement: Share of pixels with the same class in the mirrored image;
            None unless asked for.
        wrong: Share of the labelled pixels whose class is wrong; None without
            a label.
    """

    name: str
    width: int
    height: int
    sha256: str
    expected_iou: float
    confidence: float
    agreement: float | None = None
    wrong: float | None = None


@dataclass
class Review:
    """Content of ``review.json``.

    Attributes:
        tool: What the folder was written for.
        classes: Names.
        colors: RGB of each class, no two alike and none black.
        checkpoint: Name and SHA-256 of the file that predicted, and whether
            it was the teacher.
        rank: How the images were ordered, the worst first.
        images: They.
    """

    tool: str
    classes: list[str]
    colors: list[list[int]]
    checkpoint: dict
    rank: str
    images: list[Reviewed] = field(default_factory=list)

    def by_stem(self) -> dict[str, Reviewed]:
        """Return the images by their path without suffix."""
        return {stem_of(image.name): image for image in self.images}


# Writes the files of a tool: folder, description, prediction and label (or
# None) of each image as (H, W) arrays of class indices.
Writer = Callable[
    [Path, Review, Callable[[int], tuple[np.ndarray, np.ndarray | None]]],
    None,
]


@dataclass
class _Found:
    source: Path
    image: Reviewed
    prediction: bytes
    label: bytes | None


def export_review(
    segmenter: Segmenter,
    images: Sequence[tuple[Path, Path]],
    out: str | Path,
    writer: Writer,
    *,
    tool: str,
    checkpoint: str | Path,
    teacher: bool = False,
    worst: int | None = None,
    rank: str = 'expected_iou',
    labels: str | Path | None = None,
) -> tuple[Review, dict[str, str]]:
    """Predict images and write the worst of them for a tool.

    Args:
        segmenter: The model.
        images: See :func:`~clouds_mmseg.predict.inputs.find_images`.
        out: Folder, which must not exist.
        writer: Of the tool.
        tool: Its name.
        checkpoint: File of the model.
        teacher: Whether the model is the teacher of self-training.
        worst: Number of images; None: all.
        rank: What the worst are lowest in.
        labels: Folder of labels: class indices under the paths of the images,
            ``.png``.

    Returns:
        What was written, and image -> why it could not be read.

    Raises:
        UserError: An argument is wrong, a label does not fit its image, or
            the folder exists or cannot be written.
    """
    if rank not in RANKS:
        raise UserError(f'rank={rank!r} is none of {", ".join(RANKS)}')
    if worst is not None and worst < 1:
        raise UserError(
            f'the number of worst images must be positive: {worst}'
        )
    out = Path(out).expanduser()
    if out.exists():
        raise UserError(f'{out} exists; give the name of a new folder')
    file = find_checkpoint(checkpoint)
    review = Review(
        tool,
        list(segmenter.classes),
        distinct_colors(segmenter.palette.tolist()),
        dict(file=file.name, sha256=sha256_of(file), teacher=teacher),
        rank,
    )
    found, failed = _find_worst(segmenter, images, worst, rank, labels)
    if not found:
        raise UserError(
            f'no image could be read: {"; ".join(failed.values())}'
        )
    review.images = [one.image for one in found]

    def arrays(index):
        one = found[index]
        label = one.label and np.array(Image.open(io.BytesIO(one.label)))
        return np.array(Image.open(io.BytesIO(one.prediction))), label

    try:
        with atomic_folder(out) as folder:
            for one in found:
                copy = folder / IMAGES / one.image.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(one.source, copy)
            writer(folder, review, arrays)
            text = json.dumps(dict(format=FORMAT, **asdict(review)), indent=1)
            (folder / REVIEW_FILE).write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise UserError(
            f'{out} cannot be written: {disk_error(error)}'
        ) from error
    return review, failed


def _find_worst(segmenter, images, worst, rank, labels):
    """Predict all images; keep the predictions of the worst."""
    heap: list[tuple[float, int, _Found]] = []
    failed = {}
    bar = tqdm(images, desc='review', unit='img', disable=None)
    for number, (path, relative) in enumerate(bar):
        try:
            found = _review(segmenter, path, relative, rank, labels)
        except ImageFileError as error:
            failed[str(path)] = str(error)
            continue
        # The heap holds the best of the worst at its top.
        entry = (-getattr(found.image, rank), -number, found)
        if worst is None or len(heap) < worst:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    return [
        entry[2] for entry in sorted(heap, key=lambda e: e[:2])[::-1]
    ], failed


def _review(segmenter, path, relative, rank, labels):
    array = read_image(path)
    prediction = segmenter(array, scores=True, confidence=True)
    # Both were asked for.
    assert prediction.scores is not None
    assert prediction.confidence is not None
    agreement = None
    if rank == 'agreement':
        mirrored = segmenter(np.ascontiguousarray(array[:, ::-1])).labels
        agreement = float((mirrored[:, ::-1] == prediction.labels).mean())
    label = wrong = None
    if labels is not None:
        label = _read_label(labels, relative, prediction)
        known = label != IGNORE
        if known.any():
            wrong = float((label != prediction.labels)[known].mean())
    image = Reviewed(
        name=f'{relative.as_posix()}{path.suffix}',
        width=array.shape[1],
        height=array.shape[0],
        sha256=sha256_of(path),
        expected_iou=_expected(prediction),
        confidence=float(prediction.confidence.mean()),
        agreement=agreement,
        wrong=wrong,
    )
    return _Found(
        path,
        image,
        png_of(prediction.labels),
        None if label is None else png_of(label),
    )


def _expected(prediction: Prediction) -> float:
    """Return the mean expected IoU of the classes in a prediction."""
    label = torch.from_numpy(prediction.labels).long()
    values = expected_iou(torch.from_numpy(prediction.scores), label)
    return float(values[label.unique()].mean())


def _read_label(folder, relative, prediction):
    path = Path(folder).expanduser() / f'{relative}.png'
    try:
        label = decode_ids(path.read_bytes())
    except OSError as error:
        raise UserError(
            f'--labels {folder}: {path} cannot be read ({error.strerror}); '
            'each image needs a label of the same path'
        ) from error
    except ImageFileError as error:
        raise UserError(f'label {path} {error}') from error
    if label.shape != prediction.labels.shape:
        raise UserError(
            f'label {path} is {label.shape[1]}x{label.shape[0]}, its image '
            f'{prediction.labels.shape[1]}x{prediction.labels.shape[0]}'
        )
    classes = len(prediction.classes)
    odd = np.setdiff1d(np.unique(label), [*range(classes), IGNORE])
    if odd.size:
        raise UserError(
            f'label {path} has the ids {odd.tolist()[:5]}; class indices are '
            f'0 to {classes - 1}, and {IGNORE} for not labelled'
        )
    return label.astype(np.uint8)


def read_review(folder: str | Path) -> Review:
    """Read the description of an exported folder.

    Raises:
        UserError: It is none.
    """
    path = Path(folder).expanduser() / REVIEW_FILE
    if not path.is_file():
        raise UserError(
            f'{folder} holds no {REVIEW_FILE}; give the folder that '
            f'{_COMMAND} wrote'
        )
    content = read_json(path, 'the review')
    try:
        if content.pop('format') != FORMAT:
            raise ValueError('another format')
        images = [Reviewed(**entry) for entry in content.pop('images')]
        for image in images:
            # Copies are written under it.
            inner_path(image.name)
        return Review(images=images, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{path} was not written by this version ({error}); export anew: '
            f'{_COMMAND}'
        ) from error


def import_review(
    folder: str | Path,
    out: str | Path,
    labels: Iterator[tuple[Reviewed, np.ndarray]],
) -> list[str]:
    """Write corrected labels as a data set that ``FolderDataset`` reads.

    Args:
        folder: That was exported.
        out: Folder to write: ``images/``, ``labels/`` and ``dataset.py``, a
            piece of a config.
        labels: Image and its label: (H, W) uint8, class indices and 255.

    Returns:
        The names of the images whose labels did not come back.

    Raises:
        UserError: The folder exists or cannot be written, an image has
            changed since the export, or there are no labels.
    """
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    review = read_review(folder)
    if out.exists():
        raise UserError(f'{out} exists; give the name of a new folder')
    left = {image.name for image in review.images}
    try:
        with atomic_folder(out) as new:
            for image, label in labels:
                source = folder / IMAGES / image.name
                if not source.is_file() or sha256_of(source) != image.sha256:
                    raise UserError(
                        f'{source} is not the image that was exported; its '
                        'label would not fit it'
                    )
                copy = new / IMAGES / image.name
                target = new / 'labels' / f'{stem_of(image.name)}.png'
                for path in (copy, target):
                    path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                target.write_bytes(png_of(label))
                left.discard(image.name)
            if len(left) == len(review.images):
                raise UserError(f'no label of an image in {folder} came back')
            text = dataset_text(review, out)
            (new / 'dataset.py').write_text(text, encoding='utf-8')
    except OSError as error:
        raise UserError(
            f'{out} cannot be written: {disk_error(error)}'
        ) from error
    return sorted(left)


def dataset_text(review: Review, out: Path) -> str:
    """Return a piece of a config that names corrected labels."""
    suffixes = sorted({Path(image.name).suffix for image in review.images})
    return (
        '# Corrected labels. Copy this into a config, with the pipeline of\n'
        '# its training set (docs/custom_dataset.md).\n'
        'corrected = dict(\n'
        "    type='FolderDataset',\n"
        "    domain='corrected',\n"
        f'    data_root={str(out.resolve())!r},\n'
        f'    img_suffix={suffixes!r},\n'
        '    metainfo=dict(\n'
        f'        classes={review.classes!r},\n'
        f'        palette={review.colors!r},\n'
        '    ),\n'
        ')\n'
    )


def stem_of(name: str) -> str:
    """Return the path of an image without its suffix."""
    return Path(name).with_suffix('').as_posix()


def png_of(label: np.ndarray) -> bytes:
    """Encode (H, W) uint8 as a grey PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(label, np.uint8)).save(stream, format='png')
    return stream.getvalue()


def distinct_colors(palette: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return a colour for each class, no two alike and none black.

    Tools tell classes by their colours, and black is "not labelled".

    Args:
        palette: RGB of each class; what is not usable is replaced.
    """
    result: list[list[int]] = []
    used: set[tuple[int, ...]] = {(0, 0, 0)}
    spare = (
        (r, g, b)
        for r in range(255, -1, -51)
        for g in range(255, -1, -51)
        for b in range(255, -1, -51)
    )
    wanted = {tuple(color) for color in palette}
    for color in palette:
        chosen = tuple(int(value) for value in color)
        if chosen in used:
            chosen = next(c for c in spare if c not in used | wanted)
        used.add(chosen)
        result.append(list(chosen))
    return result
