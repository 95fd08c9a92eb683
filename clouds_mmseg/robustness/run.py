"""Writing of a corrupted image set, and its contact sheet."""

import errno
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from mmengine import fileio
from PIL import Image

from clouds_mmseg.robustness.corruptions import (
    CORRUPTIONS,
    LIBRARY,
    SEVERITIES,
    check_choice,
    corrupt_image,
    domain_of,
    image_seed,
    load_library,
)
from clouds_mmseg.robustness.dataset import (
    FORMAT,
    MANIFEST_FILE,
    SET_FILE,
    read_entries,
    read_set,
)
from clouds_mmseg.utils import remote
from clouds_mmseg.utils.atomic import (
    create_file,
    leftovers,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import DataError, UserError, naming
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES, images_below
from clouds_mmseg.utils.images import (
    ImageFileError,
    check_image_range,
    read_image,
)
from clouds_mmseg.utils.parallel import parallel_map
from clouds_mmseg.utils.remote import is_address, list_below, write_file
from clouds_mmseg.utils.shared_work import (
    LEASE_SECONDS,
    ChunksLost,
    Share,
    SharedWork,
    split,
)
from clouds_mmseg.utils.visualization import grid, resize

SHEET_FILE = 'contact_sheet.png'
_WIDTH = 200  # of an image in the sheet, pixels
# After which the manifest of a set in a store, to which nothing can be
# appended, is written again: what is lost of a process that is killed.
_MANIFEST_SECONDS = 30
# Packages whose version may change the pixels of a corrupted image.
_DISTRIBUTIONS = (
    LIBRARY, 'numpy', 'scipy', 'scikit-image', 'opencv-python', 'pillow',
)  # fmt: skip


class Summary(NamedTuple):
    """Result of :func:`make_corruptions`.

    Attributes:
        created: Images written by this run.
        existing: Images that existed already.
        sources: Number of source images, equal to the images of a domain.
        domains: Number of selected domains.
        sheet: Path or address of the contact sheet.
        share: What this process did of work that was shared.
    """

    created: int
    existing: int
    sources: int
    domains: int
    sheet: str
    share: Share | None = None


def make_corruptions(
    source: str | Path,
    out: str | Path,
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    seed: int = 0,
    workers: int | None = None,
    verify: bool = False,
    image_range: Sequence[float] | None = None,
    shared: bool = False,
    lease: float = LEASE_SECONDS,
) -> Summary:
    """Corrupt every image below a folder; existing results are kept.

    Images are written atomically to ``out/<corruption>/<severity>/<path below
    the source>.png``. Later calls with other corruptions or severities extend
    the set.

    Args:
        source: Folder of PNG and JPEG files, in any depth, or its address.
        out: Folder of the set, or its address; see
            :mod:`clouds_mmseg.robustness.dataset`.
        corruptions: Names of corruptions or categories. Defaults to all
            fifteen.
        severities: Defaults to 1..5.
        seed: Of the set. The images do not depend on their order or on
            ``workers``.
        workers: Processes. Defaults to the number of cores.
        verify: Compare the hash of every existing image, and replace those
            that differ.
        image_range: The values in the files that become 0 and 255, see
            :mod:`clouds_mmseg.utils.images`.
        shared: Whether any number of processes that are started so, on any
            machines, take parts of the work until it is done; each works
            alone unless ``workers`` is given.
        lease: See :class:`~clouds_mmseg.utils.shared_work.SharedWork`.

    Raises:
        UserError: An argument is wrong, the source has no images, ``out`` is
            something else or was made otherwise, an image is damaged, or the
            disk is full.
    """
    corruptions, severities = check_choice(corruptions, severities)
    load_library()
    source, out = _root(source), _root(out)
    sizes = list_images(source)
    names = list(sizes)
    recipe = dict(seed=seed, images=len(names), digest=hash_images(sizes))
    image_range = check_image_range(image_range)
    if image_range is not None:
        recipe['image_range'] = list(image_range)
    complete = _complete_domains(out, recipe, source)
    domains = [domain_of(c, s) for c in corruptions for s in severities]
    chosen = names, corruptions, severities
    if shared:
        return _make_shared(
            source, out, recipe, complete, chosen, verify, workers or 1,
            image_range, lease,
        )  # fmt: skip
    entries = read_entries(out)
    _sweep(out, chosen)
    plan = missing_images(out, *chosen, entries, verify, _stored(out))
    missing = sum(len(item[2]) for item in plan)
    existing = len(names) * len(domains) - missing
    if missing:
        # Not complete until the missing images are written.
        complete -= {domain_of(c, s) for _, c, some in plan for s in some}
        _write_set(out, recipe, complete, source)
        _make(source, out, seed, image_range, plan, workers, entries)
    complete |= set(domains)
    sheet = _finish(out, recipe, complete, source, image_range)
    return Summary(missing, existing, len(names), len(domains), sheet)


def _root(path):
    """Return a folder or an address as a string, without a slash at its end.

    Not a Path: that would remove one of the two slashes of an address.
    """
    return str(path).rstrip('/') if is_address(path) else str(Path(path))


def _stored(out):
    """List the files of a set in a store; None of a folder.

    Local files are looked up one by one: the disk may have many others.
    """
    return list_below(out) if is_address(out) else None


def _sweep(out, chosen):
    """Remove the temporary files that a killed process left behind."""
    if is_address(out):
        return
    for folder in {Path(file).parent for file in corrupted_paths(*chosen)}:
        for path in leftovers(os.path.join(out, folder, '*.png')):
            path.unlink(missing_ok=True)


def _make_shared(
    source, out, recipe, complete, chosen, verify, workers, image_range, lease
):
    """Make images until all are there; one process finishes the set."""
    names, corruptions, severities = chosen
    domains = {domain_of(c, s) for c in corruptions for s in severities}
    chunks = split(len(names))
    job = SharedWork(
        out,
        'corrupt',
        dict(recipe, corruptions=corruptions, severities=severities,
             verify=verify),
        chunks=len(chunks),
        lease=lease,
    )  # fmt: skip
    create = remote.create if is_address(out) else create_file
    create(os.path.join(out, SET_FILE), _encode_set(recipe, (), source))
    known = read_entries(out)
    made = existing = 0

    def work(chunk):
        nonlocal made, existing
        own = [names[i] for i in chunks[chunk.number]]
        plan = missing_images(out, own, corruptions, severities, known, verify)
        missing = sum(len(item[2]) for item in plan)
        made += missing
        existing += len(own) * len(domains) - missing
        job = partial(_corrupt_one, source, out, recipe['seed'], image_range)
        with _explained(out):
            return list(
                parallel_map(job, plan, workers=workers, title='corruptions')
            )

    def finish(results):
        _sweep(out, chosen)
        new = [entry for part in results for some in part for entry in some]
        entries = known | {entry['file']: entry for entry in new}
        gone = {
            item[0]
            for item in missing_images(
                out, *chosen, entries, verify=False, stored=_stored(out)
            )
        }
        if gone:
            raise ChunksLost(
                number
                for number, chunk in enumerate(chunks)
                if any(names[i] in gone for i in chunk)
            )
        with _explained(out):
            _finish(out, recipe, complete | domains, source, image_range, new)

    share = job.run(work, finish)
    sheet = os.path.join(out, SHEET_FILE)
    return Summary(made, existing, len(names), len(domains), sheet, share)


def list_images(source: str) -> dict[str, int]:
    """List the images below a folder.

    Args:
        source: The folder, or its address.

    Returns:
        Path below it -> bytes, sorted.

    Raises:
        UserError: There is no such folder, it has no image, or two images
            differ in their suffix alone.
    """
    if is_address(source):
        found = {
            name: size
            for name, size in list_below(source).items()
            if name.lower().endswith(IMAGE_SUFFIXES)
        }
    elif os.path.isdir(source):
        found = {
            path.relative_to(source).as_posix(): path.stat().st_size
            for path in images_below(Path(source))
        }
    else:
        raise UserError(
            f'{source}: there is no such folder; name the folder of the '
            'images, for example data/cityscapes/leftImg8bit/val'
        )
    if not found:
        suffixes = ', '.join(IMAGE_SUFFIXES)
        raise UserError(f'{source} holds no image ({suffixes})')
    found = dict(sorted(found.items()))
    stems = {}
    for name in found:
        other = stems.setdefault(str(Path(name).with_suffix('')), name)
        if other != name:
            raise UserError(
                f'{source} holds {other} and {name}, which would become the '
                'same PNG file; remove one of them'
            )
    return found


def hash_images(sizes: Mapping[str, int]) -> str:
    """Hash names and file sizes of images.

    Args:
        sizes: See :func:`list_images`.

    Returns:
        64 hexadecimal digits.
    """
    pairs = [[name, size] for name, size in sizes.items()]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _complete_domains(out, recipe, source):
    """Return the complete domains of an existing set with this recipe."""
    if _is_inside(out, source):
        raise UserError(
            f'{out} is inside of {source}: the set would be made of '
            'itself; write to another folder'
        )
    path = os.path.join(out, SET_FILE)
    if not fileio.exists(path):
        if _is_empty(out):
            return set()
        # Checked again: another process may just have begun the set.
        if not fileio.exists(path):
            raise UserError(
                f'{out} exists and holds no {SET_FILE}; name a new or empty '
                'folder'
            )
    found = read_set(out)
    if found['recipe'] != recipe:
        keys = dict.fromkeys([*recipe, *found['recipe']])
        odd = [k for k in keys if found['recipe'].get(k) != recipe.get(k)]
        said = ', '.join(f'{k} {found["recipe"].get(k)!r}' for k in odd)
        raise UserError(
            f'{out} was made of other images or with another seed: it has '
            f'{said}; asked for: '
            + ', '.join(f'{k} {recipe.get(k)!r}' for k in odd)
            + '. Write to another folder, or delete this one.'
        )
    return set(found['complete'])


def _is_inside(folder: str, other: str) -> bool:
    """Whether a folder is another one or inside of it."""
    if is_address(folder) or is_address(other):
        return f'{folder}/'.startswith(f'{other}/')
    return Path(folder).resolve().is_relative_to(Path(other).resolve())


def _is_empty(folder: str) -> bool:
    """Whether there is nothing, or a folder without files but hidden ones."""
    if is_address(folder):
        return not list_below(folder)
    if not os.path.exists(folder):
        return True
    return os.path.isdir(folder) and all(
        name.startswith('.') for name in os.listdir(folder)
    )


def missing_images(
    out: str,
    names: Sequence[str],
    corruptions: Sequence[str],
    severities: Sequence[int],
    entries: dict[str, dict],
    verify: bool,
    stored: Mapping[str, int] | None = None,
) -> list[tuple]:
    """List the images that a set lacks.

    Args:
        out: The set.
        names: Its images.
        corruptions: Selected corruptions.
        severities: Selected severities.
        entries: See :func:`read_entries`.
        verify: Compare hashes, not only sizes.
        stored: Path below the set -> bytes; None: each is looked up.

    Returns:
        (name, corruption, severities) of the missing images.
    """
    plan = []
    for name in names:
        for corruption in corruptions:
            missing = tuple(
                severity
                for severity in severities
                if not _is_complete(
                    out,
                    corrupted_path(name, corruption, severity),
                    entries,
                    verify,
                    stored,
                )
            )
            if missing:
                plan.append((name, corruption, missing))
    return plan


def _is_complete(out, file, entries, verify, stored):
    entry = entries.get(file)
    if entry is None:
        return False
    path = os.path.join(out, file)
    size = _size(path) if stored is None else stored.get(file)
    if size != entry['bytes']:
        return False
    return not verify or _hash(fileio.get(path)) == entry['sha256']


def _size(path):
    """Return the bytes of a file; None if it does not exist."""
    if is_address(path):
        return remote.file_size(path)
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _hash(payload):
    return hashlib.sha256(payload).hexdigest()


def corrupted_paths(
    names: Sequence[str], corruptions: Sequence[str], severities: Sequence[int]
) -> Iterator[str]:
    """Yield the paths of all corrupted images below their set."""
    for name in names:
        for corruption in corruptions:
            for severity in severities:
                yield corrupted_path(name, corruption, severity)


def corrupted_path(name: str, corruption: str, severity: int) -> str:
    """Return the path of a corrupted image below its set."""
    return f'{corruption}/{severity}/{Path(name).with_suffix(".png")}'


def _make(source, out, seed, image_range, plan, workers, known):
    job = partial(_corrupt_one, source, out, seed, image_range)
    path = os.path.join(out, MANIFEST_FILE)
    appending = _rewriting(path, known) if is_address(out) else _append(path)
    with _explained(out), appending as add:
        for entries in parallel_map(
            job, plan, workers=workers, title='corruptions'
        ):
            add(entries)


@contextmanager
def _append(path: str) -> Iterator[Callable[[list[dict]], None]]:
    """Yield what appends entries to a manifest on a disk."""
    with open(path, 'ab') as manifest, naming(path):
        # Terminate a truncated line of an interrupted run.
        if manifest.tell():
            manifest.write(b'\n')

        def add(entries):
            manifest.write(b''.join(map(_encode, entries)))
            manifest.flush()

        yield add


@contextmanager
def _rewriting(
    path: str, known: Mapping[str, dict]
) -> Iterator[Callable[[list[dict]], None]]:
    """Yield what adds entries to a manifest in a store."""
    content = dict(known)
    written = time.monotonic()

    def add(entries):
        nonlocal written
        content.update((entry['file'], entry) for entry in entries)
        if time.monotonic() - written > _MANIFEST_SECONDS:
            write_file(path, _encode_all(content))
            written = time.monotonic()

    try:
        yield add
    finally:
        write_file(path, _encode_all(content))


@contextmanager
def _explained(out):
    """Say what to do about a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f'the disk of {out} is full. The images written so '
                'far are complete. Make room and run the same '
                'command: it continues.'
            ) from error
        raise


def _corrupt_one(source, out, seed, image_range, item):
    """Write one image under one corruption; return its entries."""
    name, corruption, severities = item
    path = os.path.join(source, name)
    try:
        image = read_image(path, image_range)
    except ImageFileError as error:
        raise DataError(f'{error}.', 'Or replace the file.') from error
    entries = []
    for severity in severities:
        own = image_seed(Path(name).stem, corruption, severity, seed)
        corrupted = corrupt_image(image, corruption, severity, seed=own)
        file = corrupted_path(name, corruption, severity)
        # Level 1: a third of the time for a tenth more bytes, and noise
        # cannot be compressed anyway.
        payload = _as_png(Image.fromarray(corrupted), compress_level=1)
        write_file(os.path.join(out, file), payload)
        entries.append(
            dict(
                file=file,
                source=name,
                seed=own,
                bytes=len(payload),
                sha256=_hash(payload),
            )
        )
    return entries


def _as_png(image, **options):
    stream = io.BytesIO()
    image.save(stream, 'PNG', **options)
    return stream.getvalue()


def _encode_all(entries):
    """Encode a manifest; the order of its lines tells nothing of workers."""
    return b''.join(_encode(entries[file]) for file in sorted(entries))


def _encode(entry):
    return (json.dumps(entry, ensure_ascii=False) + '\n').encode()


def _encode_set(recipe, complete, source):
    versions = {name: metadata.version(name) for name in _DISTRIBUTIONS}
    content = dict(
        format=FORMAT,
        recipe=recipe,
        complete=sorted(complete),
        info=dict(source=str(source), versions=versions),
    )
    return (json.dumps(content, indent=1, ensure_ascii=False) + '\n').encode()


def _write_set(out, recipe, complete, source):
    write_file(
        os.path.join(out, SET_FILE), _encode_set(recipe, complete, source)
    )


def _finish(out, recipe, complete, source, image_range, new=()):
    """Sort the manifest, record the complete domains, draw the sheet."""
    entries = read_entries(out) | {entry['file']: entry for entry in new}
    write_file(os.path.join(out, MANIFEST_FILE), _encode_all(entries))
    _write_set(out, recipe, complete, source)
    if not is_address(out):
        # Of a process that was killed when it began a set that others share.
        remove_abandoned(leftovers(os.path.join(out, SET_FILE)))
    return write_sheet(out, source, image_range)


def write_sheet(
    folder: str,
    source: str,
    image_range: Sequence[float] | None = None,
) -> str:
    """Write a contact sheet: one image under every corruption of a set.

    Args:
        folder: The set, or its address.
        source: Folder of the uncorrupted images, or its address.
        image_range: Of these images.

    Returns:
        ``folder/contact_sheet.png``: a row a corruption, a column a severity,
        the image as it is on the left.

    Raises:
        UserError: An image is damaged.
    """
    entries = read_entries(folder)
    # An image from the middle: the first of a sequence shows least.
    names = sorted({entry['source'] for entry in entries.values()})
    name = names[len(names) // 2]
    files = {
        tuple(file.split('/')[:2]): file
        for file, entry in entries.items()
        if entry['source'] == name
    }
    shown = [c for c in CORRUPTIONS if any(c == key[0] for key in files)]
    clean = _tile(os.path.join(source, name), image_range)
    rows = []
    for corruption in shown:
        found = [files.get((corruption, str(s))) for s in SEVERITIES]
        tiles = [
            _tile(os.path.join(folder, file)) if file else None
            for file in found
        ]
        rows.append([clean, *tiles])
    sheet = grid(
        rows,
        row_titles=[corruption.replace('_', '\n') for corruption in shown],
        column_titles=['clean', *map(str, SEVERITIES)],
    )
    path = os.path.join(folder, SHEET_FILE)
    write_file(path, _as_png(sheet))
    return path


def _tile(path, image_range=None):
    try:
        image = read_image(path, image_range)
    except ImageFileError as error:
        raise UserError(
            f'{error}; --verify finds damaged images and makes them anew'
        ) from error
    return resize(image, _WIDTH)
