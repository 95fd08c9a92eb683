"""Everything about one image and its label."""

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.transforms import LoadSegImage, LoadSegLabels
from clouds_mmseg.datasets.transforms.integrity import require_complete
from clouds_mmseg.datasets.verify.checksums import damaged_chunk
from clouds_mmseg.datasets.verify.findings import Finding
from clouds_mmseg.datasets.verify.stamps import stamp
from clouds_mmseg.utils.cityscapes import IGNORE


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
    """

    pair: Pair
    findings: list = field(default_factory=list)
    stamps: dict = field(default_factory=dict)
    size: tuple = None
    digest: str = ''
    pixels: np.ndarray = None


class SampleCheck:
    """Read the files of a pair as training does, and more strictly.

    Args:
        root (str): Folder that the paths of pairs are below.
        table (np.ndarray): (256,) uint8, see ``label_table``.
        channel (str | None): See ``label_channel`` of :class:`DGDataset`.
        images (bool): Whether to read the images, not the labels alone.
    """

    def __init__(self, root, table, channel=None, images=True):
        self.root = root
        self.table = table
        self.channel = channel
        self.images = images

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
        height, width = info['ori_shape']
        report.size = (width, height)

    def _read_label(self, report, info):
        _read_whole(info['seg_map_path'], 'label')
        label = LoadSegLabels()(info)['gt_seg_map']
        report.pixels = np.bincount(label.ravel(), minlength=256)
        if report.pixels[IGNORE] == label.size:
            report.findings.append(
                Finding(
                    'all_ignored',
                    f'label {report.pair.label} has ignored pixels only.',
                    report.pair.image,
                    report.pair.label,
                )
            )


def _read_whole(path, kind):
    """Return the bytes of a file whose end and checksums are right."""
    require_complete(path, kind)
    try:
        with open(path, 'rb') as stream:
            payload = stream.read()
    except OSError as error:
        raise DataError(
            f'{kind} {path} cannot be read: {error.strerror}.'
        ) from error
    chunk = damaged_chunk(payload)
    if chunk is not None:
        raise DataError(
            f'{kind} {path} is damaged: the checksum of its PNG chunk '
            f'{chunk} is wrong.'
        )
    return payload
