"""Which samples a dataset has, from the files that there are."""

import logging
import os
from collections import Counter

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.datasets.data_root import DATA_ROOT_VARIABLE
from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.pairing import (
    Lookup,
    as_suffixes,
    list_files_below,
    other_images,
    suffix_text,
    without_suffix,
)
from clouds_mmseg.datasets.skip_list import QUARANTINE
from clouds_mmseg.utils.text_files import read_lines


class FileListing:
    """The samples of :class:`DGDataset`, on the attributes of mmseg's dataset.

    Files are listed folder by folder instead of looked up one by one: on
    network storage that is the difference between seconds and minutes.
    """

    # Paths below the data root of images that preparation has left out.
    left_out = frozenset()
    # Whether tools/prepare_dataset.py has made the data root.
    is_prepared = False
    # Folder -> its files; kept while the dataset is opened.
    _listed = None

    @property
    def _label_folder(self):
        return self.data_prefix.get('seg_map_path')

    @property
    def files_root(self):
        """str: The folder that all files of this dataset are below.

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
        return os.path.commonpath(folders) or os.curdir

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

    def data_error(self, problem):
        """Make the exception for something wrong with this data set.

        Args:
            problem (str): What was found, without a full stop.

        Returns:
            DataError: Also says which files are expected, and how to move
            the data root.
        """
        tool = ''
        if getattr(self, 'PREPARED', None):
            tool = (
                f'tools/prepare_dataset.py {self.PREPARED} makes them from '
                'the official downloads.\n'
            )
        return DataError(
            f'{type(self).__name__} (domain {self.domain}): {problem}.\n'
            f'Expected files:\n{self._expected_layout()}\n{tool}'
            'Put the data there, or set data_root of this dataset, or name '
            "the folder that stands in for 'data' in all data roots: "
            f'--data-root of the tools, or the variable {DATA_ROOT_VARIABLE}.'
        )

    def all_samples(self):
        """List the images of the layout, whether their labels exist or not.

        Returns:
            list[dict]: As ``load_data_list`` of mmseg returns them.

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
        aside = os.path.join(self.files_root, QUARANTINE, '')
        infos = [i for i in infos if not i['img_path'].startswith(aside)]
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
        """Images below the image folder, without what else lies there."""
        folder = self.data_prefix['img_path']
        return [
            name
            for name in self._files(folder).names
            if without_suffix(name, self.img_suffix) is not None
            and not self._is_label(folder, name)
        ]

    def _is_label(self, folder, name):
        """Whether a file of the image folder is known as a label."""
        labels = self._label_folder
        if not labels or (without_suffix(name, self.seg_map_suffix) is None):
            return False
        path = os.path.normpath(os.path.join(folder, name))
        labels, images = os.path.normpath(labels), os.path.normpath(folder)
        if labels == images:
            # '0_mask.png' beside '0.png'.
            return self._longest_is_label(name)
        return labels.startswith(os.path.join(images, '')) and (
            path.startswith(os.path.join(labels, ''))
        )

    def _longest_is_label(self, name):
        def cut(suffix):
            stem = without_suffix(name, suffix)
            return -1 if stem is None else len(name) - len(stem)

        return cut(self.seg_map_suffix) > cut(self.img_suffix)

    def _names_of_list(self):
        """Images that ``ann_file`` names, in its order."""
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
            there = ', '.join(
                f'{len(names)} *{end}' for end, names in others.items()
            )
            first = next(iter(others))
            problem += (
                f'; there are {there}: say so with img_suffix={first!r}, or '
                'several in a list'
            )
        return self.data_error(problem)

    def untaken_images(self):
        """Find images below the image folder that the suffix leaves out.

        Returns:
            dict[str, list[str]]: Ending -> paths below the image folder.
            Empty where ``ann_file`` says what is meant, or preparation has
            put images of two formats there.
        """
        if self.ann_file or self.is_prepared:
            return {}
        folder = self.data_prefix['img_path']
        names = self._files(folder).names
        aside = os.path.relpath(
            os.path.join(self.files_root, QUARANTINE), folder
        )
        known = {
            name
            for name in names
            if without_suffix(name, self.img_suffix) is not None
            or self._is_label(folder, name)
            or name.startswith(os.path.join(aside, ''))
        }
        return other_images(names, known, self.img_suffix)

    def two_of_a_label(self, infos):
        """Find images that have the same label.

        Args:
            infos (list[dict]): Samples.

        Returns:
            list[tuple[str, str]]: Paths of images, such as ``0.jpg`` and
            ``0.png``.
        """
        owner, double = {}, []
        for info in infos:
            label = info.get('seg_map_path')
            first = owner.setdefault(label, info['img_path'])
            if label is not None and first != info['img_path']:
                double.append((first, info['img_path']))
        return double

    def label_orphans(self, infos):
        """List the labels that belong to none of the images.

        Args:
            infos (list[dict]): All samples, skipped ones included, after
                :meth:`missing_files`.

        Returns:
            set[str]: Paths of labels.
        """
        there = self.files_below(self._label_folder, self.seg_map_suffix)
        images = {
            os.path.join(self._label_folder, name)
            for name in self._names_of_folder()
        }
        same = os.path.normpath(self._label_folder) == os.path.normpath(
            self.data_prefix['img_path']
        )
        there -= {info['seg_map_path'] for info in infos}
        return there - images if same else there

    def _warn(self, text):
        print_log(
            f'{type(self).__name__} (domain {self.domain}): {text}',
            logger='current',
            level=logging.WARNING,
        )

    def missing_files(self, infos, key, suffix):
        """List the samples whose file does not exist.

        Where only the case of the suffix differs (``0.PNG``), or there are
        several suffixes, the sample is pointed to the file that exists.

        Args:
            infos (list[dict]): Samples.
            key (str): ``'img_path'`` or ``'seg_map_path'``.
            suffix (str | Sequence[str]): Of these files.

        Returns:
            list[dict]: Some of ``infos``.
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

    def files_below(self, prefix, suffix):
        """List a folder and all below it.

        Args:
            prefix (str): The folder.
            suffix (str | Sequence[str]): Of the files that count.

        Returns:
            set[str]: Paths that begin with ``prefix``.
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
