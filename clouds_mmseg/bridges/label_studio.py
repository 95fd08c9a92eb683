"""Exchange with Label Studio: tasks with brush masks as predictions."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from mmengine.logging import print_log

from clouds_mmseg.bridges.brush_rle import decode_mask, encode_mask
from clouds_mmseg.bridges.review import IMAGES, Review, Reviewed
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import read_json

TOOL = 'labelstudio'
TASKS_FILE = 'tasks.json'
CONFIG_FILE = 'labels.xml'
# How Label Studio serves files of its local storage.
_LOCAL = '/data/local-files/?d='
# Entry of a task's data that Label Studio keeps: the path below images/.
_NAME_KEY = 'clouds_image'
_KIND = 'brushlabels'
_HOW = 'export the project from Label Studio as "JSON"'


def write_label_studio(
    folder: Path,
    review: Review,
    arrays: Callable[[int], tuple[np.ndarray, np.ndarray | None]],
) -> None:
    """Write tasks with predictions, and the labelling interface.

    Args:
        folder: Of the review, with its images.
        review: Its description.
        arrays: Index of an image -> its prediction and label.
    """
    tasks = []
    for index, image in enumerate(review.images):
        prediction, _ = arrays(index)
        regions = [
            dict(
                id=f'{index}-{number}',
                type=_KIND,
                from_name='label',
                to_name='image',
                original_width=image.width,
                original_height=image.height,
                image_rotation=0,
                value=dict(
                    format='rle',
                    rle=encode_mask(prediction == number),
                    brushlabels=[review.classes[number]],
                ),
            )
            for number in np.unique(prediction).tolist()
        ]
        tasks.append(
            {
                'data': {
                    'image': f'{_LOCAL}{IMAGES}/{quote(image.name)}',
                    _NAME_KEY: image.name,
                },
                'predictions': [
                    dict(
                        model_version=review.checkpoint['file'],
                        score=image.expected_iou,
                        result=regions,
                    )
                ],
            }
        )
    (folder / TASKS_FILE).write_text(json.dumps(tasks), encoding='utf-8')
    labels = '\n'.join(
        f'    <Label value={quoteattr(name)} '
        'background="#{:02x}{:02x}{:02x}"/>'.format(*color)
        for name, color in zip(review.classes, review.colors, strict=True)
    )
    (folder / CONFIG_FILE).write_text(
        '<View>\n'
        '  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{labels}\n'
        '  </BrushLabels>\n'
        '</View>\n',
        encoding='utf-8',
    )


def read_label_studio(
    path: str | Path, review: Review
) -> Iterator[tuple[Reviewed, np.ndarray]]:
    """Read what Label Studio exported.

    Where regions overlap, the one that stands later covers the others, as
    Label Studio draws them; the number of such pixels is logged.

    Args:
        path: The JSON file.
        review: Of the exported folder.

    Yields:
        Image and its label, (H, W) uint8; 255 outside of all regions. Tasks
        without annotation are left out.

    Raises:
        UserError: It is no such file, a task is of an unknown image, has
            several annotations, or a region that cannot be used.
    """
    tasks = read_json(Path(path).expanduser(), 'the tasks')
    if not isinstance(tasks, list) or not all(
        isinstance(task, dict) and isinstance(task.get('data'), dict)
        for task in tasks
    ):
        raise UserError(f'{path} is no list of tasks; {_HOW}')
    images = {image.name: image for image in review.images}
    seen = set()
    for task in tasks:
        where = f'{path}, task {task.get("id", "without id")}'
        name = task['data'].get(_NAME_KEY)
        image = images.get(name) if isinstance(name, str) else None
        if image is None or name in seen:
            problem = 'occurs twice' if name in seen else 'was not exported'
            raise UserError(f'{where}: its image {name!r} {problem}')
        seen.add(name)
        given = task.get('annotations') or []
        if not isinstance(given, list):
            raise UserError(f'{where} ({name}) has no list of annotations')
        annotations = [
            a
            for a in given
            if isinstance(a, dict) and not a.get('was_cancelled')
        ]
        if len(annotations) > 1:
            raise UserError(
                f'{where} ({name}) has {len(annotations)} annotations; keep '
                'one in Label Studio'
            )
        if annotations:
            yield image, _label_of(annotations[0], where, image, review)


def _label_of(annotation, where, image, review):
    """Paint the regions of an annotation."""
    label = np.full((image.height, image.width), IGNORE, np.uint8)
    covered = 0
    regions = annotation.get('result') or []
    if not isinstance(regions, list):
        raise UserError(f'{where} ({image.name}) has no list of regions')
    for region in regions:
        number, mask = _region(region, where, image, review)
        covered += int((label[mask] != IGNORE).sum())
        label[mask] = number
    if covered:
        print_log(
            f'{where} ({image.name}): {covered} pixels lie in more than one '
            'region; the later one counts',
            logger='current',
        )
    return label


def _region(
    region: Any, where: str, image: Reviewed, review: Review
) -> tuple[int, np.ndarray]:
    """Return class index and mask of a region."""
    kind = region.get('type') if isinstance(region, Mapping) else None
    if kind != _KIND:
        raise UserError(
            f'{where} ({image.name}) has a region of the type {kind!r}; only '
            f'brushes ({_KIND}) are read'
        )
    value = region.get('value')
    names = value.get(_KIND) if isinstance(value, Mapping) else None
    if not isinstance(names, list) or len(names) != 1:
        raise UserError(
            f'{where} ({image.name}) has a region with the labels {names}; '
            'a region has one'
        )
    if names[0] not in review.classes:
        raise UserError(
            f'{where} ({image.name}) has a region of {names[0]!r}, which is '
            f'no class; the classes are {", ".join(review.classes)}'
        )
    size = region.get('original_width'), region.get('original_height')
    if size != (image.width, image.height) or region.get('image_rotation'):
        raise UserError(
            f'{where} ({image.name}) has a region on an image of '
            f'{size[0]}x{size[1]}, rotated by '
            f'{region.get("image_rotation")}; the image is '
            f'{image.width}x{image.height}'
        )
    try:
        mask = decode_mask(value.get('rle'), image.height, image.width)
    except UserError as error:
        raise UserError(f'{where} ({image.name}): {error}') from error
    return review.classes.index(names[0]), mask
