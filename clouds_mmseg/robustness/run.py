"""Writing of a corrupted image set, and its contact sheet."""

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

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
from clouds_mmseg.utils.atomic import (
    atomic_path,
    create_file,
    leftovers,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import DataError, UserError, naming
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES, images_below
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.images import (
    ImageFileError,
    check_image_range,
    read_image,
)
from clouds_mmseg.utils.parallel import parallel_map
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
        sheet: Path of the contact sheet.
        share: What this process did of work that was shared.
    """

    created: int
    existing: int
    sources: int
    domains: int
    sheet: Path
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
        source: Folder of PNG and JPEG files, in any depth.
        out: Folder of the set, see :mod:`clouds_mmseg.robustness.dataset`.
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
    source, out = Path(source), Path(out)
    names = list_images(source)
    recipe = dict(
        seed=seed, images=len(names), digest=hash_images(source, names)
    )
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
    plan = missing_images(out, *chosen, entries, verify)
    missing = sum(len(item[2]) for item in plan)
    existing = len(names) * len(domains) - missing
    if missing:
        # Not complete until the missing images are written.
        complete -= {domain_of(c, s) for _, c, some in plan for s in some}
        _write_set(out, recipe, complete, source)
        _make(source, out, seed, image_range, plan, workers)
    complete |= set(domains)
    sheet = _finish(out, recipe, complete, source, image_range)
    return Summary(missing, existing, len(names), len(domains), sheet)


def _sweep(out, chosen):
    """Remove the temporary files that a killed process left behind."""
    for folder in {Path(file).parent for file in corrupted_paths(*chosen)}:
        for path in leftovers(out / folder / '*.png'):
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
    create_file(out / SET_FILE, _encode_set(recipe, (), source))
    known = read_entries(out)
    made = existing = 0

    def work(chunk):
        nonlocal made, existing
        own = [names[i] for i in chunks[chunk.number]]
        plan = missing_images(out, own, corruptions, severities, known, verify)
        missing = sum(len(item[2]) for item in plan)
        made += missing
        existing += len(own) * len(domains) - missing
        job = partial(
            _corrupt_one, str(source), str(out), recipe['seed'], image_range
        )
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
            for item in missing_images(out, *chosen, entries, verify=False)
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
    sheet = out / SHEET_FILE
    return Summary(made, existing, len(names), len(domains), sheet, share)


def list_images(source: Path) -> list[str]:
    """List the images below a folder.

    Args:
        source: The folder.

    Returns:
        Paths below it, sorted.

    Raises:
        UserError: There is no such folder, it has no image, or two images
            differ in their suffix alone.
    """
    if not source.is_dir():
        raise UserError(
            f'{source}: there is no such folder; name the folder of the '
            'images, for example data/cityscapes/leftImg8bit/val'
        )
    found = sorted(
        path.relative_to(source).as_posix() for path in images_below(source)
    )
    if not found:
        suffixes = ', '.join(IMAGE_SUFFIXES)
        raise UserError(f'{source} holds no image ({suffixes})')
    stems = {}
    for name in found:
        other = stems.setdefault(str(Path(name).with_suffix('')), name)
        if other != name:
            raise UserError(
                f'{source} holds {other} and {name}, which would become the '
                'same PNG file; remove one of them'
            )
    return found


def hash_images(source: Path, names: Sequence[str]) -> str:
    """Hash names and file sizes of images.

    Args:
        source: Their folder.
        names: Paths below it.

    Returns:
        64 hexadecimal digits.
    """
    sizes = [[name, (source / name).stat().st_size] for name in names]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def _complete_domains(out, recipe, source):
    """Return the complete domains of an existing set with this recipe."""
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f'{out} is inside of {source}: the set would be made of '
            'itself; write to another folder'
        )
    if not (out / SET_FILE).exists():
        if out.exists() and not _is_empty(out):
            raise UserError(
                f'{out} exists and holds no {SET_FILE}; name a new or empty '
                'folder'
            )
        return set()
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


def _is_empty(folder: Path) -> bool:
    """Whether a path is a folder without files, apart from hidden ones."""
    return folder.is_dir() and all(
        path.name.startswith('.') for path in folder.iterdir()
    )


def missing_images(
    out: Path,
    names: Sequence[str],
    corruptions: Sequence[str],
    severities: Sequence[int],
    entries: dict[str, dict],
    verify: bool,
) -> list[tuple]:
    """List the images that a set lacks.

    Args:
        out: The set.
        names: Its images.
        corruptions: Selected corruptions.
        severities: Selected severities.
        entries: See :func:`read_entries`.
        verify: Compare hashes, not only sizes.

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
                )
            )
            if missing:
                plan.append((name, corruption, missing))
    return plan


def _is_complete(out, file, entries, verify):
    entry = entries.get(file)
    if entry is None:
        return False
    try:
        complete = (out / file).stat().st_size == entry['bytes']
    except OSError:
        return False
    return complete and (
        not verify or sha256_of(out / file) == entry['sha256']
    )


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


def _make(source, out, seed, image_range, plan, workers):
    job = partial(_corrupt_one, str(source), str(out), seed, image_range)
    path = out / MANIFEST_FILE
    with open(path, 'ab') as manifest, _explained(out), naming(path):
        # Terminate a truncated line of an interrupted run.
        if manifest.tell():
            manifest.write(b'\n')
        for entries in parallel_map(
            job, plan, workers=workers, title='corruptions'
        ):
            manifest.write(b''.join(map(_encode, entries)))
            manifest.flush()


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
    path = Path(source, name)
    try:
        image = read_image(path, image_range)
    except ImageFileError as error:
        raise DataError(f'{error}.', 'Or replace the file.') from error
    entries = []
    for severity in severities:
        own = image_seed(Path(name).stem, corruption, severity, seed)
        corrupted = corrupt_image(image, corruption, severity, seed=own)
        file = corrupted_path(name, corruption, severity)
        with atomic_path(Path(out, file)) as temporary:
            # Level 1: a third of the time for a tenth more bytes, and noise
            # cannot be compressed anyway.
            Image.fromarray(corrupted).save(temporary, compress_level=1)
        written = Path(out, file)
        entries.append(
            dict(
                file=file,
                source=name,
                seed=own,
                bytes=written.stat().st_size,
                sha256=sha256_of(written),
            )
        )
    return entries


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
    with atomic_path(out / SET_FILE) as temporary:
        temporary.write_bytes(_encode_set(recipe, complete, source))


def _finish(out, recipe, complete, source, image_range, new=()):
    """Sort the manifest, record the complete domains, draw the sheet."""
    entries = read_entries(out) | {entry['file']: entry for entry in new}
    with atomic_path(out / MANIFEST_FILE) as temporary:
        temporary.write_bytes(
            b''.join(_encode(entries[file]) for file in sorted(entries))
        )
    _write_set(out, recipe, complete, source)
    # Of a process that was killed when it began a set that others share.
    remove_abandoned(leftovers(out / SET_FILE))
    return write_sheet(out, source, image_range)


def write_sheet(
    folder: str | Path,
    source: str | Path,
    image_range: Sequence[float] | None = None,
) -> Path:
    """Write a contact sheet: one image under every corruption of a set.

    Args:
        folder: The set.
        source: Folder of the uncorrupted images.
        image_range: Of these images.

    Returns:
        ``folder/contact_sheet.png``: a row a corruption, a column a severity,
        the image as it is on the left.

    Raises:
        UserError: An image is damaged.
    """
    folder = Path(folder)
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
    clean = _tile(Path(source, name), image_range)
    rows = []
    for corruption in shown:
        found = [files.get((corruption, str(s))) for s in SEVERITIES]
        tiles = [_tile(folder / file) if file else None for file in found]
        rows.append([clean, *tiles])
    sheet = grid(
        rows,
        row_titles=[corruption.replace('_', '\n') for corruption in shown],
        column_titles=['clean', *map(str, SEVERITIES)],
    )
    with atomic_path(folder / SHEET_FILE) as temporary:
        sheet.save(temporary)
    return folder / SHEET_FILE


def _tile(path, image_range=None):
    try:
        image = read_image(path, image_range)
    except ImageFileError as error:
        raise UserError(
            f'{error}; --verify finds damaged images and makes them anew'
        ) from error
    return resize(image, _WIDTH)
