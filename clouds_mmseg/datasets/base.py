"""What all datasets of a domain-generalisation benchmark have in common."""

import logging
import os
from pathlib import Path

from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.label_table import build_label_table
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE, PALETTE

DATA_ROOT_VARIABLE = 'CLOUDS_DATA_ROOT'
_NAMED = 5


def resolve_data_root(data_root):
    """Apply the environment variable that moves all data roots at once.

    Args:
        data_root (str | None): As in a config, for example ``data/gta5``.

    Returns:
        str | None: With ``CLOUDS_DATA_ROOT=/disk`` set, ``data/gta5`` becomes
        ``/disk/gta5``. Other roots are returned as they are.
    """
    moved = os.environ.get(DATA_ROOT_VARIABLE)
    if not moved or data_root is None:
        return data_root
    parts = Path(data_root).parts
    if not parts or parts[0] != 'data':
        return data_root
    return str(Path(moved).expanduser().joinpath(*parts[1:]))


class DGDataset(BaseSegDataset):
    """A labelled set of images from one domain, in 19 Cityscapes classes.

    Subclasses say where the files lie (``PREFIX``, suffixes), what the ids in
    their label files mean (``label_ids``, ``ignored_ids``) and what the
    domain is called. All of them have equal metainfo, so that mmengine's
    ``ConcatDataset`` joins them. The first open checks that the data root is
    there and that each image has its label file.

    Every ``data_info`` has, besides mmseg's keys, ``domain`` (str),
    ``label_table`` ((256,) uint8: id in the file -> class index) and
    ``label_channel`` (None for label files with one channel).

    Args:
        domain (str, optional): Name under which results are reported.
            Defaults to the class's.
        split (str, optional): Fills ``{split}`` in the layout. Defaults to
            the class's.
        data_root (str, optional): Root folder. ``data/...`` is moved by the
            environment variable ``CLOUDS_DATA_ROOT``: see
            :func:`resolve_data_root`.
        data_prefix (dict, optional): ``img_path`` and ``seg_map_path`` below
            the root, instead of the class's layout. Without
            ``seg_map_path`` the images have no labels.
        expected (int, optional): Number of images of the official release; a
            different number is a warning. None: do not compare.
        skip (Sequence[str] | str): Images to leave out, or a text file with
            one per line: paths below the image folder or file names, with or
            without the suffix.
        **kwargs: Arguments of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        DataError: At the first open, if the root is missing or empty or an
            image has no label.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    DOMAIN = None
    SPLIT = None
    PREFIX = dict(img_path='images', seg_map_path='labels')
    IMG_SUFFIX = '.png'
    SEG_MAP_SUFFIX = '.png'
    # None: label files have one channel (grey or palette). 'first': they
    # have several, and the class id is in the first one in file order.
    LABEL_CHANNEL = None
    # The protocol named 'clouds' compares these at the size of the network's
    # input instead of the label's own.
    COMPARED_AT_INPUT_SIZE = False

    def __init__(
        self,
        *,
        domain=None,
        split=None,
        data_root=None,
        data_prefix=None,
        expected=None,
        skip=(),
        img_suffix=None,
        seg_map_suffix=None,
        metainfo=None,
        reduce_zero_label=False,
        **kwargs,
    ):
        if reduce_zero_label:
            raise ValueError(
                f'{type(self).__name__} does not take reduce_zero_label=True: '
                'which id means which class is set by its label table'
            )
        self.domain = domain or self.DOMAIN
        if not self.domain:
            raise ValueError(
                f'{type(self).__name__} needs domain=...: the name under '
                'which its results are reported'
            )
        self.split = split or self.SPLIT
        self.expected = expected
        self.skip = skip
        if data_prefix is None:
            fields = self.layout_fields()
            data_prefix = {
                key: folder.format(**fields)
                for key, folder in self.PREFIX.items()
            }
        metainfo = self._uniform_metainfo(metainfo)
        self.label_table = build_label_table(
            self.label_ids(metainfo), self.ignored_ids()
        )
        super().__init__(
            data_root=resolve_data_root(data_root),
            data_prefix=data_prefix,
            img_suffix=img_suffix or self.IMG_SUFFIX,
            seg_map_suffix=seg_map_suffix or self.SEG_MAP_SUFFIX,
            metainfo=metainfo,
            **kwargs,
        )

    @staticmethod
    def _uniform_metainfo(metainfo):
        """Give classes and palette the types of METAINFO: they are compared.

        A config that went through a file or ``--cfg-options`` has lists where
        it had tuples.
        """
        if metainfo is None:
            return None
        metainfo = dict(metainfo)
        if 'classes' in metainfo:
            metainfo['classes'] = tuple(metainfo['classes'])
        if 'palette' in metainfo:
            metainfo['palette'] = [list(rgb) for rgb in metainfo['palette']]
        return metainfo

    def layout_fields(self):
        """Return the values of the braces in ``PREFIX``."""
        return dict(split=self.split)

    def label_ids(self, metainfo):
        """Return id in the label file -> index in the 19 classes.

        The default is for files that hold train ids already.

        Args:
            metainfo (dict, optional): As given to the constructor.
        """
        return {index: index for index in range(len(CLASSES))}

    def ignored_ids(self):
        """Return the further ids that label files may hold."""
        return (IGNORE,)

    def get_data_info(self, idx):
        """Return the paths of a sample, its domain and how to read its label.

        The table is added here and not in ``load_data_list``, which would
        store a copy of it for every sample.
        """
        info = super().get_data_info(idx)
        table = self.label_table
        if self.label_map:
            # Only a subset of the classes is asked for.
            subset = table.copy()
            for old, new in self.label_map.items():
                subset[table == old] = new
            table = subset
        info['label_table'] = table
        info['label_channel'] = self.LABEL_CHANNEL
        return info

    def load_data_list(self):
        """List the samples and check that their files exist.

        Returns:
            list[dict]: See :class:`mmseg.datasets.BaseSegDataset`; ``domain``
            is added.

        Raises:
            DataError: See the class.
        """
        self._check_folders()
        infos = super().load_data_list()
        if not infos:
            raise self._error(
                f'found no image *{self.img_suffix} in '
                f'{self.data_prefix["img_path"]}'
            )
        self._check_count(len(infos))
        infos = self._without_skipped(infos)
        if self.ann_file:
            self._check_files(infos, 'img_path', 'image', self.img_suffix)
        if self._label_folder:
            self._check_files(
                infos, 'seg_map_path', 'label', self.seg_map_suffix
            )
        for info in infos:
            info['domain'] = self.domain
        return infos

    @property
    def _label_folder(self):
        return self.data_prefix.get('seg_map_path')

    def _expected_layout(self):
        lines = [f'  {self.data_prefix["img_path"]}/**/*{self.img_suffix}']
        if self._label_folder:
            lines.append(f'  {self._label_folder}/**/*{self.seg_map_suffix}')
        return '\n'.join(lines)

    def _error(self, problem):
        return DataError(
            f'{type(self).__name__} (domain {self.domain}): {problem}.\n'
            f'Expected files:\n{self._expected_layout()}\n'
            'Put the data there, or set data_root of this dataset, or set '
            f'the environment variable {DATA_ROOT_VARIABLE} to the folder '
            "that stands in for 'data' in all data roots."
        )

    def _check_folders(self):
        folders = [('data root', self.data_root)] if self.data_root else []
        folders.append(('image folder', self.data_prefix['img_path']))
        if self._label_folder:
            folders.append(('label folder', self._label_folder))
        for name, folder in folders:
            if not fileio.isdir(folder, backend_args=self.backend_args):
                raise self._error(
                    f'the {name} {folder} does not exist (from {os.getcwd()})'
                )
        if self.ann_file and not fileio.isfile(
            self.ann_file, backend_args=self.backend_args
        ):
            raise self._error(f'ann_file {self.ann_file} does not exist')

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

    def _without_skipped(self, infos):
        skip = self.skip
        if isinstance(skip, str):
            if not fileio.isfile(skip):
                raise self._error(f'the skip list {skip} does not exist')
            skip = fileio.get_text(skip).split('\n')
        skip = {line.strip() for line in skip} - {''}
        if not skip:
            return infos

        def names(info):
            below = os.path.relpath(
                info['img_path'], self.data_prefix['img_path']
            )
            for name in (below, os.path.basename(below)):
                yield name
                yield name.removesuffix(self.img_suffix)

        kept = [info for info in infos if skip.isdisjoint(names(info))]
        print_log(
            f'{type(self).__name__} (domain {self.domain}): skipped '
            f'{len(infos) - len(kept)} images ({len(skip)} are named in skip)',
            logger='current',
        )
        if not kept:
            raise self._error('skip names every image')
        return kept

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
            raise self._error(
                f'{len(missing)} of {len(infos)} images lack their {kind} '
                'file:\n' + '\n'.join(lines) + self.missing_hint(missing)
            )

    def missing_hint(self, missing):
        """Return advice for the error about missing files, or nothing.

        Args:
            missing (list[dict]): The samples whose file is missing.
        """
        return ''
