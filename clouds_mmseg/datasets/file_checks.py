"""What is checked when a dataset is opened for the first time."""

import logging
import os

from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.datasets.data_root import DATA_ROOT_VARIABLE
from clouds_mmseg.datasets.errors import DataError

# How many missing files an error names.
_NAMED = 5


class FileChecks:
    """The checks of :class:`DGDataset`, on the attributes of mmseg's dataset.

    Files are listed folder by folder instead of looked up one by one: on
    network storage that is the difference between seconds and minutes.
    """

    @property
    def _label_folder(self):
        return self.data_prefix.get('seg_map_path')

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
        return DataError(
            f'{type(self).__name__} (domain {self.domain}): {problem}.\n'
            f'Expected files:\n{self._expected_layout()}\n'
            'Put the data there, or set data_root of this dataset, or name '
            "the folder that stands in for 'data' in all data roots: "
            f'--data-root of the tools, or the variable {DATA_ROOT_VARIABLE}.'
        )

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
        prefix = self.data_prefix[key]
        present = {
            os.path.join(prefix, name)
            for name in fileio.list_dir_or_file(
                prefix,
                list_dir=False,
                suffix=suffix,
                recursive=True,
                backend_args=self.backend_args,
            )
        }
        missing = [info for info in infos if info[key] not in present]
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
