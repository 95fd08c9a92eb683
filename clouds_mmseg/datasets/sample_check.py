"""Thorough check of one image and its label file."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np

from clouds_mmseg.datasets.transforms import LoadSegImage, LoadSegLabels
from clouds_mmseg.datasets.transforms.loading import read_file
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.image_files import damaged_chunk, is_progressive
from clouds_mmseg.utils.images import (
    ENDS_EARLY,
    ends_early,
    exif_orientation,
    stored_maximum,
)
from clouds_mmseg.utils.parallel import parallel_map
from clouds_mmseg.utils.remote import is_address, stamps_below

# Kinds of errors, in the order in which they are reported.
ERRORS = {
    'layout': 'not where the dataset looks',
    'count': 'another number of images than the release',
    'image': 'images that cannot be read',
    'label': 'labels that cannot be read',
    'size': 'labels of another size than their image',
    'ids': 'labels with ids that the dataset does not define',
    'no_image': 'images that a list names and that do not exist',
    'no_label': 'images without label',
    'orphan': 'labels without image',
    'same_label': 'images that have the label of another one',
    'leak': 'images of training that evaluation has too',
    'ignored': 'labels in which no class ever occurs',
    'depth': 'images that do not use the depth of their files',
    'mask_255': 'a class that may be the id 255, which is ignored',
}
WARNINGS = {
    'duplicate': 'images that occur twice',
    'absent': 'classes that no label of training shows',
    'one_class': 'the only class may be the id 255, which is background',
    'much_ignored': 'more than half of all pixels ignored',
    'all_ignored': 'images whose label is ignored as a whole',
    'orientation': 'images that are turned, and labels that are not',
    'dark': 'images that are black',
    'not_used': 'images that no suffix of the dataset fits',
}
# Kinds that moving the pair of files to quarantine resolves.
MOVABLE = ('image', 'label', 'size', 'ids', 'no_label', 'leak')
OPEN, ACCEPTED, FIXED = 'open', 'accepted', 'fixed'
# An image whose values are all less is black.
_BLACK_BELOW = 16
# For network storage, where requests run concurrently.
_THREADS = 16


@dataclass
class Finding:
    """One problem of a data set.

    Attributes:
        kind: A key of :data:`ERRORS` or :data:`WARNINGS`.
        message: With paths relative to the root.
        image: Path of the image relative to the root; empty if there is none.
        label: Path of the label, likewise.
        state: ``'open'``, ``'accepted'`` or ``'fixed'``.
    """

    kind: str
    message: str
    image: str = ''
    label: str = ''
    state: str = OPEN

    @property
    def is_error(self) -> bool:
        """Whether it is an error; else it is a warning."""
        return self.kind in ERRORS

    @property
    def file(self) -> str:
        """The file concerned; empty if there is none."""
        bad_label = self.kind in ('label', 'size', 'ids', 'orphan')
        return self.label if bad_label and self.label else self.image

    @property
    def identity(self) -> tuple:
        """Equal for the same finding of another verification."""
        return (self.kind, self.message, self.image, self.label)


@dataclass
class Pair:
    """An image and its label file.

    Attributes:
        image: Path relative to the root; empty for a label alone.
        label: Path relative to the root; empty if there is no label.
    """

    image: str
    label: str = ''


@dataclass
class SampleReport:
    """Result of :class:`SampleCheck`.

    Attributes:
        pair: The files.
        findings: Errors and warnings.
        stamps: Path relative to the root -> :func:`stamp` of the file.
        size: Width and height of the image.
        digest: BLAKE2b hash of the image file.
        pixels: (256,) int64: pixels of each class index, at 255 the ignored
            pixels; None if the label cannot be used.
        orientation: EXIF orientation of the image; None if it was not read.
        maximum: Greatest value in an image of 16 bits.
    """

    pair: Pair
    findings: list[Finding] = field(default_factory=list)
    stamps: dict[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    digest: str = ''
    pixels: np.ndarray | None = None
    orientation: int | None = None
    maximum: int | None = None

    def to_json(self) -> dict:
        """Return JSON values."""
        kept = asdict(self)
        if self.pixels is not None:
            kept['pixels'] = self.pixels.tolist()
        return kept

    @classmethod
    def from_json(cls, kept: dict) -> 'SampleReport':
        """Restore a report from the result of :meth:`to_json`."""
        kept = dict(
            kept,
            pair=Pair(**kept['pair']),
            findings=[Finding(**finding) for finding in kept['findings']],
        )
        if kept['size'] is not None:
            kept['size'] = tuple(kept['size'])
        if kept['pixels'] is not None:
            kept['pixels'] = np.array(kept['pixels'], np.int64)
        return cls(**kept)


class SampleCheck:
    """Reads the files of a pair as training does, with further checks.

    Each file is read once.

    Args:
        root: Folder, or address, that the paths of pairs are relative to.
        table: uint8, see ``label_table``; None for pairs without labels.
        channel: See ``label_channel`` of :class:`DGDataset`.
        images: Whether to read images too, or labels only.
        image_range: Of :class:`DGDataset`.
    """

    def __init__(
        self,
        root: str,
        table: np.ndarray | None,
        channel: str | None = None,
        images: bool = True,
        image_range: tuple | None = None,
    ):
        self.root = root
        self.table = table
        self.channel = channel
        self.images = images
        self.image_range = image_range

    def __call__(self, pair: Pair) -> SampleReport:
        """Read the files of a pair and report their problems."""
        report = SampleReport(pair)
        info = {}
        if pair.image and self.images:
            info['img_path'] = self._path(pair.image)
            info['image_range'] = self.image_range
            self._run(report, 'image', self._read_image, info)
        if pair.label:
            info['seg_map_path'] = self._path(pair.label)
            info['label_table'] = self.table
            info['label_channel'] = self.channel
            self._run(report, 'label', self._read_label, info)
        return report

    def check_all(
        self,
        pairs: Sequence[Pair],
        *,
        workers: int | None,
        title: str,
        stamps: dict[str, str | None] | None = None,
    ) -> Iterator[SampleReport]:
        """Check pairs in several processes.

        Args:
            pairs: The files.
            workers: Processes. Defaults to the number of cores.
            title: Of the progress bar.
            stamps: Of the files of a store, which are not asked for one by
                one; see :meth:`stored_stamps`, which is the default.

        Yields:
            A report for each pair, in their order.
        """
        if stamps is None:
            stamps = self.stored_stamps(pairs)
        for report in parallel_map(self, pairs, workers=workers, title=title):
            for path in set(report.stamps) & set(stamps):
                report.stamps[path] = stamps[path]
            yield report

    def stored_stamps(self, pairs: Sequence[Pair]) -> dict[str, str | None]:
        """List the stamps of the files of a store; empty for local files."""
        if not is_address(self.root):
            return {}
        paths = {p for pair in pairs for p in (pair.image, pair.label) if p}
        return current_stamps(self.root, sorted(paths))

    def _path(self, below):
        return os.path.join(self.root, below)

    def _run(self, report, kind, read, info):
        path = getattr(report.pair, kind)
        # Before reading, so that a change in between is noticed later.
        report.stamps[path] = stamp(self._path(path))
        try:
            read(report, info)
        except DataError as error:
            root = os.path.join(self.root, '')
            report.findings.append(
                Finding(
                    error.kind if error.kind in ('size', 'ids') else kind,
                    error.finding.replace(root, ''),
                    report.pair.image,
                    report.pair.label,
                )
            )

    def _read_image(self, report, info):
        payload = _read_whole(info['img_path'], 'image')
        report.digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
        info.update(LoadSegImage().decode(payload, dict(info)))
        if is_progressive(payload) and ends_early(payload, info['img']):
            raise DataError(f'image {info["img_path"]} {ENDS_EARLY}.')
        height, width = info['ori_shape']
        report.size = (width, height)
        report.orientation = exif_orientation(payload)
        if self.image_range is None:
            report.maximum = stored_maximum(payload)
        if info['img'].max() < _BLACK_BELOW:
            self._warn(report, 'dark', f'image {report.pair.image} is black.')

    @staticmethod
    def _warn(report, kind, message):
        pair = report.pair
        report.findings.append(Finding(kind, message, pair.image, pair.label))

    def _read_label(self, report, info):
        payload = _read_whole(info['seg_map_path'], 'label')
        turned = exif_orientation(payload)
        if report.orientation not in (None, turned):
            self._warn(
                report,
                'orientation',
                f'image {report.pair.image} has EXIF orientation '
                f'{report.orientation} and is read turned upright, label '
                f'{report.pair.label} has {turned}: is it stored upright?',
            )
        label = LoadSegLabels().decode(payload, info)['gt_seg_map']
        report.pixels = np.bincount(label.ravel(), minlength=256)
        if report.pixels[IGNORE] == label.size:
            self._warn(
                report,
                'all_ignored',
                f'label {report.pair.label} has ignored pixels only.',
            )


def _read_whole(path, kind):
    """Read a file and verify its PNG checksums."""
    payload = read_file(path, kind)
    chunk = damaged_chunk(payload)
    # Truncated files are reported by the decoders.
    if chunk not in (None, 'end'):
        raise DataError(
            f'{kind} {path} is damaged: the checksum of its PNG chunk '
            f'{chunk} is wrong.'
        )
    return payload


def stamp(path: str) -> str | None:
    """Return size and modification time of a file.

    Args:
        path: The file; links are followed.

    Returns:
        ``'<bytes> <mtime in ns>'``; None if there is no such local file.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f'{found.st_size} {found.st_mtime_ns}'


def changed_files(root: str, stamps: dict[str, str]) -> list[str]:
    """List the files that are missing or changed.

    Args:
        root: Folder that the paths are relative to.
        stamps: Path -> its stamp when it was read.

    Returns:
        Paths that do not exist or have another size or modification time, in
        the order of ``stamps``.
    """
    now = current_stamps(root, list(stamps))
    return [path for path in stamps if now[path] != stamps[path]]


def current_stamps(root: str, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the stamps of files.

    Args:
        root: Folder, or address, that the paths are relative to.
        paths: The files.

    Returns:
        Path -> of a local file its :func:`stamp`; of a file in a store, whose
        folders are listed, its size and version; None if there is no file.
    """
    if is_address(root):
        found = {}
        for folder in _common_folders(paths):
            below = stamps_below(os.path.join(root, folder).rstrip('/'))
            for name, value in below.items():
                found[os.path.join(folder, name)] = value
        return {path: found.get(path) for path in paths}
    with ThreadPoolExecutor(_THREADS) as pool:
        now = pool.map(stamp, (os.path.join(root, path) for path in paths))
        return dict(zip(paths, now, strict=True))


def _common_folders(paths):
    """Find the deepest folders of files, one a folder of the top level."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        folder = os.path.dirname(path)
        groups.setdefault(folder.split('/')[0], []).append(folder)
    return [os.path.commonpath(folders) for folders in groups.values()]
