"""Files of the benchmark: one labelled source and five target domains."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from mmengine import fileio
from PIL import Image

from clouds_mmseg.toycity.render import VERSION, check_size, render_scene
from clouds_mmseg.utils.atomic import atomic_path, leftovers
from clouds_mmseg.utils.cityscapes import LABEL_ID_TO_TRAIN_ID, PALETTE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.parallel import parallel_map
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.utils.visualization import colorize, grid

CONDITIONS = ('fog', 'night', 'rain', 'snow')
# Order matters: the index of a domain is part of its scenes' seeds.
DOMAINS = ('source', 'source_val', 'clear', *CONDITIONS)

TRAIN_ID_TO_LABEL_ID = np.zeros(256, np.uint8)
for _label_id, _train_id in LABEL_ID_TO_TRAIN_ID.items():
    TRAIN_ID_TO_LABEL_ID[_train_id] = _label_id
# (256, 3): colours by Cityscapes label id.
LABEL_ID_PALETTE = np.zeros((256, 3), np.uint8)
for _label_id, _train_id in LABEL_ID_TO_TRAIN_ID.items():
    LABEL_ID_PALETTE[_label_id] = PALETTE[_train_id]


@dataclass(frozen=True)
class Sample:
    """One image of one domain.

    Attributes:
        domain: One of :data:`DOMAINS`.
        index: Number of the image in its domain, from 0.
    """

    domain: str
    index: int

    @property
    def style(self) -> str:
        """Name of the style it is rendered in."""
        return 'source' if self.domain == 'source_val' else self.domain

    @property
    def image(self) -> str:
        """Path of the image below the root."""
        return self._paths()[0]

    @property
    def label(self) -> str:
        """Path of the label map below the root."""
        return self._paths()[1]

    def seed(self, seed: int) -> int:
        """Seed of the scene: no two samples share one."""
        words = np.random.SeedSequence(
            [seed, DOMAINS.index(self.domain), self.index]
        ).generate_state(2, np.uint64)
        return int(words[0]) << 64 | int(words[1])

    def _paths(self):
        number = self.index + 1
        if self.domain in ('source', 'source_val'):
            name = f'{number:05d}.png'
            return f'{self.domain}/images/{name}', (
                f'{self.domain}/labels/{name}'
            )
        if self.domain == 'clear':
            name = f'val/toyville/toyville_{number - 1:06d}_000019'
            return f'clear/leftImg8bit/{name}_leftImg8bit.png', (
                f'clear/gtFine/{name}_gtFine_labelTrainIds.png'
            )
        name = f'{self.domain}/val/GOPR0001/GOPR0001_frame_{number:06d}'
        return f'acdc/rgb_anon/{name}_rgb_anon.png', (
            f'acdc/gt/{name}_gt_labelTrainIds.png'
        )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) uint8."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, compress_level=3)


def write_label(path: Path, label: np.ndarray, *, label_ids: bool) -> None:
    """Write a map (H, W) of train ids.

    Args:
        path: Where.
        label: Train ids, uint8.
        label_ids: GTA5's form, a palette PNG of Cityscapes label ids;
            else a grey PNG of the train ids.
    """
    if label_ids:
        image = Image.fromarray(TRAIN_ID_TO_LABEL_ID[label])
        image.putpalette(LABEL_ID_PALETTE.tobytes())
    else:
        image = Image.fromarray(label)
    with atomic_path(path) as temporary:
        image.save(temporary)


MANIFEST = 'toycity.json'
# Written first: what an interrupted run was going to make.
PLAN = '.toycity.plan.json'


def read_manifest(path: str | Path) -> dict | None:
    """Read a manifest; None if there is no such file.

    Args:
        path: ``toycity.json`` below the root, which may be an address.

    Returns:
        ``renderer`` (its version), ``size`` (width, height), ``seed``
        and ``images`` (number by domain).

    Raises:
        UserError: The file is something else.
    """
    if not fileio.isfile(path):
        return None
    try:
        found = parse_json(fileio.get_text(path))
        counts = [found['images'][domain] for domain in DOMAINS]
        if not all(isinstance(count, int) for count in counts):
            raise ValueError('a number of images is no integer')
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is not a manifest of ToyCity ({error!r}); delete the '
            f'folder, or write to another'
        ) from error
    return found


def write_manifest(path: Path, plan: dict) -> None:
    """Write a manifest atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + '\n')


def samples_of(plan: dict) -> list[Sample]:
    """List the samples of a manifest."""
    return [
        Sample(domain, index)
        for domain in DOMAINS
        for index in range(plan['images'][domain])
    ]


def differences(found: dict, plan: dict) -> str:
    """Describe the differences between two manifests."""
    return ', '.join(
        f'{key} is {found.get(key)!r}, not {plan.get(key)!r}'
        for key in {**plan, **found}
        if found.get(key) != plan.get(key)
    )


def write_toycity(
    root: str | Path,
    *,
    num_source: int = 320,
    num_source_val: int = 40,
    num_target: int = 40,
    size: tuple[int, int] = (256, 128),
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
) -> bool:
    """Render the benchmark below ``root``, in the real datasets' layouts.

    Image i of a domain depends on ``seed``, the domain and i alone. Files
    that an interrupted run with the same arguments has left are kept; the
    manifest ``toycity.json`` is written last.

    Args:
        root: Folder; created if it does not exist.
        num_source: Training images of the source.
        num_source_val: Validation images of the source.
        num_target: Images of each of the five targets.
        size: Width and height in pixels.
        seed: Not negative.
        workers: Processes; 1 renders in this process.
        overwrite: Whether to delete the files of a ToyCity with other
            arguments.

    Returns:
        Whether anything was written; False if all files existed.

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
    for _ in parallel_map(job, missing, workers=workers, title='ToyCity'):
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


def write_contact_sheet(
    root: str | Path,
    path: str | Path,
    *,
    counts: dict[str, int],
    columns: int = 6,
) -> None:
    """Draw images beside their labels in the colours of Cityscapes.

    Args:
        root: Folder written by ``write_toycity``.
        path: The image to write.
        counts: Images by domain.
        columns: Scenes of each domain.
    """
    root = Path(root)
    rows = []
    for domain in DOMAINS:
        with_ids = domain.startswith('source')
        palette = LABEL_ID_PALETTE if with_ids else PALETTE
        rows.append([])
        for index in range(min(columns, counts[domain])):
            sample = Sample(domain, index)
            image = np.array(Image.open(root / sample.image))
            label = np.array(Image.open(root / sample.label))
            pair = np.hstack([image, colorize(label, palette)])
            rows[-1].append(Image.fromarray(pair))
    sheet = grid(rows, row_titles=[d.replace('_', '\n') for d in DOMAINS])
    with atomic_path(path) as temporary:
        sheet.save(temporary)
