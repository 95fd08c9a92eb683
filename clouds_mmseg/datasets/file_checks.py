"""What is checked when a dataset is opened for the first time."""

import logging
import os
from collections import Counter

from mmengine.logging import print_log

from clouds_mmseg.datasets.file_listing import FileListing
from clouds_mmseg.datasets.pairing import as_suffixes
from clouds_mmseg.datasets.prepare.manifest import MANIFEST
from clouds_mmseg.datasets.skip_list import (
    QUARANTINE,
    SKIP_FILE,
    matching_names,
    read_skip_list,
    set_aside,
)

# How many missing files an error names.
_NAMED = 5
# What folders of splits are called.
_SPLITS = dict(
    train=('train', 'training'),
    val=('val', 'validation', 'valid'),
    test=('test', 'testing'),
)


class FileChecks(FileListing):
    """The checks of :class:`DGDataset`: skipped, missing and odd files."""

    def without_skipped(self, infos):
        """Leave out what ``skip`` and the list of moved files name.

        Args:
            infos (list[dict]): From :meth:`all_samples`.

        Returns:
            list[dict]: The others.
        """
        kept = self._kept(infos, read_skip_list(self.skip))
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

    def _kept(self, infos, names):
        """Leave out the images that ``skip`` names; say what it misses."""
        if not names:
            return infos
        kept, found = [], Counter()
        for info in infos:
            mine = self.names_of(info['img_path'], names)
            found.update(mine)
            if not mine:
                kept.append(info)
        self._say_skipped(len(infos) - len(kept), f'skip names {len(names)}')
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
        """Names of images that preparation or verification took away."""
        root = self.files_root
        known = set()
        for path in set_aside(root) | self.left_out:
            known |= self.names_of(os.path.join(root, path), names)
        return known

    def names_of(self, image, names):
        """Find the entries of a skip list that name an image.

        Args:
            image (str): Path of the image.
            names (set[str]): From :func:`read_skip_list`. Lists name images
                as published, also where they were recoded.

        Returns:
            set[str]: Some of ``names``; empty if the image is not to be left
            out.
        """
        folder = self.data_prefix['img_path']
        ends = (*as_suffixes(self.img_suffix), *as_suffixes(self.IMG_SUFFIX))
        return matching_names(os.path.relpath(image, folder), ends, names)

    def _say_skipped(self, number, why):
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

    def missing_hint(self, missing):
        """Return advice for the error about missing files, or nothing.

        Args:
            missing (list[dict]): The samples whose file is missing.
        """
        return ''

    def check_samples(self, samples, infos):
        """Check everything that names of files tell, when the set is opened.

        Args:
            samples (list[dict]): From :meth:`all_samples`.
            infos (list[dict]): Those of them that are used.

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
            self._tell_orphans(samples)
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
        mine = [
            i[key] for i in infos if os.path.relpath(i[key], folder) in broken
        ]
        if mine:
            raise self.data_error(
                f'{len(mine)} files are links to files that do not exist, '
                f'for example {mine[0]}'
            )

    def _tell_orphans(self, samples):
        if self.ann_file:
            return
        self.missing_files(samples, 'seg_map_path', self.seg_map_suffix)
        root = self.files_root
        aside = {os.path.join(root, path) for path in set_aside(root)}
        quarantine = os.path.join(root, QUARANTINE, '')
        orphans = sorted(
            path
            for path in self.label_orphans(samples) - aside
            if not path.startswith(quarantine)
        )
        if orphans:
            self._warn(
                f'{len(orphans)} labels have no image, for example '
                f'{orphans[0]}: are images missing?'
            )

    def _compare_splits(self):
        """Tell images of one split with labels of another."""
        words = [
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
        if None not in words and words[0] != words[1]:
            self._warn(
                f'the images are those of {self.data_prefix["img_path"]}, '
                f'the labels those of {self._label_folder}: is that meant?'
            )
