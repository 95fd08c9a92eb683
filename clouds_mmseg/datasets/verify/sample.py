"""Everything about one image and its label."""

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.transforms import LoadSegImage, LoadSegLabels
from clouds_mmseg.datasets.transforms.load_image import read_file
from clouds_mmseg.datasets.verify.findings import Finding
from clouds_mmseg.datasets.verify.stamps import stamp
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.image_files import damaged_chunk, is_progressive
from clouds_mmseg.utils.images import (
    ENDS_EARLY,
    ends_early,
    exif_orientation,
    stored_maximum,
)

# An image without a value above that shows nothing.
_DARK = 16


@dataclass
class Pair:
    """What is known of a pair of files before they are read.

    Attributes:
        image (str): Path below the root; empty for a label alone.
        label (str): Path below the root; empty if there is no label.
    """

    image: str
    label: str = ''


@dataclass
class SampleReport:
    """What :meth:`SampleCheck.__call__` found.

    Attributes:
        pair (Pair): The files.
        findings (list[Finding]): What is wrong, at most one a file.
        stamps (dict[str, str]): Path below the root -> its stamp.
        size (tuple[int, int] | None): Width and height of the image.
        digest (str): Hash of the image file.
        pixels (np.ndarray | None): (256,) int64: pixels of each class index,
            at 255 the ignored ones; None if the label cannot be used.
        orientation (int | None): EXIF orientation of the image; None if it
            was not read.
        maximum (int | None): Greatest value in an image of 16 bits.
    """

    pair: Pair
    findings: list = field(default_factory=list)
    stamps: dict = field(default_factory=dict)
    size: tuple = None
    digest: str = ''
    pixels: np.ndarray = None
    orientation: int = None
    maximum: int = None


class SampleCheck:
    """Read the files of a pair as training does, and more strictly.

    Args:
        root (str): Folder that the paths of pairs are below.
        table (np.ndarray): uint8, see ``label_table``.
        channel (str | None): See ``label_channel`` of :class:`DGDataset`.
        images (bool): Whether to read the images, not the labels alone.
        image_range (tuple, optional): Of :class:`DGDataset`.
    """

    def __init__(
        self, root, table, channel=None, images=True, image_range=None
    ):
        self.root = root
        self.table = table
        self.channel = channel
        self.images = images
        self.image_range = image_range

    def __call__(self, pair):
        """Read the files of a pair.

        Args:
            pair (Pair): The files.

        Returns:
            SampleReport: What was found.
        """
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

    def _path(self, below):
        return os.path.join(self.root, below)

    def _run(self, report, kind, read, info):
        path = getattr(report.pair, kind)
        # Before reading: a change in between is noticed later.
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
        info.update(LoadSegImage()(dict(info)))
        if is_progressive(payload) and ends_early(payload, info['img']):
            raise DataError(f'image {info["img_path"]} {ENDS_EARLY}.')
        height, width = info['ori_shape']
        report.size = (width, height)
        report.orientation = exif_orientation(payload)
        if self.image_range is None:
            report.maximum = stored_maximum(payload)
        if info['img'].max() < _DARK:
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
        label = LoadSegLabels()(info)['gt_seg_map']
        report.pixels = np.bincount(label.ravel(), minlength=256)
        if report.pixels[IGNORE] == label.size:
            self._warn(
                report,
                'all_ignored',
                f'label {report.pair.label} has ignored pixels only.',
            )


def _read_whole(path, kind):
    """Return the bytes of a file whose checksums are right."""
    payload = read_file(path, kind)
    chunk = damaged_chunk(payload)
    # A file without its end is told by the decoders.
    if chunk not in (None, 'end'):
        raise DataError(
            f'{kind} {path} is damaged: the checksum of its PNG chunk '
            f'{chunk} is wrong.'
        )
    return payload
