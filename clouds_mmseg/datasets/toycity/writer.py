"""The embedded benchmark on disk: one labelled source and five targets."""

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from clouds_mmseg.datasets.toycity.layouts import (
    DOMAINS,
    Sample,
    write_image,
    write_label,
)
from clouds_mmseg.datasets.toycity.render import (
    VERSION,
    check_size,
    render_scene,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

MANIFEST = 'toycity.json'
# Written first: what an interrupted run was going to make.
PLAN = '.toycity.plan.json'


def write_toycity(
    root,
    *,
    num_source=320,
    num_source_val=40,
    num_target=40,
    size=(256, 128),
    seed=0,
    workers=2,
    overwrite=False,
):
    """Render the benchmark below ``root``, in the real datasets' layouts.

    Picture i of a domain depends on ``seed``, the domain and i alone. Files
    that an interrupted run with the same arguments has left are kept; the
    manifest ``toycity.json`` is written last.

    Args:
        root (str | Path): Folder; made if there is none.
        num_source (int): Training images of the source.
        num_source_val (int): Validation images of the source.
        num_target (int): Images of each of the five targets.
        size (tuple[int, int]): Width and height in pixels.
        seed (int): Not negative.
        workers (int): Processes; 1 renders in this one.
        overwrite (bool): Whether what was made with other arguments is
            deleted.

    Returns:
        bool: Whether anything was written; False if all was there.

    Raises:
        UserError: An argument is out of its range, ``root`` is no folder, or
            it holds a benchmark made with other arguments.
    """
    plan = _plan(num_source, num_source_val, num_target, size, seed)
    if _whole(workers) < 1:
        raise UserError(f'workers must be 1 or more, got {workers!r}')
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise UserError(f'{root} is a file; name a folder for ToyCity')
    found = read_manifest(root / MANIFEST) or read_manifest(root / PLAN)
    if found is not None and found != plan:
        if not overwrite:
            raise UserError(_differences(root, found, plan))
        _remove(root)
    samples = [
        Sample(domain, index)
        for domain in DOMAINS
        for index in range(plan['images'][domain])
    ]
    missing = [
        s for s in samples
        if not ((root / s.image).is_file() and (root / s.label).is_file())
    ]  # fmt: skip
    if not missing and (root / MANIFEST).is_file():
        return False
    (root / MANIFEST).unlink(missing_ok=True)
    _write_json(root / PLAN, plan)
    job = partial(_make, root, plan['size'], plan['seed'])
    _run(job, missing, workers)
    _write_json(root / MANIFEST, plan)
    (root / PLAN).unlink(missing_ok=True)
    return True


def read_manifest(path):
    """The manifest in a file; None if there is no such file.

    Raises:
        UserError: The file is not one.
    """
    if not Path(path).is_file():
        return None
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, dict):
            raise ValueError('it holds no table')
        return found
    except ValueError as error:
        raise UserError(
            f'{path} is not a manifest of ToyCity ({error}); delete the '
            f'folder, or write to another'
        ) from error


def _plan(num_source, num_source_val, num_target, size, seed):
    counts = {
        'num_source': num_source,
        'num_source_val': num_source_val,
        'num_target': num_target,
    }
    for name, value in counts.items():
        if _whole(value) < 1:
            raise UserError(
                f'{name} must be a whole number of 1 or more, got {value!r}'
            )
    if _whole(seed) < 0:
        raise UserError(
            f'seed must be a whole number of 0 or more, got {seed!r}'
        )
    images = dict.fromkeys(DOMAINS, num_target)
    images.update(source=num_source, source_val=num_source_val)
    return {
        'renderer': VERSION,
        'size': list(check_size(size)),
        'seed': seed,
        'images': images,
    }


def _whole(value):
    """The value if it is an integer, else -1, which no argument may be."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole else -1


def _differences(root, found, plan):
    parts = [
        f'{key} is {found.get(key)!r}, asked for is {value!r}'
        for key, value in plan.items()
        if found.get(key) != value
    ] or ['its manifest has other fields']
    return (
        f'{root} holds a ToyCity made with other arguments: '
        f'{"; ".join(parts)}. Write to another folder, or overwrite it '
        f'(--overwrite)'
    )


def _remove(root):
    for folder in ('source', 'source_val', 'clear', 'acdc'):
        shutil.rmtree(root / folder, ignore_errors=True)
    for name in (MANIFEST, PLAN):
        (root / name).unlink(missing_ok=True)


def _write_json(path, value):
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + '\n')


def _make(root, size, seed, sample):
    image, label = render_scene(sample.seed(seed), sample.style, tuple(size))
    # The label comes last: a pair is complete when it has one.
    write_image(root / sample.image, image)
    write_label(
        root / sample.label, label,
        label_ids=sample.domain in ('source', 'source_val'),
    )  # fmt: skip


def _run(job, samples, workers):
    progress = partial(
        tqdm, total=len(samples), desc='ToyCity', unit='img', disable=None
    )
    if workers == 1 or len(samples) < 2:
        for _ in progress(map(job, samples)):
            pass
        return
    # A spawned process would import the whole training stack anew.
    start = 'fork' if 'fork' in get_all_start_methods() else 'spawn'
    with ProcessPoolExecutor(
        workers, get_context(start), cv2.setNumThreads, (1,)
    ) as pool:
        for _ in progress(pool.map(job, samples, chunksize=8)):
            pass
