"""The embedded benchmark on disk: one labelled source and five targets."""

from functools import partial
from pathlib import Path

from clouds_mmseg.datasets.toycity.layouts import (
    DOMAINS,
    write_image,
    write_label,
)
from clouds_mmseg.datasets.toycity.manifest import (
    MANIFEST,
    PLAN,
    differences,
    read_manifest,
    samples_of,
    write_manifest,
)
from clouds_mmseg.datasets.toycity.render import (
    VERSION,
    check_size,
    render_scene,
)
from clouds_mmseg.utils.atomic import leftovers
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.processes import map_in_processes


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
        overwrite (bool): Whether the files of a ToyCity made with other
            arguments are deleted.

    Returns:
        bool: Whether anything was written; False if all was there.

    Raises:
        UserError: An argument is out of its range, ``root`` is no folder, or
            it holds other data, or a ToyCity made with other arguments.
    """
    plan = _plan(num_source, num_source_val, num_target, size, seed)
    _check_whole('workers', workers, 1)
    root = Path(root)
    _make_room(root, plan, overwrite)
    samples = samples_of(plan)
    missing = [
        sample
        for sample in samples
        if not all((root / p).is_file() for p in (sample.image, sample.label))
    ]
    if not missing and (root / MANIFEST).is_file():
        return False
    (root / MANIFEST).unlink(missing_ok=True)
    write_manifest(root / PLAN, plan)
    for folder in _folders(samples):
        for path in leftovers(root / folder / '*.png'):
            path.unlink()
    job = partial(_make, root, tuple(plan['size']), plan['seed'])
    for _ in map_in_processes(job, missing, workers=workers, title='ToyCity'):
        pass
    write_manifest(root / MANIFEST, plan)
    (root / PLAN).unlink()
    return True


def _plan(num_source, num_source_val, num_target, size, seed):
    _check_whole('num_source', num_source, 1)
    _check_whole('num_source_val', num_source_val, 1)
    _check_whole('num_target', num_target, 1)
    _check_whole('seed', seed, 0)
    images = dict.fromkeys(DOMAINS, num_target)
    images.update(source=num_source, source_val=num_source_val)
    return {
        'renderer': VERSION,
        'size': list(check_size(size)),
        'seed': seed,
        'images': images,
    }


def _check_whole(name, value, least):
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        raise UserError(
            f'{name} must be a whole number of {least} or more, got {value!r}'
        )


def _make_room(root, plan, overwrite):
    """Refuse a root that is something else, or clear it."""
    if root.exists() and not root.is_dir():
        raise UserError(f'{root} is a file; name a folder for ToyCity')
    found = read_manifest(root / MANIFEST) or read_manifest(root / PLAN)
    if found == plan:
        return
    if found is None:
        # Nothing says that these files are ours: never delete them.
        folders = sorted({f.parts[0] for f in _folders(samples_of(plan))})
        taken = [f for f in folders if (root / f).exists()]
        if taken:
            raise UserError(
                f'{root} holds {", ".join(taken)} but no {MANIFEST}, so it '
                f'was not made by this program; write to another folder'
            )
        return
    if not overwrite:
        raise UserError(
            f'{root} holds a ToyCity made with other arguments: '
            f'{differences(found, plan)}. Write to another folder, or '
            f'replace it with overwrite=True (--overwrite)'
        )
    # The plan stands for the files until the last of them is gone.
    write_manifest(root / PLAN, found)
    (root / MANIFEST).unlink(missing_ok=True)
    for sample in samples_of(found):
        (root / sample.image).unlink(missing_ok=True)
        (root / sample.label).unlink(missing_ok=True)


def _folders(samples):
    """The folders of the files, below the root, each once."""
    paths = (Path(p) for s in samples for p in (s.image, s.label))
    return dict.fromkeys(path.parent for path in paths)


def _make(root, size, seed, sample):
    image, label = render_scene(sample.seed(seed), sample.style, size)
    write_image(root / sample.image, image)
    write_label(
        root / sample.label,
        label,
        label_ids=sample.domain in ('source', 'source_val'),
    )
