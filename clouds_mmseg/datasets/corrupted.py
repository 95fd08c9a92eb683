"""A data set under every corruption at every severity."""

import copy
from pathlib import Path

from mmengine.dataset import ConcatDataset
from mmengine.logging import print_log
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.corruption_set import require_domains
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
        original = self._build(dataset, CLEAN)
        if not isinstance(original, DGDataset):
            raise ValueError(
                'CorruptedDataset needs a dataset of clouds_mmseg with one '
                f'image folder, got {type(original).__name__}'
            )
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
        if self.folder is None:
            load, *rest = cfg['pipeline']
            step = dict(
                type='CorruptImage',
                corruption=corruption,
                severity=severity,
                seed=self.seed,
            )
            cfg['pipeline'] = [load, step, *rest]
            return cfg
        prefix = dict(original.data_prefix)
        prefix['img_path'] = Path(self.folder, corruption, str(severity))
        # The prefixes hold the data root already.
        cfg['data_prefix'] = {
            key: str(Path(path).absolute()) for key, path in prefix.items()
        }
        cfg['img_suffix'] = original.img_suffix.rpartition('.')[0] + '.png'
        return cfg

    def full_init(self):
        """List the images, and compare the domains with one another.

        Raises:
            DataError: A domain has fewer or more images than the others.
        """
        if self._fully_initialized:
            return
        super().full_init()
        counts = {d.domain: len(d) for d in self.datasets}
        if len(set(counts.values())) > 1:
            most = max(counts.values())
            odd = [f'{d} {n}' for d, n in counts.items() if n != most]
            raise DataError(
                f'the corrupted images in {self.folder} are not those of '
                f'{self.datasets[0].data_prefix["img_path"]}: '
                f'{most} images are wanted, but there are: '
                f'{", ".join(odd[:5])}. Make them again, from that folder.'
            )
