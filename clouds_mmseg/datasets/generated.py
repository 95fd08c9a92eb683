"""Dataset of generated images, with or without labels."""

import hashlib
import logging
import os.path as osp
from typing import Any

from mmengine import fileio
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset, check_pipeline, steps_of
from clouds_mmseg.datasets.transforms.loading import (
    LoadSegImage,
    LoadSegLabels,
)
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.image_set import (
    BankError,
    filter_classes,
    read_bank,
    read_entries,
    sha256_of,
    used_entries,
    warn_of_copies,
)
from clouds_mmseg.utils.packed_set import SetFiles
from clouds_mmseg.utils.remote import is_address

_NAMED = 5


@DATASETS.register_module()
class GeneratedDataset(DGDataset):
    """A generated image set ("image bank") of ``tools/generate_images.py``.

    Samples have no label: they get pseudo-labels from the teacher of
    self-training. With ``labels=True`` they have those of a set that was made
    from label maps (``--mode label2img``), and are samples like those of any
    labelled set. Their metainfo equals that of the labelled datasets, so that
    ``ConcatDataset`` joins them. When it is first opened, the dataset reads
    the manifest and checks every file. What ``tools/filter_images.py`` has
    left out is not listed.

    Args:
        bank: Folder of the image set, or its address, such as
            ``s3://bucket/bank``; of a set that ``clouds pack`` has packed,
            too. ``data/...`` is moved by the environment variable
            ``CLOUDS_DATA_ROOT``.
        metainfo: Classes and palette of the source, where they are not the 19
            of Cityscapes.
        size: Width and height that every image must have. Defaults to any.
        verify_hash: Whether to compare each file with its hash: those of a
            folder at the first open, which reads all of them at about 1 GB/s;
            those of a packed set or at an address each time that the
            pipeline's ``LoadSegImage`` or ``LoadSegLabels`` reads one.
            Existence and file size are compared at the first open in any case.
        labels: Whether to return the label maps that the images were made
            from, for training.
        evaluation_labels: Whether to return the labels of an image set made
            with ``--keep-labels``, for measuring pseudo-labels. Not used in
            training.
        use_filter: Whether to leave out what a filter has left out: images,
            and pixels of their labels. By default in training and not in test
            mode, where it would make results look better.
        **kwargs: See :class:`DGDataset`.

    Attributes:
        least_size (tuple[int, int] | None): Smallest width and smallest height
            of the images, once the dataset is open.

    Raises:
        DataError: At the first open, if there is no image set, it is empty, or
            its files are missing, damaged or of another size.
    """

    # Empty: any classes of a user's source are allowed.
    METAINFO = dict()
    DOMAIN = 'generated'

    def __init__(
        self,
        *,
        bank: str,
        metainfo: dict | None = None,
        size: tuple[int, int] | None = None,
        verify_hash: bool = True,
        labels: bool = False,
        evaluation_labels: bool = False,
        use_filter: bool | None = None,
        **kwargs: Any,
    ):
        if labels and evaluation_labels:
            raise UserError(
                'GeneratedDataset takes labels=True, to train on them, or '
                'evaluation_labels=True, not both'
            )
        for name in ('data_root', 'data_prefix', 'ann_file', 'part'):
            if name in kwargs:
                raise UserError(
                    f'GeneratedDataset takes bank=..., not {name}=...: the '
                    'manifest of the image bank lists its files'
                )
        self.bank = resolve_data_root(bank)
        self._stored: SetFiles | None = None
        self._compare: tuple[type, ...] = ()
        self.size = tuple(size) if size is not None else None
        self.least_size: tuple | None = None
        self.verify_hash = verify_hash
        self.labels = labels
        self.evaluation_labels = evaluation_labels
        self.use_filter = use_filter
        if use_filter is None:
            self.use_filter = not kwargs.get('test_mode', False)
        super().__init__(
            data_root=None,
            data_prefix=dict(),
            metainfo=metainfo or DGDataset.METAINFO,
            **kwargs,
        )

    @property
    def has_labels(self) -> bool:
        """Whether labels are returned."""
        return self.labels or self.evaluation_labels

    def load_data_list(self) -> list[dict]:
        """List the images of the set and check their files.

        Returns:
            ``img_path``, ``domain``, ``sample_name``, ``prompt`` (str),
            ``label_map``, ``reduce_zero_label``, ``seg_fields``; with
            labels also ``seg_map_path``; where hashes are compared as files
            are read, ``img_sha256`` and ``seg_map_sha256``.

        Raises:
            DataError: See the class.
        """
        check_pipeline(self)
        try:
            return self._load()
        except BankError as error:
            raise DataError(f'{self._who()}: {error}') from error

    def _load(self):
        num_requested = read_bank(self.bank)['num']
        self._stored = SetFiles(self.bank)
        self._compare = self._steps_that_compare()
        every = list(read_entries(self.bank).values())
        entries = every
        if self.use_filter:
            entries = used_entries(self.bank, every)
        self._check_filter(entries)
        if not every:
            raise DataError(
                f'{self._who()}: the image bank {self.bank} is empty. Run the '
                'clouds generate command that began it.'
            )
        if not entries:
            raise DataError(
                f'{self._who()}: the filter leaves out all {len(every)} '
                f'images of the image bank {self.bank}. Filter it with other '
                f'limits, or undo that: clouds filter {self.bank} --undo'
            )
        self._check(entries)
        self.least_size = tuple(
            min(entry[side] for entry in entries)
            for side in ('width', 'height')
        )
        warn_of_copies(self.bank, entries)
        if len(every) < num_requested:
            print_log(
                f'{self._who()}: the image bank {self.bank} has '
                f'{len(every)} of {num_requested} images. The command '
                'that began it makes the rest.',
                logger='current',
                level=logging.WARNING,
            )
        infos = [self._info(entry) for entry in entries]
        # Not sent to the workers of a data loader.
        self._stored = None
        return infos

    def _who(self):
        return f'{type(self).__name__} (domain {self.domain})'

    def _steps_that_compare(self):
        """Return which classes of steps compare the hashes of their files.

        For a folder there are none: its files are read when it is opened. Of
        a large set in a store that would take hours.
        """
        if not self.verify_hash or not (
            self._stored.packed or is_address(self.bank)
        ):
            return ()
        steps = list(steps_of(self.pipeline))
        return tuple(
            kind
            for kind in (LoadSegImage, LoadSegLabels)
            if any(isinstance(step, kind) for step in steps)
        )

    def _info(self, entry):
        info = dict(
            img_path=self._stored.path(entry['file']),
            domain=self.domain,
            sample_name=osp.splitext(entry['file'])[0],
            prompt=entry['prompt'],
            label_map=self.label_map,
            reduce_zero_label=False,
            seg_fields=[],
        )
        label = self._label(entry) if self.has_labels else None
        if label is not None:
            info['seg_map_path'] = self._stored.path(label)
        if LoadSegImage in self._compare:
            info['img_sha256'] = entry['sha256']
        # Labels of a filter, and those for evaluation, have no hash.
        own = label is not None and label == entry.get('label')
        if LoadSegLabels in self._compare and own:
            info['seg_map_sha256'] = entry['label_sha256']
        return info

    def _label(self, entry):
        """Return the file of the label of an entry; None without label."""
        label = entry.get('label' if self.labels else 'evaluation_label')
        if self.use_filter and label is not None:
            return entry.get('filter', {}).get('label', label)
        return label

    def _check_filter(self, entries):
        """Refuse filtered labels of other classes."""
        if not self.has_labels or not self.use_filter:
            return
        if not any('label' in e.get('filter', {}) for e in entries):
            return
        self._refuse(
            [
                entry
                for entry in entries
                if 'label' in entry.get('filter', {})
                and self._stored.size(self._label(entry)) is None
            ],
            'have lost their filtered label',
            f'Filter it again, after clouds filter {self.bank} --undo',
        )
        theirs = filter_classes(self.bank)
        own = list(self.metainfo['classes'])
        if theirs is not None and theirs != own:
            raise DataError(
                f'{self._who()}: the filtered labels of the image bank '
                f'{self.bank} have the classes {", ".join(theirs)}, the '
                f'dataset has {", ".join(own)}. Filter it with a model of '
                'these classes.'
            )

    def _check(self, entries):
        if self.has_labels:
            kind, option = (
                ('', '--mode label2img')
                if self.labels
                else (' for evaluation', '--keep-labels')
            )
            self._refuse(
                [e for e in entries if not self._has_label(e)],
                f'have no label{kind}',
                f'Make the image bank with {option}',
            )
        if self.size is not None:
            self._refuse(
                [e for e in entries if (e['width'], e['height']) != self.size],
                f'are not {self.size[0]}x{self.size[1]} (width x height)',
                'Make an image bank with --size '
                f'{self.size[0]}x{self.size[1]}, or change size=... of the '
                'dataset',
                lambda e: f'{e["width"]}x{e["height"]}',
            )
        states = [(entry, self._state(entry)) for entry in entries]
        self._refuse(
            [entry for entry, state in states if state],
            'are missing or damaged',
            'The command that made the image bank makes them again, if it is '
            'given --verify',
            lambda e: next(state for entry, state in states if entry is e),
        )

    def _has_label(self, entry):
        label = self._label(entry)
        return label is not None and self._stored.size(label) is not None

    def _state(self, entry):
        """Return the problem of an entry's file, or None."""
        size = self._stored.size(entry['file'])
        if size is None:
            return 'missing'
        if size != entry['bytes']:
            return f'has {size} bytes, the manifest says {entry["bytes"]}'
        if not self.verify_hash:
            return None
        if LoadSegImage not in self._compare:
            if self._hash(entry['file']) != entry['sha256']:
                return 'its hash differs from the manifest'
        if self.labels and LoadSegLabels not in self._compare:
            if self._hash(entry['label']) != entry['label_sha256']:
                return f'the hash of {entry["label"]} differs from it'
        return None

    def _hash(self, name):
        path = self._stored.path(name)
        if '://' in path:
            return hashlib.sha256(fileio.get(path)).hexdigest()
        return sha256_of(path)

    def _refuse(self, entries, what, advice, detail=lambda entry: ''):
        if not entries:
            return
        lines = []
        for entry in entries[:_NAMED]:
            more = detail(entry)
            lines.append(f'  {entry["file"]}' + (f': {more}' if more else ''))
        if len(entries) > _NAMED:
            lines.append(f'  and {len(entries) - _NAMED} more')
        raise DataError(
            f'{self._who()}: {len(entries)} images of the image bank '
            f'{self.bank} {what}:\n' + '\n'.join(lines) + f'\n{advice}.'
        )
