"""Base class of all data sets, their pipelines and their concatenation."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.files import (
    FileChecks,
    as_suffixes,
    unique_names,
    without_suffix,
)
from clouds_mmseg.datasets.labels import UNDEFINED, build_label_table
from clouds_mmseg.datasets.prepared import (
    find_manifest,
    prepared_suffix,
    recoded,
)
from clouds_mmseg.datasets.transforms.diffusion_augment import (
    DiffusionAugment,
)
from clouds_mmseg.datasets.transforms.loading import (
    LoadSegImage,
    LoadSegLabels,
)
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE, PALETTE
from clouds_mmseg.utils.data_root import find_beside_data, resolve_data_root
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.images import check_image_range
from clouds_mmseg.utils.options import check_palette, name_list, near_names

# The options of FolderDataset that replace reduce_zero_label.
_REDUCED = 'ids={1: 0, 2: 1, ...}, ignored=[0]'
# Steps that need the fields of a dataset's sample.
_DATASET_STEPS = ('LoadSegLabels', 'LoadAnnotations', 'PackDGInputs')


class DGDataset(FileChecks, BaseSegDataset):
    """A labelled set of images from one domain, in 19 Cityscapes classes.

    Subclasses define where the files are (``PREFIX``, suffixes), the meaning
    of the ids in their label files (``label_ids``, ``ignored_ids``) and the
    name of the domain. All of them have equal metainfo, so that mmengine's
    ``ConcatDataset`` joins them. When it is first opened, the dataset checks
    that the data root exists and that each image has its label file.

    Every ``data_info`` has, besides mmseg's keys, ``domain`` (str),
    ``sample_name`` (str: path below the image folder without extension, under
    which predictions are written, unique in the dataset), ``label_table``
    (uint8: id in the file -> class index) and ``label_channel`` (None for
    label files with one channel).

    A data root written by ``tools/prepare_dataset.py`` is recognised by its
    manifest: its label files hold train ids, and its images may be in another
    format (``--recode``).

    Args:
        domain: Name under which results are reported. Defaults to that of the
            class.
        split: Fills ``{split}`` in the layout. Defaults to that of the class.
        data_root: Root folder. ``data/...`` is moved by the environment
            variable ``CLOUDS_DATA_ROOT``: see :func:`resolve_data_root`.
        img_suffix: Suffix of the image files, or several; case does not
            matter.
        seg_map_suffix: Likewise of labels.
        data_prefix: ``img_path`` and ``seg_map_path`` below the root, instead
            of the class's layout. Without ``seg_map_path`` the images have no
            labels.
        expected: Number of images of the official release; a different number
            is a warning. None: do not compare.
        skip: Images to leave out, or a text file with one per line: paths
            below the image folder or file names, with or without the suffix.
            The file is looked for from the working folder, then below
            ``data_root``.
            What ``tools/verify_dataset.py --fix`` has moved to quarantine is
            left out in any case.
        part: Take a part of the images: a fraction such as ``'1/16'``, or
            their number. They are chosen by a hash of their names, so that
            the same files are chosen on any machine, and a smaller part is
            inside a larger one. Training writes the list to the work dir;
            ``ann_file`` takes a list of your own.
        part_seed: Another seed chooses another part.
        rare_class: Draw rare classes more often in training: arguments of
            :class:`RareClassDataset`, ``dict()`` for its defaults.
            :class:`KeyedDataset` applies it.
        image_range: The values in the image files that become 0 and 255, such
            as ``(0, 4095)`` for 12 bits in 16-bit files or ``(0, 1)`` for
            floating point values. Needed for images that do not use the whole
            range of 8 or 16 bits; see :mod:`clouds_mmseg.utils.images`.
        **kwargs: Arguments of :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        DataError: At the first open, if the root is missing or empty or an
            image has no label.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    DOMAIN: str | None = None
    SPLIT: str | None = None
    PREFIX = dict(img_path='images', seg_map_path='labels')
    IMG_SUFFIX: str | tuple[str, ...] = '.png'
    SEG_MAP_SUFFIX = '.png'
    # None: label files have one channel (grey or palette). 'first': they
    # have several, and the class id is in the first in file order.
    LABEL_CHANNEL: str | None = None
    # Name of the set for tools/prepare_dataset.py. A data root made by it
    # holds train ids, in files named by prepared_suffix().
    PREPARED: str | None = None
    # The protocol named 'clouds' compares these at the size of the network's
    # input instead of the label's own.
    COMPARED_AT_INPUT_SIZE = False

    def __init__(
        self,
        *,
        domain: str | None = None,
        split: str | None = None,
        data_root: str | None = None,
        data_prefix: dict | None = None,
        expected: int | None = None,
        skip: Sequence[str] | str = (),
        part: str | int | None = None,
        part_seed: int = 0,
        rare_class: dict | None = None,
        image_range: Sequence[float] | None = None,
        img_suffix: str | Sequence[str] | None = None,
        seg_map_suffix: str | Sequence[str] | None = None,
        metainfo: dict | None = None,
        reduce_zero_label: bool = False,
        **kwargs: Any,
    ):
        if reduce_zero_label:
            raise UserError(
                f'{type(self).__name__} does not take reduce_zero_label=True: '
                'which id means which class is set by its label table. With '
                'FolderDataset that is '
                f'{_REDUCED}'
            )
        self.domain = domain or self.DOMAIN
        if not self.domain or not isinstance(self.domain, str):
            raise UserError(
                f'{type(self).__name__} needs domain=...: the name under '
                f'which its results are reported, a str; got {self.domain!r}'
            )
        if kwargs.get('ignore_index', IGNORE) != IGNORE:
            raise UserError(
                f'{type(self).__name__} (domain {self.domain}) does not take '
                f'ignore_index={kwargs["ignore_index"]}: what is ignored '
                f'becomes {IGNORE}, whatever id it has in the label files. '
                'FolderDataset(ignored=[...]) says which ids those are'
            )
        if split and not any('{split}' in f for f in self.PREFIX.values()):
            raise UserError(
                f'{type(self).__name__} (domain {self.domain}) does not take '
                f'split={split!r}: its layout has no folder of splits. '
                'data_prefix=dict(img_path=..., seg_map_path=...) names the '
                'folders of one, or ann_file a list of its images'
            )
        self.split = split or self.SPLIT
        self.expected = expected
        if not isinstance(skip, str):
            name_list(skip, 'skip', unique=False)
        elif skip:
            skip = find_beside_data(skip, data_root)
        self.skip = skip
        self.part = check_part(part)
        self.part_seed = part_seed
        self.rare_class = rare_class
        self.image_range = check_image_range(image_range)
        metainfo = self._uniform_metainfo(metainfo)
        data_root = resolve_data_root(data_root)
        suffix = self.SEG_MAP_SUFFIX
        ids, ignored = self.label_ids(metainfo), self.ignored_ids()
        # Explicit folders or suffixes refer to the published files.
        published = data_prefix or seg_map_suffix
        name = None if published else self.PREPARED
        manifest = find_manifest(data_root, name)
        image_suffix = self.IMG_SUFFIX
        if manifest:
            if manifest.recode:
                # The published suffixes may differ in the format alone.
                copies = {
                    recoded(suffix, manifest.recode): None
                    for suffix in as_suffixes(image_suffix)
                }
                image_suffix = next(iter(copies))
                if len(copies) > 1:
                    image_suffix = tuple(copies)
            self.left_out = frozenset(manifest.left_out)
            self.is_prepared = True
            suffix = prepared_suffix(suffix)
            self.LABEL_CHANNEL = None
            ids = DGDataset.label_ids(self, metainfo)
            ignored = DGDataset.ignored_ids(self)
        self.label_table = build_label_table(ids, ignored)
        if data_prefix is None:
            fields = self.layout_fields()
            data_prefix = {
                key: folder.format(**fields)
                for key, folder in self.PREFIX.items()
            }
        super().__init__(
            data_root=data_root,
            data_prefix=data_prefix,
            img_suffix=self._suffix(img_suffix or image_suffix, 'img_suffix'),
            seg_map_suffix=self._suffix(
                seg_map_suffix or suffix, 'seg_map_suffix'
            ),
            metainfo=metainfo,
            **kwargs,
        )

    @classmethod
    def _uniform_metainfo(cls, metainfo):
        """Convert classes and palette to the types of METAINFO.

        Concatenated datasets are compared by metainfo, and a config from a
        file or ``--cfg-options`` has lists instead of tuples.
        """
        if metainfo is None:
            return None
        metainfo = dict(metainfo)
        if 'classes' in metainfo:
            classes = name_list(metainfo['classes'], 'metainfo.classes')
            known = cls.METAINFO.get('classes')
            unknown = [c for c in classes if known and c not in known]
            if unknown:
                raise UserError(
                    f'metainfo.classes of {cls.__name__} has names that it '
                    f'does not know: {", ".join(map(repr, unknown))}'
                    + near_names(unknown, known)
                )
            metainfo['classes'] = tuple(classes)
        if metainfo.get('palette') is not None:
            metainfo['palette'] = check_palette(
                metainfo['palette'],
                metainfo.get('classes') or cls.METAINFO.get('classes', ()),
                'metainfo.palette',
            )
        return metainfo

    @staticmethod
    def _suffix(suffix, option):
        """Check a suffix, or several."""
        ends = [suffix] if isinstance(suffix, str) else suffix
        ends = name_list(ends, option)
        if not ends or not all(ends):
            raise UserError(
                f'{option}={suffix!r} must be what file names end in, such '
                "as '.png', or a list of such ends"
            )
        return suffix if isinstance(suffix, str) else tuple(ends)

    @property
    def has_labels(self) -> bool:
        """Whether the samples have labels."""
        return bool(self.data_prefix.get('seg_map_path'))

    def layout_fields(self) -> dict[str, str | None]:
        """Return the values of the placeholders in ``PREFIX``."""
        return dict(split=self.split)

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return id in the label file -> index in the 19 classes.

        The default is for files that hold train ids already.

        Args:
            metainfo: As given to the constructor.
        """
        return {index: index for index in range(len(CLASSES))}

    def ignored_ids(self) -> Iterable[int]:
        """Return the further ids that label files may hold."""
        return (IGNORE,)

    def get_data_info(self, idx: int) -> dict:
        """Return the paths of a sample, its domain and its label table.

        The table is added here and not in ``load_data_list``, which would
        store a copy of it for every sample.
        """
        info = super().get_data_info(idx)
        info['label_table'] = self.class_table()
        info['label_channel'] = self.LABEL_CHANNEL
        if self.image_range is not None:
            info['image_range'] = self.image_range
        return info

    def class_table(self) -> np.ndarray:
        """Return the label table of the classes that are selected.

        Returns:
            uint8, ``label_table`` unless ``metainfo`` selects some of the
            classes only.
        """
        if not self.label_map:
            return self.label_table
        subset = self.label_table.copy()
        for old, new in self.label_map.items():
            subset[self.label_table == old] = new
        return subset

    def load_data_list(self) -> list[dict]:
        """List the samples and check that their files exist.

        Returns:
            See :class:`mmseg.datasets.BaseSegDataset`; ``domain`` is added.

        Raises:
            DataError: See the class.
        """
        check_pipeline(self)
        samples = self.all_samples()
        self._check_count(len(samples))
        infos = self.without_skipped(samples)
        if not infos:
            raise self.data_error('skip names every image')
        self.check_samples(samples, infos)
        infos = self._part_of(infos)
        self._listed = None
        folder = self.data_prefix['img_path']
        names = unique_names(
            [os.path.relpath(info['img_path'], folder) for info in infos]
        )
        for info, name in zip(infos, names, strict=True):
            info['domain'] = self.domain
            info['sample_name'] = name
        for step in steps_of(self.pipeline):
            if isinstance(step, DiffusionAugment):
                step.require_variants(
                    [info['img_path'] for info in infos],
                    f'{type(self).__name__} (domain {self.domain})',
                )
        return infos

    def _part_of(self, infos):
        """Return the samples of ``part``, in their order."""
        if self.part is None:
            return infos
        number = self.part
        if isinstance(number, Fraction):
            number = max(1, round(len(infos) * number))
        if number > len(infos):
            raise self.data_error(
                f'part={number} asks for more images than the {len(infos)} '
                'that there are'
            )
        ranks = {
            id(info): hash_text(self.part_seed, self.list_name(info))
            for info in infos
        }
        chosen = {
            id(i) for i in sorted(infos, key=lambda i: ranks[id(i)])[:number]
        }
        print_log(
            f'{type(self).__name__} (domain {self.domain}): {number} of '
            f'{len(infos)} images are a part, part_seed={self.part_seed}',
            logger='current',
        )
        return [info for info in infos if id(info) in chosen]

    def list_name(self, info: dict) -> str:
        """Return the name of a sample in a list of images (``ann_file``).

        Args:
            info: Of :meth:`get_data_info`.

        Returns:
            Its path below the image folder, with ``/`` and without suffix.
        """
        folder = self.data_prefix['img_path']
        below = os.path.relpath(info['img_path'], folder)
        stem = without_suffix(below, self.img_suffix) or below
        return stem.replace(os.sep, '/')


def check_part(part: str | int | None) -> Fraction | int | None:
    """Return a part of a dataset as a fraction, or a number of images.

    Raises:
        UserError: It is neither.
    """
    if part is None:
        return None
    number: Fraction | int | None = None
    if isinstance(part, (str, float)) and not isinstance(part, bool):
        with contextlib.suppress(ValueError, ZeroDivisionError):
            number = Fraction(part).limit_denominator(10**6)
        if number is not None and not 0 < number <= 1:
            number = None
    elif isinstance(part, int) and not isinstance(part, bool) and part > 0:
        number = part
    if number is None:
        raise UserError(
            "part must be a fraction of the images such as '1/16', or their "
            f'number, got {part!r}'
        )
    return number


def steps_of(pipeline: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline, nested ones included.

    Args:
        pipeline: A step, a list of steps or a ``Compose``.
    """
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from steps_of(step)
        return
    yield pipeline
    # RandomApply, RandomChoice, TransformBroadcaster; TestTimeAug.
    for name in ('transforms', 'subroutines'):
        yield from steps_of(list(getattr(pipeline, name, None) or []))


def check_pipeline(dataset: BaseDataset) -> None:
    """Refuse a pipeline that would ignore settings of its dataset.

    Args:
        dataset: With its pipeline built.

    Raises:
        UserError: Labels are read by a step that does not apply the label
            table, or that fails without label files.
    """
    steps = list(steps_of(dataset.pipeline))
    who = f'{type(dataset).__name__} (domain {dataset.domain})'
    for step in steps:
        # LoadSegLabels accepts samples without label: a test predicts them.
        if isinstance(step, LoadSegLabels) or not isinstance(
            step, LoadAnnotations
        ):
            continue
        if not dataset.has_labels:
            raise UserError(
                f'{who}: its pipeline reads labels by {type(step).__name__}, '
                'and the dataset has none: give '
                "data_prefix=dict(img_path=..., seg_map_path='...'), or leave "
                'the step out'
            )
        lost = _lost_settings(dataset, step)
        if lost:
            raise UserError(
                f'{who}: its pipeline reads labels by {type(step).__name__}, '
                f'which takes the ids in the files as they are: {lost} would '
                "not be applied. Put dict(type='LoadSegLabels') in its place"
            )
    if any(
        isinstance(step, LoadImageFromFile)
        and not isinstance(step, (LoadSegImage, LoadAnnotations))
        for step in steps
    ):
        print_log(
            f'{who}: its pipeline reads images by LoadImageFromFile, which '
            'does not notice a file that breaks off; '
            "dict(type='LoadSegImage') does",
            logger='current',
            level=logging.WARNING,
        )


def _lost_settings(dataset: BaseDataset, step: LoadAnnotations) -> str:
    """Name the settings that mmseg's reading of labels would ignore."""
    if getattr(step, 'reduce_zero_label', None):
        return 'the table of ids (and reduce_zero_label=True shifts it)'
    if dataset.LABEL_CHANNEL is not None:
        return 'label_channel'
    table = dataset.class_table()
    number = len(dataset.metainfo['classes'])
    same = np.arange(256)
    same[number:IGNORE] = UNDEFINED
    wrong = np.flatnonzero(table != same)
    if not len(wrong):
        return ''
    # Only LoadSegLabels makes an undefined id an error.
    first = int(wrong[0])
    return (
        'its table of ids (names, label_map, ids, ignored; for example the '
        f'id {first}, which means {_meaning(dataset, int(table[first]))})'
    )


def _meaning(dataset: BaseDataset, index: int) -> str:
    if index == IGNORE:
        return '"ignored"'
    if index == UNDEFINED:
        return 'nothing'
    return repr(dataset.metainfo['classes'][index])


@DATASETS.register_module(name='ConcatDataset')
class DGConcatDataset(ConcatDataset):
    """mmengine's ``ConcatDataset``, with the pipeline of a single image.

    MMSegmentation's ``MMSegInferencer`` looks it up at
    ``test_dataloader.dataset.pipeline``, where a concatenation has none.

    Args:
        datasets: Each reads its samples with its own pipeline.
        pipeline: For images that do not belong to a dataset: begins with
            ``LoadImageFromFile`` and reads no labels. The datasets do not use
            it.
        **kwargs: As for mmengine's ``ConcatDataset``.

    Raises:
        UserError: ``pipeline`` has a step that needs a dataset: it was meant
            for the datasets.
    """

    def __init__(
        self,
        datasets: Sequence[dict | BaseDataset] = (),
        pipeline: Sequence[dict] | None = None,
        **kwargs: Any,
    ):
        wrong = [
            step['type']
            for step in pipeline or ()
            if step['type'] in _DATASET_STEPS
        ]
        if wrong:
            raise UserError(
                f'pipeline of a ConcatDataset has {wrong[0]}, but it is for '
                'single images without labels and no dataset uses it; give '
                'the pipeline to each of its datasets'
            )
        if not datasets:
            raise UserError(
                'a ConcatDataset of the config has no datasets; give '
                'datasets=[dict(type=...), ...]'
            )
        super().__init__(datasets, **kwargs)
