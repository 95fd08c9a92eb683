"""Exchange with CVAT in its format "Segmentation mask 1.1".

A zip with ``labelmap.txt`` (name and colour of each label),
``ImageSets/Segmentation/default.txt`` (names without suffix),
``SegmentationClass/NAME.png`` (the colours) and, to create tasks from it,
``JPEGImages/``. Black is ``background``: not labelled, unless a class has
that name.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from clouds_mmseg.bridges.review import (
    IMAGES,
    Review,
    Reviewed,
    stem_of,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError, open_image

TOOL = 'cvat'
ARCHIVE = 'cvat.zip'
LABELS_FILE = 'cvat_labels.json'
_LABEL_MAP = 'labelmap.txt'
_MASKS = 'SegmentationClass/'
_LIST = 'ImageSets/Segmentation/default.txt'
_PICTURES = 'JPEGImages/'
_BACKGROUND = 'background'
_HOW = 'export the task from CVAT as "Segmentation mask 1.1"'
# A mask of 100 megapixels in colours takes less.
_MOST_BYTES = 256 * 2**20
_NO_LABEL = re.compile(r'[:\r\n#]')


def write_cvat(
    folder: Path,
    review: Review,
    arrays: Callable[[int], tuple[np.ndarray, np.ndarray | None]],
) -> None:
    """Write the archive for CVAT, and the labels for its constructor.

    Args:
        folder: Of the review, with its images.
        review: Its description.
        arrays: Index of an image -> its prediction and label.

    Raises:
        UserError: The name of a class cannot stand in the format.
    """
    for name in review.classes:
        if _NO_LABEL.search(name):
            raise UserError(
                f'the class {name!r} cannot be a label in the format of '
                'CVAT: no colon, hash or line break may stand in it'
            )
    colors = _colors(review)
    table = np.zeros((256, 3), np.uint8)
    for index, name in enumerate(review.classes):
        table[index] = colors[name]
    lines = ['# label:color_rgb:parts:actions']
    lines += [f'{n}:{r},{g},{b}::' for n, (r, g, b) in colors.items()]
    stems = [stem_of(image.name) for image in review.images]
    with zipfile.ZipFile(folder / ARCHIVE, 'w', zipfile.ZIP_STORED) as archive:
        archive.writestr(_LABEL_MAP, '\n'.join(lines) + '\n')
        archive.writestr(_LIST, '\n'.join(stems) + '\n')
        for index, image in enumerate(review.images):
            stream = io.BytesIO()
            mask = Image.fromarray(table[arrays(index)[0]])
            mask.save(stream, format='png')
            archive.writestr(f'{_MASKS}{stems[index]}.png', stream.getvalue())
            archive.write(folder / IMAGES / image.name, _PICTURES + image.name)
    labels = [
        dict(name=name, color='#{:02x}{:02x}{:02x}'.format(*colors[name]))
        for name in review.classes
    ]
    (folder / LABELS_FILE).write_text(json.dumps(labels, indent=1) + '\n')


def _colors(review):
    """Return label -> colour, the background first."""
    colors = {_BACKGROUND: (0, 0, 0)}
    for name, color in zip(review.classes, review.colors, strict=True):
        if name != _BACKGROUND:
            colors[name] = tuple(color)
    return colors


def read_cvat(
    path: str | Path, review: Review
) -> Iterator[tuple[Reviewed, np.ndarray]]:
    """Read what CVAT exported.

    Nothing is extracted: masks are read one by one into memory.

    Args:
        path: The zip.
        review: Of the exported folder.

    Yields:
        Image and its label, (H, W) uint8.

    Raises:
        UserError: It is no such archive, a name leads out of it, a mask is
            damaged, too large, of another size than its image or of an
            unknown image, or has a colour that is no label of the classes.
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, path)
            if _LABEL_MAP not in members:
                raise UserError(f'{path} holds no {_LABEL_MAP}; {_HOW}')
            labels = _read_label_map(
                _read(archive, members[_LABEL_MAP], path), path
            )
            images = review.by_stem()
            found = False
            for name, member in members.items():
                if not name.startswith(_MASKS):
                    continue
                found = True
                image = images.get(stem_of(name.removeprefix(_MASKS)))
                if image is None:
                    raise UserError(
                        f'{path}: {name} is of an image that was not exported'
                    )
                content = _read(archive, member, path)
                yield (
                    image,
                    _label_of(
                        content, f'{path}: {name}', image, labels, review
                    ),
                )
            if not found:
                raise UserError(f'{path} holds no {_MASKS}; {_HOW}')
    except OSError as error:
        raise UserError(
            f'{path} cannot be read: {error.strerror or error}'
        ) from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise UserError(
            f'{path} is no zip, or damaged ({error}); {_HOW}'
        ) from error


def _checked_members(archive, path):
    """Return name -> member of the files; refuse what is dangerous."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        parts = PurePosixPath(name).parts
        if not name:
            problem = 'has no name'
        elif name.startswith('/') or '\\' in name or ':' in name:
            problem = 'is no relative path'
        elif '..' in parts:
            problem = 'leads out of the archive'
        elif name in members:
            problem = 'occurs twice'
        elif member.flag_bits & 1:
            problem = 'is encrypted'
        elif member.file_size > _MOST_BYTES and not name.startswith(_PICTURES):
            problem = (
                f'has {member.file_size} bytes, above the limit of '
                f'{_MOST_BYTES}'
            )
        else:
            if not member.is_dir():
                members[name] = member
            continue
        raise UserError(f'{path}: its member {name!r} {problem}')
    return members


def _read(archive, member, path):
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise UserError(
            f'{path}: its member {member.filename!r} cannot be read ({error})'
        ) from error


def _read_label_map(content, path):
    """Return colour -> name."""
    found = {}
    where = f'{path}: {_LABEL_MAP}'
    try:
        lines = content.decode('utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{where} is no text ({error})') from error
    for line in lines:
        if not line.strip() or line.startswith('#'):
            continue
        parts = line.rsplit(':', 3)
        try:
            name, color = parts[0], tuple(map(int, parts[1].split(',')))
        except (IndexError, ValueError):
            name, color = line, ()
        if len(color) != 3:
            raise UserError(
                f'{where}: {line!r} is not of the form name:red,green,blue::'
            )
        if found.setdefault(color, name) != name:
            raise UserError(
                f'{where}: {name!r} and {found[color]!r} have one colour'
            )
    return found


def _label_of(content, where, image, labels, review):
    """Turn the colours of a mask into class indices."""
    try:
        with open_image(content) as picture:
            size = picture.size
            if size != (image.width, image.height):
                raise UserError(
                    f'{where} is {size[0]}x{size[1]}, its image '
                    f'{image.width}x{image.height}'
                )
            colors = np.asarray(picture.convert('RGB'), np.int64)
    except UserError as error:
        if isinstance(error, ImageFileError):
            raise UserError(f'{where} {error}') from error
        raise
    except Exception as error:
        # Pillow raises whatever its decoders do.
        raise UserError(f'{where} is no image ({error})') from error
    codes = (colors[..., 0] << 16) | (colors[..., 1] << 8) | colors[..., 2]
    values, inverse, counts = np.unique(
        codes, return_inverse=True, return_counts=True
    )
    table = []
    for code, count in zip(values.tolist(), counts.tolist(), strict=True):
        color = (code >> 16, (code >> 8) & 255, code & 255)
        name = labels.get(color)
        if name in review.classes:
            table.append(review.classes.index(name))
        elif name == _BACKGROUND or color == (0, 0, 0):
            table.append(IGNORE)
        else:
            meaning = f', the label {name!r}' if name else ''
            raise UserError(
                f'{where}: {count} pixels have the colour {color}{meaning}, '
                f'which is no class; the classes are '
                f'{", ".join(review.classes)}'
            )
    index = np.asarray(table, np.uint8)[inverse]
    return index.reshape(codes.shape)
