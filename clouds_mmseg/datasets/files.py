"""Image and label files of a data set: listing, pairing, skipping, checks."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.datasets.prepared import MANIFEST
from clouds_mmseg.utils.data_root import DATA_ROOT_VARIABLE
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.options import name_list
from clouds_mmseg.utils.text_files import read_lines

# Suffixes by which an image that no dataset reads is recognised: also those of
# formats that cannot be read, for the message that says so. Those that are
# read are IMAGE_SUFFIXES of utils/image_files.py.
IMAGE_EXTENSIONS = tuple(
    '.png .jpg .jpeg .jpe .jp2 .bmp .webp .tif .tiff .ppm .pgm .gif '
    '.heic .avif'.split()
)
# Below a data root: the files that verification has moved to quarantine, under
# their old paths, and the list of these paths, one a line.
QUARANTINE = 'quarantine'
SKIP_FILE = 'clouds_skip.txt'
# Folders to ignore, besides hidden ones.
_IGNORED_FOLDERS = ('__MACOSX',)
# How many missing files an error names.
_NAMED = 5
# Names of the folders of splits.
_SPLITS = dict(
    train=('train', 'training'),
    val=('val', 'validation', 'valid'),
    test=('test', 'testing'),
)


@dataclass
class Files:
    """All files below a folder.

    Attributes:
        names: Paths relative to the folder, unordered, with the separator of
            the system. Hidden files are left out: macOS writes ``._0.png``.
        broken: Those of ``names`` that are broken links.
    """

    names: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


def list_files_below(folder: str, backend_args: dict | None = None) -> Files:
    """List a folder recursively, following links.

    Args:
        folder: Local path, or a URL of one of mmengine's file backends.
        backend_args: Of mmengine's file backend.
    """
    found = Files()
    if backend_args or '://' in folder:
        names = fileio.list_dir_or_file(
            folder, list_dir=False, recursive=True, backend_args=backend_args
        )
        found.names = [name for name in names if not _is_hidden(name)]
        return found
    _scan(folder, '', [os.path.realpath(folder)], found)
    return found


def _scan(folder: str, below: str, above: list[str], found: Files) -> None:
    with os.scandir(os.path.join(folder, below)) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            name = os.path.join(below, entry.name)
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                # A link to a parent folder would recurse without end.
                if not entry.is_symlink() or real not in above:
                    _scan(folder, name, [*above, real], found)
                continue
            found.names.append(name)
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.broken.add(name)


def common_folder(folders: Sequence[str]) -> str:
    """Return the folder, or address, that contains all of some."""
    common = os.path.commonpath(folders) or os.curdir
    # Of an address it keeps one slash of two.
    _, sign, _ = folders[0].partition('://')
    return common.replace(':/', sign, 1) if sign else common


def _is_hidden(path: str) -> bool:
    parts = path.replace('\\', '/').split('/')
    return any(
        part.startswith('.') or part in _IGNORED_FOLDERS for part in parts
    )


def as_suffixes(suffix: str | Sequence[str]) -> tuple[str, ...]:
    """Return one suffix or several as a tuple."""
    return (suffix,) if isinstance(suffix, str) else tuple(suffix)


def suffix_text(suffix: str | Sequence[str]) -> str:
    """Format suffixes for messages: ``*.png``, ``*.jpg or *.png``."""
    return ' or '.join(f'*{end}' for end in as_suffixes(suffix))


def without_suffix(name: str, suffix: str | Sequence[str]) -> str | None:
    """Remove the suffix of a file name.

    Args:
        name: Path of the file.
        suffix: One, or several of which the longest match is removed. Case
            does not matter.

    Returns:
        None if it has none of the suffixes.
    """
    ends = sorted(as_suffixes(suffix), key=len, reverse=True)
    for end in ends:
        if name.lower().endswith(end.lower()):
            return name[: len(name) - len(end)]
    return None


class Lookup:
    """Lookup of files by their path without suffix.

    Args:
        names: Paths that exist.
        suffix: One or several; other files are not found.
    """

    def __init__(
        self, names: Iterable[str], suffix: str | Sequence[str]
    ) -> None:
        self.suffixes = as_suffixes(suffix)
        self._names = set(names)
        self._by_stem: dict[str, str] = {}
        # Sorted, so that the choice among several files is deterministic.
        for name in sorted(self._names):
            stem = without_suffix(name, self.suffixes)
            if stem is not None:
                self._by_stem.setdefault(stem, name)

    def find(self, stem: str) -> str | None:
        """Return the file of a stem; exact suffixes are preferred."""
        for end in self.suffixes:
            if stem + end in self._names:
                return stem + end
        return self._by_stem.get(stem)

    def find_written(
        self, name: str, further: Sequence[str] = ()
    ) -> str | None:
        """Return the file that an entry of a list names.

        Args:
            name: With or without suffix, or with a part of it, with ``/`` or
                as on Windows with backslashes.
            further: Other suffixes that the entry may have.
        """
        for written in dict.fromkeys((name, name.replace('\\', '/'))):
            if found := self.find(written):
                return found
            if written in self._names and (
                without_suffix(written, self.suffixes) is not None
            ):
                return written
            for end in (*self.suffixes, *further):
                stem = without_suffix(written, end)
                if stem is None:
                    # 'a_leftImg8bit' of '*_leftImg8bit.png'.
                    stem = without_suffix(written, os.path.splitext(end)[0])
                if stem and (found := self.find(stem)):
                    return found
        return None


def other_images(
    names: Iterable[str], taken: Iterable[str], suffix: str | Sequence[str]
) -> dict[str, list[str]]:
    """Group the images that are not read by their extension.

    Args:
        names: All files of a folder.
        taken: Those that are read or have another known purpose.
        suffix: Of those that are read. A suffix such as ``_rgb.png`` selects
            among images: ``0_rgb.jpg`` is listed, ``0_depth.png`` is not.

    Returns:
        Extension (``'.jpg'``, in its case) -> files, the most frequent
        extension first.
    """
    chosen = [os.path.splitext(f'x{end}') for end in as_suffixes(suffix)]
    parts = tuple(stem[1:].lower() for stem, _ in chosen)
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names) - set(taken)):
        stem, end = os.path.splitext(name)
        if end.lower() in IMAGE_EXTENSIONS and stem.lower().endswith(parts):
            groups.setdefault(end, []).append(name)
    ends = sorted(groups, key=lambda end: -len(groups[end]))
    return {end: groups[end] for end in ends}


def unique_names(paths: Sequence[str]) -> list[str]:
    """Return unique names of images, for output files.

    Args:
        paths: Of images below their folder; may repeat.

    Returns:
        For each image the path with ``/`` and without extension; with it where
        images differ in nothing else (``0.jpg``, ``0.png``).
    """
    stems = [os.path.splitext(path)[0] for path in paths]
    owners: dict[str, set[str]] = {}
    for stem, path in zip(stems, paths, strict=True):
        owners.setdefault(stem, set()).add(path)
    return [
        (stem if len(owners[stem]) == 1 else path).replace(os.sep, '/')
        for stem, path in zip(stems, paths, strict=True)
    ]


def read_skip_list(skip: Sequence[str] | str) -> set[str]:
    """Return the names in a skip list.

    Args:
        skip: Names, or a text file with one per line.

    Returns:
        Without empty lines and surrounding blanks, with ``/``.

    Raises:
        UserError: The text file does not exist or is no text, or ``skip`` is
            no list of names.
    """
    if not isinstance(skip, str):
        names = {
            name.strip() for name in name_list(skip, 'skip', unique=False)
        } - {''}
        return {name.replace('\\', '/') for name in names}
    if not fileio.isfile(skip):
        raise DataError(
            f'the skip list {skip} does not exist, neither from '
            f'{os.getcwd()} nor below data_root: skip= takes a text file '
            'with an image name per line, or a list of names'
        )
    lines = read_lines(skip, 'the skip list')
    return {line.replace('\\', '/') for _, line in lines}


def matching_names(
    below: str, suffixes: Sequence[str], names: set[str]
) -> set[str]:
    """Find the entries of a skip list that name an image.

    Args:
        below: Path of the image below the image folder.
        suffixes: Of images, which an entry may omit.
        names: From :func:`read_skip_list`: paths below the folder or file
            names.

    Returns:
        Some of ``names``.
    """
    below = below.replace(os.sep, '/')
    spellings = set()
    for name in (below, os.path.basename(below)):
        cut = {without_suffix(name, suffix) for suffix in suffixes}
        stems = {stem for stem in cut if stem is not None}
        # Entries name images as published, also where they were recoded.
        spellings |= {name, os.path.splitext(name)[0]} | stems
        spellings |= {stem + suffix for stem in stems for suffix in suffixes}
    return spellings & names


def set_aside(root: str) -> set[str]:
    """Return the files that verification has taken out of a data set.

    Args:
        root: Folder that contains all files of the data set.

    Returns:
        Paths of images and labels relative to the root. Empty if there is no
        list.
    """
    path = os.path.join(root, SKIP_FILE)
    if not fileio.isfile(path):
        return set()
    return {line for _, line in read_lines(path, 'the skip list')}


class FileListing:
    """Listing of the samples of :class:`DGDataset`.

    Files are listed folder by folder instead of looked up one by one: on
    network storage that is the difference between seconds and minutes.
    """

    # Images that preparation has left out, relative to the data root.
    left_out = frozenset()
    # Whether tools/prepare_dataset.py has written the data root.
    is_prepared = False
    # Folder -> its files; cached while the dataset is opened.
    _listed: dict | None = None

    @property
    def _label_folder(self) -> str | None:
        return self.data_prefix.get('seg_map_path')

    @property
    def files_root(self) -> str:
        """Folder, or address, that contains all files of this dataset.

        ``data_root``, unless ``data_prefix`` leads out of it.
        """
        folders = [self.data_prefix['img_path']]
        if self._label_folder:
            folders.append(self._label_folder)
        if self.data_root and all(
            os.path.abspath(folder).startswith(
                os.path.join(os.path.abspath(self.data_root), '')
            )
            or os.path.abspath(folder) == os.path.abspath(self.data_root)
            for folder in folders
        ):
            return self.data_root
        return common_folder(folders)

    def _expected_layout(self):
        folders = [(self.data_prefix['img_path'], self.img_suffix)]
        if self._label_folder:
            folders.append((self._label_folder, self.seg_map_suffix))
        lines = [
            f'  {folder}/**/*{end}'
            for folder, suffix in folders
            for end in as_suffixes(suffix)
        ]
        return '\n'.join(lines)

    def data_error(self, problem: str) -> DataError:
        """Make the exception about a problem of this data set.

        Args:
            problem: Without a full stop.

        Returns:
            With the expected files, and how to set the data root.
        """
        tool = ''
        if getattr(self, 'PREPARED', None):
            tool = (
                f'clouds prepare {self.PREPARED} makes them from '
                'the official downloads.\n'
            )
        return DataError(
            f'{type(self).__name__} (domain {self.domain}): {problem}.\n'
            f'Expected files:\n{self._expected_layout()}\n{tool}'
            'Put the data there, or set data_root of this dataset, or name '
            "the folder that stands in for 'data' in all data roots: "
            f'--data-root of the tools, or the variable {DATA_ROOT_VARIABLE}.'
        )

    def all_samples(self) -> list[dict]:
        """List the images of the layout, with or without existing labels.

        Returns:
            As ``load_data_list`` of mmseg returns them.

        Raises:
            DataError: A folder is missing, or holds no image.
        """
        self._listed = {}
        self._check_folders()
        if self.ann_file:
            names = self._names_of_list()
        else:
            names = sorted(self._names_of_folder())
        infos = [self._sample(name) for name in names]
        quarantine = os.path.join(self.files_root, QUARANTINE, '')
        infos = [i for i in infos if not i['img_path'].startswith(quarantine)]
        if not infos:
            raise self._no_image()
        return infos

    def _sample(self, name):
        """Return mmseg's entry of an image below the image folder."""
        info = dict(img_path=os.path.join(self.data_prefix['img_path'], name))
        if self._label_folder:
            stem = without_suffix(name, self.img_suffix)
            end = as_suffixes(self.seg_map_suffix)[0]
            info['seg_map_path'] = os.path.join(self._label_folder, stem + end)
        info['label_map'] = self.label_map
        info['reduce_zero_label'] = self.reduce_zero_label
        info['seg_fields'] = []
        return info

    def _files(self, folder):
        """List a folder, once while the dataset is opened."""
        if self._listed is None:
            return list_files_below(folder, self.backend_args)
        if folder not in self._listed:
            self._listed[folder] = list_files_below(folder, self.backend_args)
        return self._listed[folder]

    def _names_of_folder(self):
        """List the images below the image folder, without other files."""
        folder = self.data_prefix['img_path']
        return [
            name
            for name in self._files(folder).names
            if without_suffix(name, self.img_suffix) is not None
            and not self._is_label(folder, name)
        ]

    def _is_label(self, folder, name):
        """Whether a file of the image folder is a label."""
        labels = self._label_folder
        if not labels or (without_suffix(name, self.seg_map_suffix) is None):
            return False
        path = os.path.normpath(os.path.join(folder, name))
        labels, images = os.path.normpath(labels), os.path.normpath(folder)
        if labels == images:
            # '0_mask.png' beside '0.png'.
            return self._has_longer_label_suffix(name)
        return labels.startswith(os.path.join(images, '')) and (
            path.startswith(os.path.join(labels, ''))
        )

    def _has_longer_label_suffix(self, name):
        def length(suffix):
            stem = without_suffix(name, suffix)
            return -1 if stem is None else len(name) - len(stem)

        return length(self.seg_map_suffix) > length(self.img_suffix)

    def _names_of_list(self):
        """List the images that ``ann_file`` names, in its order."""
        what = 'ann_file'
        lines = read_lines(self.ann_file, what, self.backend_args)
        if not lines:
            raise self.data_error(f'ann_file {self.ann_file} names no image')
        files = Lookup(
            self._files(self.data_prefix['img_path']).names, self.img_suffix
        )
        published = as_suffixes(self.IMG_SUFFIX)
        ends = (*as_suffixes(self.img_suffix), *published)
        names = []
        for _, line in lines:
            name = files.find_written(line, published)
            if name is None:
                stem = without_suffix(line, ends)
                name = (line if stem is None else stem) + ends[0]
            names.append(name)
        double = [name for name, times in Counter(names).items() if times > 1]
        if double:
            self._warn(
                f'ann_file {self.ann_file} names {len(double)} images more '
                f'than once, for example {double[0]}: they are drawn and '
                'evaluated as often'
            )
        return names

    def _no_image(self):
        folder = self.data_prefix['img_path']
        problem = f'found no image {suffix_text(self.img_suffix)} in {folder}'
        others = self.untaken_images()
        if others:
            present = ', '.join(
                f'{len(names)} *{end}' for end, names in others.items()
            )
            first = next(iter(others))
            problem += (
                f'; there are {present}: set img_suffix={first!r}, or '
                'several in a list'
            )
        return self.data_error(problem)

    def untaken_images(self) -> dict[str, list[str]]:
        """Find images below the image folder that no suffix matches.

        Returns:
            Extension -> paths below the image folder. Empty with an
            ``ann_file``, and where preparation has written images of two
            formats.
        """
        if self.ann_file or self.is_prepared:
            return {}
        folder = self.data_prefix['img_path']
        names = self._files(folder).names
        quarantine = os.path.relpath(
            os.path.join(self.files_root, QUARANTINE), folder
        )
        known = {
            name
            for name in names
            if without_suffix(name, self.img_suffix) is not None
            or self._is_label(folder, name)
            or name.startswith(os.path.join(quarantine, ''))
        }
        return other_images(names, known, self.img_suffix)

    def two_of_a_label(self, infos: list[dict]) -> list[tuple[str, str]]:
        """Find pairs of images that have the same label file.

        Args:
            infos: Samples.

        Returns:
            Paths of images, such as ``0.jpg`` and ``0.png``.
        """
        owner, pairs = {}, []
        for info in infos:
            label = info.get('seg_map_path')
            first = owner.setdefault(label, info['img_path'])
            if label is not None and first != info['img_path']:
                pairs.append((first, info['img_path']))
        return pairs

    def label_orphans(self, infos: list[dict]) -> set[str]:
        """List the labels that belong to none of the images.

        Args:
            infos: All samples, skipped ones included, after
                :meth:`missing_files`.

        Returns:
            Paths of labels.
        """
        labels = self.files_below(self._label_folder, self.seg_map_suffix)
        images = {
            os.path.join(self._label_folder, name)
            for name in self._names_of_folder()
        }
        same = os.path.normpath(self._label_folder) == os.path.normpath(
            self.data_prefix['img_path']
        )
        labels -= {info['seg_map_path'] for info in infos}
        return labels - images if same else labels

    def _warn(self, text):
        print_log(
            f'{type(self).__name__} (domain {self.domain}): {text}',
            logger='current',
            level=logging.WARNING,
        )

    def missing_files(
        self, infos: list[dict], key: str, suffix: str | Sequence[str]
    ) -> list[dict]:
        """List the samples whose image or label file does not exist.

        Where only the case of the suffix differs (``0.PNG``), or there are
        several suffixes, the sample is pointed to the file that exists.

        Args:
            infos: Samples.
            key: ``'img_path'`` or ``'seg_map_path'``.
            suffix: Of these files.

        Returns:
            Some of ``infos``.
        """
        folder = self.data_prefix[key]
        files = Lookup(self._files(folder).names, suffix)
        present = self.files_below(folder, suffix)
        missing = []
        for info in infos:
            if info[key] in present:
                continue
            below = os.path.relpath(info[key], folder)
            found = files.find(without_suffix(below, suffix) or below)
            if found is None:
                missing.append(info)
            else:
                info[key] = os.path.join(folder, found)
        return missing

    def files_below(
        self, prefix: str, suffix: str | Sequence[str]
    ) -> set[str]:
        """List the files with a suffix below a folder.

        Args:
            prefix: The folder.
            suffix: One or several.

        Returns:
            Paths that begin with ``prefix``.
        """
        return {
            os.path.join(prefix, name)
            for name in self._files(prefix).names
            if without_suffix(name, suffix) is not None
        }

    def _check_folders(self):
        folders = [('data root', self.data_root)] if self.data_root else []
        folders.append(('image folder', self.data_prefix['img_path']))
        if self._label_folder:
            folders.append(('label folder', self._label_folder))
        for name, folder in folders:
            if not fileio.isdir(folder, backend_args=self.backend_args):
                raise self.data_error(
                    f'the {name} {folder} does not exist (from {os.getcwd()})'
                )
        if self.ann_file and not fileio.isfile(
            self.ann_file, backend_args=self.backend_args
        ):
            raise self.data_error(f'ann_file {self.ann_file} does not exist')


class FileChecks(FileListing):
    """Checks of :class:`DGDataset`: skipped, missing and unpaired files."""

    def without_skipped(self, infos: list[dict]) -> list[dict]:
        """Leave out the images of ``skip`` and of the quarantine list.

        Args:
            infos: From :meth:`all_samples`.

        Returns:
            The remaining samples.
        """
        kept = self._kept(infos, read_skip_list(self.skip))
        root = self.files_root
        excluded = set_aside(root) | self.left_out
        if excluded:
            remaining = [
                i
                for i in kept
                if os.path.relpath(i['img_path'], root) not in excluded
            ]
            if len(remaining) < len(kept):
                self._log_skipped(
                    len(kept) - len(remaining), f'{SKIP_FILE} or {MANIFEST}'
                )
            kept = remaining
        return kept

    def _kept(self, infos, names):
        """Leave out the images of ``skip``; warn of entries without image."""
        if not names:
            return infos
        kept, found = [], Counter()
        for info in infos:
            entries = self.names_of(info['img_path'], names)
            found.update(entries)
            if not entries:
                kept.append(info)
        self._log_skipped(len(infos) - len(kept), f'skip names {len(names)}')
        unknown = sorted(names - set(found) - self._known_as_left_out(names))
        if unknown:
            more = f' and {len(unknown) - _NAMED} more'
            self._warn(
                f'skip names {len(unknown)} images that are not there: '
                + ', '.join(unknown[:_NAMED])
                + (more if len(unknown) > _NAMED else '')
            )
        several = [name for name, times in sorted(found.items()) if times > 1]
        if several:
            self._warn(
                f'{several[0]!r} in skip is the name of '
                f'{found[several[0]]} images in different folders, and all '
                'of them are skipped; give the path below '
                f'{self.data_prefix["img_path"]} to mean one of them'
            )
        return kept

    def _known_as_left_out(self, names):
        """Find the entries about images that were left out or quarantined."""
        root = self.files_root
        known = set()
        for path in set_aside(root) | self.left_out:
            known |= self.names_of(os.path.join(root, path), names)
        return known

    def names_of(self, image: str, names: set[str]) -> set[str]:
        """Find the entries of a skip list that name an image.

        Args:
            image: Path of the image.
            names: From :func:`read_skip_list`; images are named as published,
                also where they were recoded.

        Returns:
            Some of ``names``; empty if the image is not to be left out.
        """
        folder = self.data_prefix['img_path']
        ends = (*as_suffixes(self.img_suffix), *as_suffixes(self.IMG_SUFFIX))
        return matching_names(os.path.relpath(image, folder), ends, names)

    def _log_skipped(self, number, why):
        print_log(
            f'{type(self).__name__} (domain {self.domain}): skipped {number} '
            f'images; {why}',
            logger='current',
        )

    def _check_count(self, count):
        if self.expected is not None and count != self.expected:
            print_log(
                f'{type(self).__name__} (domain {self.domain}): '
                f'{self.data_prefix["img_path"]} holds {count} images, the '
                f'official set has {self.expected}. Results are comparable '
                'with published ones only on the whole set; expected=None '
                'turns this warning off.',
                logger='current',
                level=logging.WARNING,
            )

    def _check_files(self, infos, key, kind, suffix):
        missing = self.missing_files(infos, key, suffix)
        if missing:
            lines = [f'  {info[key]}' for info in missing[:_NAMED]]
            if len(missing) > _NAMED:
                lines.append(f'  and {len(missing) - _NAMED} more')
            raise self.data_error(
                f'{len(missing)} of {len(infos)} images lack their {kind} '
                'file:\n' + '\n'.join(lines) + self.missing_hint(missing)
            )

    def missing_hint(self, missing: list[dict]) -> str:
        """Return advice for the error about missing files, or nothing.

        Args:
            missing: The samples whose file is missing.
        """
        return ''

    def check_samples(self, samples: list[dict], infos: list[dict]) -> None:
        """Check the listed files when the dataset is opened.

        Args:
            samples: From :meth:`all_samples`.
            infos: Those of them that are used.

        Raises:
            DataError: Files are missing, or a label belongs to two images.
        """
        if self.ann_file:
            self._check_files(infos, 'img_path', 'image', self.img_suffix)
        self._refuse_broken_links(infos, 'img_path')
        if self._label_folder:
            self._check_files(
                infos, 'seg_map_path', 'label', self.seg_map_suffix
            )
            self._refuse_broken_links(infos, 'seg_map_path')
            double = self.two_of_a_label(infos)
            if double:
                raise self.data_error(
                    f'{len(double)} labels belong to two images, for example '
                    f'that of {double[0][0]} and {double[0][1]}: rename or '
                    'skip one of them'
                )
            self._warn_about_orphans(samples)
            self._compare_splits()
        for end, names in self.untaken_images().items():
            self._warn(
                f'{len(names)} images *{end} in '
                f'{self.data_prefix["img_path"]} are not used, for example '
                f'{names[0]}: img_suffix is {self.img_suffix!r}. Name all '
                'suffixes in a list, or move them away'
            )

    def _refuse_broken_links(self, infos, key):
        folder = self.data_prefix[key]
        broken = self._files(folder).broken
        links = [
            i[key] for i in infos if os.path.relpath(i[key], folder) in broken
        ]
        if links:
            raise self.data_error(
                f'{len(links)} files are links to files that do not exist, '
                f'for example {links[0]}'
            )

    def _warn_about_orphans(self, samples):
        if self.ann_file:
            return
        self.missing_files(samples, 'seg_map_path', self.seg_map_suffix)
        root = self.files_root
        quarantined = {os.path.join(root, path) for path in set_aside(root)}
        quarantine = os.path.join(root, QUARANTINE, '')
        orphans = sorted(
            path
            for path in self.label_orphans(samples) - quarantined
            if not path.startswith(quarantine)
        )
        if orphans:
            self._warn(
                f'{len(orphans)} labels have no image, for example '
                f'{orphans[0]}: are images missing?'
            )

    def _compare_splits(self):
        """Warn if the images are of one split and the labels of another."""
        splits = [
            next(
                (
                    split
                    for part in reversed(os.path.normpath(folder).split('/'))
                    for split, known in _SPLITS.items()
                    if part.lower() in known
                ),
                None,
            )
            for folder in (self.data_prefix['img_path'], self._label_folder)
        ]
        if None not in splits and splits[0] != splits[1]:
            self._warn(
                f'the images are those of {self.data_prefix["img_path"]}, '
                f'the labels those of {self._label_folder}: is that meant?'
            )
