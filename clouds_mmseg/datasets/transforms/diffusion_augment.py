"""Replacement of images: restyled variants, or another folder."""

import logging
import os
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmengine import fileio
from mmengine.logging import print_log
from mmseg.registry import TRANSFORMS

from clouds_mmseg.datasets.labels import UNDEFINED
from clouds_mmseg.datasets.transforms.loading import (
    LoadSegImage,
    LoadSegLabels,
)
from clouds_mmseg.utils.cityscapes import IGNORE
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.image_set import (
    BankError,
    read_bank,
    read_entries,
    used_entries,
)
from clouds_mmseg.utils.images import ImageFileError, decode_ids
from clouds_mmseg.utils.packed_set import SetFiles


@TRANSFORMS.register_module()
class TakeImageFrom(BaseTransform):
    """Redirect the path of an image to another folder.

    Placed before ``LoadSegImage``.

    Args:
        source: Folder of the data set's images.
        folder: Folder, or address, with the same tree of PNG files.
    """

    def __init__(self, source: str, folder: str):
        self.source = source
        self.folder = folder

    def transform(self, results: dict) -> dict:
        """Replace ``img_path``."""
        below = os.path.relpath(results['img_path'], self.source)
        path = os.path.join(self.folder, below)
        results['img_path'] = os.path.splitext(path)[0] + '.png'
        # The range of the original files does not apply.
        results.pop('image_range', None)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(source={self.source!r}, '
            f'folder={self.folder!r})'
        )


def _indices_of(table):
    """Return the table of label files that hold class indices.

    Args:
        table: Id in the source's label files -> class index; None: unknown,
            all indices are allowed.
    """
    indices = np.full(256, UNDEFINED, np.uint8)
    known = np.arange(255) if table is None else np.unique(table)
    indices[known] = known
    indices[IGNORE] = IGNORE
    return indices


@TRANSFORMS.register_module()
class DiffusionAugment(BaseTransform):
    """Replace a labelled image by a generated variant with some probability.

    The variants are a generated image set ("image bank"), made beforehand by
    ``tools/generate_images.py``. With ``--mode img2img`` or ``edit`` a variant
    shows the same scene in another weather or light, so that the label remains
    valid. With ``--mode label2img`` it shows another scene of the same label
    map, and brings its label along, in which borders may be ignored. The step
    is placed directly after the loading of image and label.

    Variants that ``tools/filter_images.py`` has left out are not used, and
    pixels that it has left out become 255 in the label.

    Required keys: ``img``, ``img_path``. Modified keys: ``img``, and
    ``gt_seg_map`` where the variant has a label or is filtered. Added key:
    ``variant_path``, of a replaced image.

    Args:
        bank: Folder of the image set, which may be packed, or its address.
            ``data/...`` is moved by the environment variable
            ``CLOUDS_DATA_ROOT``.
        prob: Probability that an image is replaced, in [0, 1].
        source_root: Folder that the source files of the manifest are relative
            to. Defaults to the folder that the set was made from; needed if
            that is elsewhere on this machine.
        use_filter: Whether to leave out what a filter has left out.

    Raises:
        UserError: ``prob`` is out of its range.
        DataError: There is no image set, or it was not made from images;
            when a dataset is opened, if it was made from none of its images.
    """

    def __init__(
        self,
        bank: str,
        prob: float = 0.5,
        source_root: str | None = None,
        use_filter: bool = True,
    ):
        if not 0 <= prob <= 1:
            raise UserError(f'prob must lie in [0, 1], got {prob}')
        self.bank = resolve_data_root(bank)
        self.prob = prob
        self.use_filter = use_filter
        self.source_root, self.variants = self._read(source_root)
        self._load = LoadSegImage()
        self._load_label = LoadSegLabels()
        # Counts of this process; each worker of a data loader has its own.
        self.drawn = 0
        self.without_variant = 0

    def _read(self, source_root):
        try:
            recipe = read_bank(self.bank)
            entries = (
                used_entries(self.bank)
                if self.use_filter
                else read_entries(self.bank).values()
            )
            variants = self._find_variants(entries)
        except BankError as error:
            raise DataError(f'DiffusionAugment: {error}') from error
        if not variants and any(
            entry.get('source') is not None
            for entry in read_entries(self.bank).values()
        ):
            raise DataError(
                'DiffusionAugment: the filter leaves out all images of the '
                f'image bank {self.bank}. Filter it with other limits, or '
                f'undo that: clouds filter {self.bank} --undo'
            )
        if not variants:
            raise DataError(
                f'DiffusionAugment: the image bank {self.bank} holds no '
                'images made from others. Make it with: clouds generate '
                f'--mode img2img --source IMAGES --out {self.bank} ...'
            )
        root = source_root or recipe['info'].get('source_root')
        root = resolve_data_root(root)
        if not os.path.isdir(root):
            raise DataError(
                f'DiffusionAugment: {root}, the folder of the images that '
                f'the image bank {self.bank} was made from, does not exist. '
                'Set source_root=... to its present path'
            )
        return os.path.realpath(root), variants

    def require_variants(self, paths: Sequence[str], who: str) -> None:
        """Refuse a set that was made from other images than a dataset's.

        Args:
            paths: Of the images of the dataset.
            who: The dataset, for the message.

        Raises:
            DataError: None of them has a variant.
        """
        # The first one has, as a rule.
        if not self.prob or any(map(self._variants_of, paths)):
            return
        raise DataError(
            f'{who}: none of its {len(paths)} images has a variant in the '
            f'image bank {self.bank}, which was made from those below '
            f'{self.source_root}; the first image is {paths[0]}. Make a bank '
            'from the images of the dataset: clouds generate --mode img2img '
            '--source IMAGES --out ANOTHER ...; or, if they are the same, set '
            'source_root=... of DiffusionAugment to their folder'
        )

    def _variants_of(self, path):
        below = os.path.relpath(os.path.realpath(path), self.source_root)
        return self.variants.get(below.replace(os.sep, '/'), ())

    def _find_variants(self, entries):
        """Return source -> paths of image, label, filtered label of each."""
        files, variants = SetFiles(self.bank), {}
        for entry in entries:
            if entry.get('source') is None:
                continue
            names = [entry['file'], entry.get('label'), None]
            if self.use_filter:
                names[2] = entry.get('filter', {}).get('label')
            paths = tuple(n if n is None else files.path(n) for n in names)
            variants.setdefault(entry['source'], []).append(paths)
        return variants

    @cache_randomness
    def _draw_variant(self, number):
        """Draw the index of a variant; None keeps the image."""
        # Two draws in any case, so that the random numbers of the following
        # transforms do not depend on the content of the image set.
        use, which = np.random.rand(), np.random.rand()
        if use >= self.prob:
            return None
        return int(which * number)

    def transform(self, results: dict) -> dict:
        """Replace ``img`` ((H, W, 3) uint8, BGR) with probability ``prob``.

        Raises:
            DataError: The variant is damaged, or not as large as the image.
        """
        variants = self._variants_of(results['img_path'])
        choice = self._draw_variant(len(variants))
        if choice is None:
            return results
        self.drawn += 1
        if not variants:
            self._count_missing(results['img_path'])
            return results
        path, label, filtered = variants[choice]
        image = self._load(dict(img_path=path))['img']
        if image.shape != results['img'].shape:
            raise DataError(
                f'DiffusionAugment: the variant {path} is '
                f'{image.shape[1]}x{image.shape[0]}, its source '
                f'{results["img_path"]} is {results["img"].shape[1]}x'
                f'{results["img"].shape[0]} (width x height): they must be '
                'equal. Place DiffusionAugment before Resize and crops; if '
                'it is, make the image bank again from these images.'
            )
        results['img'] = image
        results['variant_path'] = path
        if label is not None and 'gt_seg_map' in results:
            results['gt_seg_map'] = self._read_label(label, results)
        if filtered is not None and 'gt_seg_map' in results:
            self._leave_out_pixels(results, filtered)
        return results

    def _read_label(self, path, results):
        """Read the label of a variant, (H, W) uint8 class indices."""
        sample = self._load_label(
            dict(
                seg_map_path=path,
                img_path=results['variant_path'],
                ori_shape=results['img'].shape,
                # The bank holds class indices, whatever the source's files.
                label_table=_indices_of(results.get('label_table')),
            )
        )
        return sample['gt_seg_map']

    def _leave_out_pixels(self, results, path):
        """Set the pixels of the label to 255 that the filter left out."""
        try:
            filtered = decode_ids(fileio.get(path))
        except (OSError, ImageFileError) as error:
            raise DataError(
                f'DiffusionAugment: the filtered label {path} cannot be read '
                f'({error}). Filter the image bank again, after clouds filter '
                f'{self.bank} --undo'
            ) from error
        own = results['gt_seg_map']
        if filtered.shape != own.shape:
            raise DataError(
                f'DiffusionAugment: the filtered label {path} is '
                f'{filtered.shape[1]}x{filtered.shape[0]}, that of the image '
                f'{own.shape[1]}x{own.shape[0]} (width x height): they must '
                'be equal.'
            )
        results['gt_seg_map'] = np.where(
            filtered == IGNORE, np.uint8(IGNORE), own
        )

    def _count_missing(self, path):
        self.without_variant += 1
        # Warn at 1, 10, 100, ... images.
        if set(str(self.without_variant)[1:]) <= {'0'} and (
            str(self.without_variant)[0] == '1'
        ):
            print_log(
                f'DiffusionAugment: {self.without_variant} of {self.drawn} '
                f'images drawn in this process have no variant in {self.bank} '
                f'and were used as they are; the last one is {path}',
                logger='current',
                level=logging.WARNING,
            )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(bank={self.bank!r}, prob={self.prob}, '
            f'sources={len(self.variants)})'
        )
