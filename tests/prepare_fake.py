"""A small fake of an official download, and ways to write it."""

import zipfile
from dataclasses import dataclass, field

import numpy as np
from mmseg.registry import DATASETS
from prepare_bytes import image_bytes, label_bytes, spread


@dataclass
class Fake:
    """A download.

    Attributes:
        archives (dict[str, dict[str, bytes]]): Name of an archive -> its
            files.
        datasets (list[dict]): Configs that read what is prepared of it.
        splits (dict[str, int]): Expected in the manifest.
        source (str): Expected label source.
        expected (dict[str, np.ndarray]): Name of an image file -> its train
            ids.
    """

    datasets: list
    splits: dict
    source: str
    archives: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)

    def files(self):
        """All files, as if every archive was unpacked to one folder."""
        return {k: v for a in self.archives.values() for k, v in a.items()}

    def add(self, archives, image, label, ids, table, kind='grey', seed=0):
        """Add a pair; ``archives`` names those of image and label."""
        suffix = image.rpartition('.')[2]
        files = self.archives.setdefault(archives[0], {})
        files[image] = image_bytes(seed, suffix)
        raw = spread(ids, seed)
        files = self.archives.setdefault(archives[1], {})
        files[label] = label_bytes(raw, kind)
        train_ids = np.vectorize(lambda i: table.get(i, 255))(raw)
        self.expected[image.rpartition('/')[2]] = train_ids


def write_zip(path, files):
    """Write a zip archive with folders, as Info-ZIP does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in {n.rpartition('/')[0] for n in files} - {''}:
            archive.writestr(f'{name}/', b'')
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_archives(folder, fake):
    """Write the archives of a fake; returns the folder."""
    for name, files in fake.archives.items():
        write_zip(folder / name, files)
    return folder


def write_files(folder, files):
    """Write files as if they had been unpacked; returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def open_gta5(out):
    """Open GTA5 as it was prepared."""
    return DATASETS.build(
        dict(
            type='GTA5Dataset',
            data_root=str(out),
            pipeline=[dict(type='LoadSegImage'), dict(type='LoadSegLabels')],
            serialize_data=False,
        )
    )
