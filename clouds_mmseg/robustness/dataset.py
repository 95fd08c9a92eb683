"""A data set under every corruption at every severity."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.robustness.corruptions import CLEAN, check_choice, domain_of
from clouds_mmseg.utils.errors import DataError

SET_FILE = 'corruptions.json'
MANIFEST_FILE = 'manifest.jsonl'
FORMAT = 1
_COMMAND = 'python tools/make_corruptions.py IMAGE_FOLDER'


@DATASETS.register_module()
class CorruptedDataset(ConcatDataset):
    """One test set as many domains: clean, and each corruption and severity.

    With Cityscapes inside this is Cityscapes-C. The domains are called
    ``clean``, ``gaussian_noise_1``, ..., ``jpeg_compression_5``. The images
    are corrupted as they are read, or, faster from the second test on, read
    from the folder that ``tools/make_corruptions.py`` wrote; both give the
    same pixels. Labels are those of the data set.

    Args:
        dataset: Config of a labelled :class:`DGDataset`, whose pipeline begins
            with loading the image.
        folder: Corrupted images of the data set's image folder.
        corruptions: Names of corruptions or categories. Defaults to all
            fifteen.
        severities: Defaults to 1..5.
        clean: Whether to begin with the images as they are.
        seed: Of the random numbers of the corruptions.
        **kwargs: Arguments of mmengine's ``ConcatDataset``.

    Raises:
        UserError: An unknown corruption or severity.
        DataError: The folder is not whole, or made from other images or with
            another seed.
        ValueError: The data set is of another kind.
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
        **kwargs,
    ):
        corruptions, severities = check_choice(corruptions, severities)
        self.folder = folder
        self.seed = seed
        kind = DATASETS.get(dataset['type'])
        if not issubclass(kind, DGDataset):
            raise ValueError(
                'CorruptedDataset needs a dataset of clouds_mmseg with one '
                f'image folder, got {kind.__name__}'
            )
        original = self._build(dataset, CLEAN)
        if folder is not None:
            made = require_domains(folder, corruptions, severities, seed)
            print_log(
                f'Corrupted images: {folder}, made from '
                f'{made["info"]["source"]} with seed {seed}',
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
        """Return the config of the data set under one corruption."""
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
            # Labels and what their ids mean stay the data set's own.
            step = dict(
                type='TakeImageFrom',
                source=original.data_prefix['img_path'],
                folder=str(Path(self.folder, corruption, str(severity))),
            )
            cfg['pipeline'] = [step, load, *rest]
        return cfg

    def full_init(self) -> None:
        """List the images, and compare them with those of the folder.

        Raises:
            DataError: The folder was not made of these images.
        """
        if self._fully_initialized:
            return
        super().full_init()
        if self.folder is None:
            return
        made = {
            entry['source'] for entry in read_entries(self.folder).values()
        }
        root = self.datasets[0].data_prefix['img_path']
        first = self.datasets[0]
        here = {
            os.path.relpath(first.get_data_info(i)['img_path'], root)
            for i in range(len(first))
        }
        if missing := sorted(here - made):
            raise DataError(
                f'the corrupted images in {self.folder} lack {len(missing)} '
                f'of the {len(here)} images in {root}, for example '
                f'{missing[0]}; make them of that folder: python '
                f'tools/make_corruptions.py {root} ANOTHER_FOLDER'
            )


def require_domains(
    folder: str | Path,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
) -> dict:
    """Check that a set has what is asked for.

    Args:
        folder: The set.
        corruptions: Names.
        severities: 1..5.
        seed: That the images must have been made with.

    Returns:
        See :func:`read_set`.

    Raises:
        DataError: A domain is not whole, or the seed is another one.
    """
    found = read_set(folder)
    wanted = [domain_of(c, s) for c in corruptions for s in severities]
    missing = [d for d in wanted if d not in found['complete']]
    if missing:
        more = f' and {len(missing) - 5} more' if len(missing) > 5 else ''
        raise DataError(
            f'the corrupted images in {folder} lack {", ".join(missing[:5])}'
            f'{more}. Run the command that made them again, it continues: '
            f'{_COMMAND} {folder}'
        )
    made = found['recipe']['seed']
    if made != seed:
        raise DataError(
            f'the corrupted images in {folder} were made with seed {made}, '
            f'but seed={seed} is asked for; give that seed, or make another '
            'set'
        )
    return found


def read_set(folder: str | Path) -> dict:
    """Read what a set says about itself.

    Args:
        folder: The set.

    Returns:
        ``recipe`` (``seed``, ``images``, ``digest`` of their names),
        ``complete`` (domains that are whole) and ``info`` (for people).

    Raises:
        DataError: There is no set, or it is damaged.
    """
    path = Path(folder) / SET_FILE
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if content['format'] == FORMAT:
            return content
        problem = f'has format {content["format"]!r}, not {FORMAT}'
    except FileNotFoundError:
        problem = 'does not exist'
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f'cannot be read ({type(error).__name__}: {error})'
    raise DataError(
        f'corrupted images: {path} {problem}. Make the set with: {_COMMAND} '
        f'{folder}'
    )


def read_entries(folder: str | Path) -> dict[str, dict]:
    """Read the manifest of a set, finished or not.

    Args:
        folder: The set.

    Returns:
        File below the folder -> ``source``, ``seed``, ``bytes``, ``sha256``.
        Lines that a kill cut short are passed over.
    """
    entries = {}
    try:
        lines = (Path(folder) / MANIFEST_FILE).read_bytes().split(b'\n')
    except FileNotFoundError:
        return entries
    for line in lines:
        try:
            entry = json.loads(line)
            entries[entry['file']] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return entries
