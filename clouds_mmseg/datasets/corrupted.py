"""A data set under every corruption at every severity."""

import copy
import os
from pathlib import Path

from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.corruption_set import read_entries, require_domains
from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.utils.corruptions import CLEAN, check_choice, domain_of


@DATASETS.register_module()
class CorruptedDataset(ConcatDataset):
    """One test set as many domains: clean, and each corruption and severity.

    With Cityscapes inside this is Cityscapes-C. The domains are called
    ``clean``, ``gaussian_noise_1``, ..., ``jpeg_compression_5``. The images
    are corrupted as they are read, or, faster from the second test on, read
    from the folder that ``tools/make_corruptions.py`` wrote; both give the
    same pixels. Labels are those of the data set.

    Args:
        dataset (dict): Config of a labelled :class:`DGDataset`, whose
            pipeline begins with loading the image.
        folder (str, optional): Corrupted images of the data set's image
            folder.
        corruptions (Sequence[str], optional): Names of corruptions or
            categories. Defaults to all fifteen.
        severities (Sequence[int], optional): Defaults to 1..5.
        clean (bool): Whether to begin with the images as they are.
        seed (int): Of the random numbers of the corruptions.
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
        dataset,
        folder=None,
        corruptions=None,
        severities=None,
        clean=True,
        seed=0,
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

    def full_init(self):
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
