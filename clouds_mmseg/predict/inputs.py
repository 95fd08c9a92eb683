"""What a user names to be predicted: files, folders, patterns, addresses."""

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from clouds_mmseg.predict.prediction import KINDS
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES, images_below
from clouds_mmseg.utils.remote import exists, is_address, list_below

VIDEO_SUFFIXES = (
    *('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm'),
    *('.mpg', '.mpeg', '.wmv', '.flv', '.3gp'),
)
_CAMERA = 'camera:'


@dataclass(frozen=True)
class Input:
    """One thing to predict.

    Attributes:
        name: Path, address or camera, as it was found.
        kind: ``'image'``, ``'video'``, ``'camera'``, or ``'url'``, of which
            only the server knows whether it is an image or a video.
        relative: Path of its results without suffix, below the folder of a
            kind of result.
    """

    name: str
    kind: str
    relative: Path


def find_inputs(
    inputs: Iterable[str | Path | Input], out: str | Path | None = None
) -> list[Input]:
    """Find the images and videos that a user names.

    Args:
        inputs: Files; folders, which are searched with their sub-folders;
            patterns such as ``'street/*.jpg'``; addresses that begin with
            ``http://`` or ``https://``; images and folders of them at
            addresses such as ``s3://bucket/folder``; cameras:
            ``camera:0``; or what was found before.
        out: Folder of the results. Those of an earlier run are no inputs.

    Returns:
        The results of a file below a folder have its path there, others the
        name of the file.

    Raises:
        UserError: An input does not exist or holds nothing to predict, has a
            scheme that is not read, or two would have the same results.
    """
    found: list[Input] = []
    for name in inputs:
        found += [name] if isinstance(name, Input) else _named(str(name), out)
    return _distinct(found)


def _distinct(named: Iterable[Input]) -> list[Input]:
    """Keep each input once; refuse two that would have the same results."""
    found: dict[tuple[bool, Path], Input] = {}
    for one in named:
        key = (one.kind in ('video', 'camera'), one.relative)
        other = found.setdefault(key, one)
        if other.name != one.name and not _same_file(other, one):
            raise UserError(
                f'{other.name} and {one.name} would both be written to '
                f'{one.relative}{"" if key[0] else ".png"}; predict them '
                'into two folders'
            )
    videos = {path: one for (video, path), one in found.items() if video}
    for (video, path), one in found.items():
        for parent in path.parents:
            if parent in videos and not video:
                raise UserError(
                    f'the frames of {videos[parent].name} and the results of '
                    f'{one.name} would be written to the folder {parent}; '
                    'predict them into two folders'
                )
    return list(found.values())


def find_images(inputs: Iterable[str | Path]) -> list[tuple[Path, Path]]:
    """Find the images that files, folders and patterns name.

    Args:
        inputs: As for :func:`find_inputs`; videos in folders are left out.

    Returns:
        Pairs of an image and the path of its results without suffix.

    Raises:
        UserError: As there; or an input is an address, a camera or a video.
    """
    found = []
    for name in inputs:
        images = [
            one for one in _named(str(name), None) if one.kind == 'image'
        ]
        if not images:
            raise UserError(f'{name} is no image and holds none')
        found += images
    return [(Path(one.name), one.relative) for one in _distinct(found)]


def _same_file(one, other):
    local = {'image', 'video'}
    if one.kind not in local or other.kind not in local:
        return False
    if is_address(one.name) or is_address(other.name):
        return False
    return Path(one.name).resolve() == Path(other.name).resolve()


def _named(name: str, out: str | Path | None) -> Iterator[Input]:
    if name.startswith(_CAMERA):
        device = name.removeprefix(_CAMERA)
        if not device:
            raise UserError(
                f'{name} names no camera; write camera:0 for the first'
            )
        label = re.sub(r'\W+', '_', device).strip('_')
        yield Input(name, 'camera', Path(f'camera{label}'))
    elif is_address(name):
        yield from _remote(name, out)
    elif '://' in name:
        yield _of_address(name)
    else:
        yield from _local(name, out)


def _of_address(address):
    parts = urlsplit(address)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise UserError(
            f'{address}: only addresses that begin with http:// or https://, '
            'or those of a store such as s3://, are read; give a file as a '
            'path'
        )
    # Nothing of another server decides about folders here.
    name = Path(unquote(parts.path)).name
    stem = re.sub(r'[^\w.-]', '_', Path(name).stem).lstrip('.')
    return Input(address, 'url', Path(stem or 'download'))


def _remote(name, out):
    """Find images in an object store."""
    root = name.rstrip('/')
    found = list_below(root)
    if not found and exists(root):
        found = {'': 0}
    folders = [f'{out}/{kind}/' for kind in KINDS]
    files = [
        file
        for file in found
        if f'{root}/{file}'.rstrip('/').lower().endswith(IMAGE_SUFFIXES)
        and not f'{root}/{file}'.startswith(tuple(folders))
    ]
    if not files:
        raise UserError(
            f'{name} is no image and no folder with images '
            f'({", ".join(IMAGE_SUFFIXES)}); videos are read from local files'
        )
    for file in files:
        below = Path(file or PurePosixPath(root).name)
        address = f'{root}/{file}' if file else root
        yield Input(address, 'image', below.with_suffix(''))


def _local(name, out):
    path = Path(name).expanduser()
    if path.is_dir():
        suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
        results = []
        if out is not None:
            root = Path(out).expanduser().resolve()
            results = [root / kind for kind in KINDS]
        files = [
            file
            for file in images_below(path, suffixes)
            if not any(r in file.resolve().parents for r in results)
        ]
        if not files:
            raise UserError(
                f'the folder {name} holds no image and no video '
                f'({", ".join(suffixes)})'
            )
        for file in files:
            yield _of_file(file, file.relative_to(path).with_suffix(''))
        return
    files = [path]
    if not path.is_file():
        matches = sorted(glob.glob(str(path)))
        files = [file for file in map(Path, matches) if file.is_file()]
    if not files:
        raise UserError(f'{name} is no file, no folder, and matches no file')
    for file in files:
        yield _of_file(file, Path(file.stem))


def _of_file(path, relative):
    video = path.suffix.lower() in VIDEO_SUFFIXES
    return Input(str(path), 'video' if video else 'image', relative)
