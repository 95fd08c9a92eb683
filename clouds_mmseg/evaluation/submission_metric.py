"""Predictions as files for an evaluation server."""

import zipfile
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS
from PIL import Image

from clouds_mmseg.evaluation.submission import (
    check_submission,
    rules_of,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

# Of every file in the archive, so that equal predictions make equal archives.
_DATE = (1980, 1, 1, 0, 0, 0)


@METRICS.register_module()
class SubmissionMetric(BaseMetric):
    """Write label maps and the zip file that a test server takes.

    It measures nothing: the labels are with the server. Files are
    ``out_dir/<server>_<split>/<folder>/<image name>.png``, the archive is
    ``out_dir/<server>_<split>.zip``; names, ids and folder are the server's
    (:mod:`clouds_mmseg.evaluation.submission`). The archive appears under
    its name only when it keeps all rules.

    Args:
        servers (dict[str, str]): Domain -> ``'cityscapes'`` or ``'acdc'``.
        out_dir (str | Path): Where the files go; in a run of several
            processes a folder that all of them see.
        split (str): ``'test'``, or ``'val'`` for a rehearsal.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        UserError: A server or split is unknown, a prediction does not have
            the size that the server wants, or the archive breaks a rule.
    """

    def __init__(self, *, servers, out_dir, split='test', **kwargs):
        super().__init__(**kwargs)
        self.servers = dict(servers)
        self.out_dir = Path(out_dir)
        self.split = split
        self._rules = {s: rules_of(s, split) for s in servers.values()}
        self._tables = {}
        for server, rules in self._rules.items():
            table = np.zeros(256, np.uint8)
            table[list(rules.ids)] = list(rules.ids.values())
            self._tables[server] = table

    @property
    def domains(self):
        """The domains that may occur."""
        return list(self.servers)

    def process(self, data_batch, data_samples):
        """Write the predictions of a batch.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): ``pred_sem_seg`` with ``data``
                (1, H, W) integer, ``domain`` and ``img_path``.
        """
        for sample in data_samples:
            server = self.servers[sample['domain']]
            rules = self._rules[server]
            mask = sample['pred_sem_seg']['data'][0].cpu().numpy()
            if mask.shape[::-1] != rules.size:
                raise UserError(
                    f'the prediction of {sample["img_path"]} is '
                    f'{mask.shape[1]}x{mask.shape[0]}, but {rules.title} '
                    f'wants {rules.size[0]}x{rules.size[1]} (width x '
                    'height): test on the images as they are published'
                )
            if not 0 <= mask.min() <= mask.max() < len(rules.ids):
                raise UserError(
                    f'the prediction of {sample["img_path"]} has class '
                    f'indices {mask.min()}..{mask.max()}, but {rules.title} '
                    f'evaluates {len(rules.ids)} classes (0..'
                    f'{len(rules.ids) - 1}): test a model of these classes'
                )
            name = f'{Path(sample["img_path"]).stem}.png'
            with atomic_path(self._folder(server) / name) as temporary:
                Image.fromarray(self._tables[server][mask]).save(
                    temporary, optimize=True
                )
            self.results.append((server, name))

    def _folder(self, server):
        name = f'{server}_{self.split}'
        return self.out_dir / name / self._rules[server].folder

    def compute_metrics(self, results):
        """Pack and check the archives.

        Args:
            results (list[tuple[str, str]]): Server and file name of each
                image.

        Returns:
            dict: Empty.
        """
        for server, rules in self._rules.items():
            names = sorted({name for s, name in results if s == server})
            path = self.out_dir / f'{server}_{self.split}.zip'
            with atomic_path(path) as temporary:
                self._pack(temporary, server, names)
                problems = check_submission(
                    temporary, server, split=self.split
                )
                if problems:
                    raise UserError(
                        f'the predictions in {self._folder(server)} are no '
                        f'submission to {rules.title}:\n'
                        + '\n'.join(f'  {line}' for line in problems)
                    )
            print_log(
                f'{path}: {len(names)} label maps of {rules.title} '
                f'({self.split}), {rules.kind}, '
                f'{path.stat().st_size / 2**20:.1f} MiB, all rules kept. '
                + (
                    f'Submit it at {rules.url}'
                    if self.split == 'test'
                    else 'A rehearsal: the server wants the test split.'
                ),
                logger=MMLogger.get_current_instance(),
            )
        return {}

    def _pack(self, path, server, names):
        folder = self._folder(server)
        with zipfile.ZipFile(path, 'w') as archive:
            for name in names:
                inside = f'{folder.name}/{name}'
                # PNG files are compressed already.
                archive.writestr(
                    zipfile.ZipInfo(inside, _DATE),
                    (folder / name).read_bytes(),
                )
