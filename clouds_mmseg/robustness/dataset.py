"""Dataset under every corruption at every severity; stored image sets."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.robustness.corruptions import CLEAN, check_choice, domain_of
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.remote import RemoteError
from clouds_mmseg.utils.text_files import parse_json

SET_FILE = 'corruptions.json'
MANIFEST_FILE = 'manifest.jsonl'
FORMAT = 1
_COMMAND = 'clouds corrupt IMAGE_FOLDER'


@DATASETS.register_module()
class CorruptedDataset(ConcatDataset):
    """One test set as many domains: clean, and each corruption and severity.

    With Cityscapes as dataset this is Cityscapes-C. The domains are called
    ``clean``, ``gaussian_noise_1``, ..., ``jpeg_compression_5``. The images
    are corrupted when they are loaded, or loaded from the folder that
    ``tools/make_corruptions.py`` wrote, which is faster for repeated tests;
    both give the same pixels. Labels are those of the dataset.

    Args:
        dataset: Config of a labelled :class:`DGDataset`, whose pipeline begins
            with loading the image.
        folder: Corrupted images of the dataset's image folder, or their
            address.
        corruptions: Names of corruptions or categories. Defaults to all
            fifteen.
        severities: Defaults to 1..5.
        clean: Whether to include the uncorrupted images, first.
        seed: Of the random numbers of the corruptions.
        **kwargs: Arguments of mmengine's ``ConcatDataset``.

    Raises:
        UserError: An unknown corruption or severity.
        DataError: The folder is incomplete, or made from other images or with
            another seed.
        UserError: The dataset is not a :class:`DGDataset`.
    """

    def __init__(
        self,
        *,
        dataset: dict,
        folder: str | None = None,
        corruptions: Sequence[str] | None = None,
        severities: Sequence[int] | None = None,
        clean: bool = True,
        seed: int = 0,
        **kwargs: Any,
    ):
        corruptions, severities = check_choice(corruptions, severities)
        self.folder = folder
        self.seed = seed
        kind = DATASETS.get(dataset['type'])
        if not issubclass(kind, DGDataset):
            raise UserError(
                'CorruptedDataset needs a dataset of clouds_mmseg with one '
                f'image folder, got {kind.__name__}'
            )
        original = self._build(dataset, CLEAN)
        if folder is not None:
            description = require_domains(
                folder, corruptions, severities, seed
            )
            print_log(
                f'Corrupted images: {folder}, made from '
                f'{description["info"]["source"]} with seed {seed}',
                logger='current',
            )
        datasets = [original] if clean else []
        for corruption in corruptions:
            for severity in severities:
                cfg = self._corrupted(dataset, original, corruption, severity)
                datasets.append(
                    self._build(cfg, domain_of(corruption, severity))
                )
        super().__init__(datasets, **kwargs)

    @staticmethod
    def _build(cfg, domain):
        cfg = copy.deepcopy(cfg)
        cfg['domain'] = domain
        return DATASETS.build(cfg)

    def _corrupted(self, cfg, original, corruption, severity):
        """Return the config of the dataset under one corruption."""
        cfg = copy.deepcopy(cfg)
        load, *rest = cfg['pipeline']
        if self.folder is None:
            step = dict(
                type='CorruptImage',
                corruption=corruption,
                severity=severity,
                seed=self.seed,
            )
            cfg['pipeline'] = [load, step, *rest]
        else:
            # Labels and label table remain those of the dataset.
            step = dict(
                type='TakeImageFrom',
                source=original.data_prefix['img_path'],
                folder=os.path.join(self.folder, corruption, str(severity)),
            )
            cfg['pipeline'] = [step, load, *rest]
        return cfg

    def full_init(self) -> None:
        """List the images and compare them with those of the folder.

        Raises:
            DataError: The folder was made of other images.
        """
        if self._fully_initialized:
            return
        super().full_init()
        if self.folder is None:
            return
        sources = {
            entry['source'] for entry in read_entries(self.folder).values()
        }
        root = self.datasets[0].data_prefix['img_path']
        first = self.datasets[0]
        images = {
            os.path.relpath(first.get_data_info(i)['img_path'], root)
            for i in range(len(first))
        }
        if missing := sorted(images - sources):
            raise DataError(
                f'the corrupted images in {self.folder} lack {len(missing)} '
                f'of the {len(images)} images in {root}, for example '
                f'{missing[0]}; make them of that folder: '
                f'clouds corrupt {root} ANOTHER_FOLDER'
            )


def require_domains(
    folder: str | Path,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
) -> dict:
    """Check that a set has the selected domains.

    Args:
        folder: The set.
        corruptions: Names.
        severities: 1..5.
        seed: That the images must have been made with.

    Returns:
        See :func:`read_set`.

    Raises:
        DataError: A domain is not complete, or the seed differs.
    """
    found = read_set(folder)
    domains = [domain_of(c, s) for c in corruptions for s in severities]
    missing = [d for d in domains if d not in found['complete']]
    if missing:
        more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
        raise DataError(
            f'the corrupted images in {folder} lack {", ".join(missing[:5])}'
            f'{more}. Run the command that made them again, it continues: '
            f'{_COMMAND} {folder}'
        )
    recipe_seed = found['recipe']['seed']
    if recipe_seed != seed:
        raise DataError(
            f'the corrupted images in {folder} were made with seed '
            f'{recipe_seed}, but seed={seed} is asked for; give that seed, '
            'or make another set'
        )
    return found


def read_set(folder: str | Path) -> dict:
    """Read the description of a corrupted image set.

    Args:
        folder: The set, or its address.

    Returns:
        ``recipe`` (``seed``, ``images``, ``digest`` of their names),
        ``complete`` (complete domains) and ``info`` (not evaluated).

    Raises:
        DataError: The file does not exist, or is damaged.
        RemoteError: The store cannot be read.
    """
    path = os.path.join(folder, SET_FILE)
    try:
        content = parse_json(fileio.get(path))
        if content['format'] == FORMAT:
            return content
        problem = f'has format {content["format"]!r}, not {FORMAT}'
    except FileNotFoundError:
        problem = 'does not exist'
    except RemoteError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f'cannot be read ({type(error).__name__}: {error})'
    raise DataError(
        f'corrupted images: {path} {problem}. Make the set with: {_COMMAND} '
        f'{folder}'
    )


def read_entries(folder: str | Path) -> dict[str, dict]:
    """Read the manifest of a set, complete or not.

    Args:
        folder: The set, or its address.

    Returns:
        File below the folder -> ``source``, ``seed``, ``bytes``, ``sha256``.
        Truncated lines of an interrupted run are skipped.
    """
    entries = {}
    try:
        lines = fileio.get(os.path.join(folder, MANIFEST_FILE)).split(b'\n')
    except FileNotFoundError:
        return entries
    for line in lines:
        try:
            entry = parse_json(line)
            entries[entry['file']] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return entries
