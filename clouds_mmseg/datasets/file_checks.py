"""What is checked when a dataset is opened for the first time."""

import logging
import os

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.datasets.data_root import DATA_ROOT_VARIABLE
from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.manifest import MANIFEST
from clouds_mmseg.datasets.skip_list import (
    QUARANTINE,
    SKIP_FILE,
    is_skipped,
    read_skip_list,
    set_aside,
)

# How many missing files an error names.
_NAMED = 5


class FileChecks:
    """The checks of :class:`DGDataset`, on the attributes of mmseg's dataset.

    Files are listed folder by folder instead of looked up one by one: on
    network storage that is the difference between seconds and minutes.
    """

    # Paths below the data root of images that preparation has left out.
    left_out = frozenset()

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
        lines = [f'  {self.data_prefix["img_path"]}/**/*{self.img_suffix}']
        if self._label_folder:
            lines.append(f'  {self._label_folder}/**/*{self.seg_map_suffix}')
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
        self._check_folders()
        infos = super().load_data_list()
        aside = os.path.join(self.files_root, QUARANTINE, '')
        infos = [i for i in infos if not i['img_path'].startswith(aside)]
        if not infos:
            raise self.data_error(
                f'found no image *{self.img_suffix} in '
                f'{self.data_prefix["img_path"]}'
            )
        return infos

    def without_skipped(self, infos):
        """Leave out what ``skip`` and the list of moved files name.

        Args:
            infos (list[dict]): From :meth:`all_samples`.

        Returns:
            list[dict]: The others.
        """
        kept = self._kept(infos, read_skip_list(self.skip), 'skip')
        root = self.files_root
        aside = set_aside(root) | self.left_out
        if aside:
            below = [
                i
                for i in kept
                if os.path.relpath(i['img_path'], root) not in aside
            ]
            if len(below) < len(kept):
                self._say_skipped(
                    len(kept) - len(below), f'{SKIP_FILE} or {MANIFEST}'
                )
            kept = below
        return kept

    def _kept(self, infos, names, who):
        if not names:
            return infos
        kept = [
            info
            for info in infos
            if not self.is_named(info['img_path'], names)
        ]
        self._say_skipped(len(infos) - len(kept), f'{who} names {len(names)}')
        return kept

    def is_named(self, image, names):
        """Whether a skip list names an image.

        Args:
            image (str): Path of the image.
            names (set[str]): From :func:`read_skip_list`. Lists name images
                as published, also where they were recoded.

        Returns:
            bool: True if the image is to be left out.
        """
        folder = self.data_prefix['img_path']
        end = self.img_suffix.rpartition('.')[2]
        published = self.IMG_SUFFIX.rpartition('.')[2]
        same = image.removesuffix(end) + published
        return is_skipped(image, folder, self.img_suffix, names) or is_skipped(
            same, folder, self.IMG_SUFFIX, names
        )

    def _say_skipped(self, number, why):
        print_log(
            f'{type(self).__name__} (domain {self.domain}): skipped {number} '
            f'images; {why}',
            logger='current',
        )

    def missing_files(self, infos, key, suffix):
        """List the samples whose file does not exist.

        Args:
            infos (list[dict]): Samples.
            key (str): ``'img_path'`` or ``'seg_map_path'``.
            suffix (str): Of these files.

        Returns:
            list[dict]: Some of ``infos``.
        """
        present = self.files_below(self.data_prefix[key], suffix)
        return [info for info in infos if info[key] not in present]

    def files_below(self, prefix, suffix):
        """List a folder and all below it.

        Args:
            prefix (str): The folder.
            suffix (str): Of the files that count.

        Returns:
            set[str]: Paths that begin with ``prefix``.
        """
        return {
            os.path.join(prefix, name)
            for name in fileio.list_dir_or_file(
                prefix,
                list_dir=False,
                suffix=suffix,
                recursive=True,
                backend_args=self.backend_args,
            )
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

    def missing_hint(self, missing):
        """Return advice for the error about missing files, or nothing.

        Args:
            missing (list[dict]): The samples whose file is missing.
        """
        return ''
