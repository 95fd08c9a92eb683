"""Predictions for the evaluation servers of Cityscapes and ACDC."""

import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.registry import METRICS
from PIL import Image

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import CLASSES, LABEL_ID_TO_TRAIN_ID
from clouds_mmseg.utils.errors import UserError

# Files that a message lists.
_NAMED = 3
# Date of every file in the archive: equal predictions make equal archives.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Rules:
    """Submission format of one evaluation server.

    Attributes:
        title: Name in messages.
        url: Upload page.
        folder: Of the files in the zip file.
        pattern: Regular expression of file names; the group ``key`` identifies
            the image.
        example: A valid file name.
        size: Width and height in pixels.
        ids: Train id -> id in the files.
        kind: Name of these ids.
        counts: Split -> number of images.
    """

    title: str
    url: str
    folder: str
    pattern: str
    example: str
    size: tuple[int, int]
    ids: dict[int, int] = field(repr=False)
    kind: str = 'train ids'
    counts: dict[str, int] = field(default_factory=dict)

    def key(self, name: str) -> str | None:
        """Return the image key of a file name, None if it is invalid."""
        match = re.fullmatch(self.pattern, name)
        return match and match['key']


SERVERS = dict(
    cityscapes=Rules(
        title='Cityscapes',
        url='https://www.cityscapes-dataset.com/submit/',
        folder='results',
        pattern=r'(?P<key>[a-z]+_\d{6}_\d{6}).*\.png',
        example='berlin_000000_000019_leftImg8bit.png',
        size=(2048, 1024),
        ids={t: i for i, t in LABEL_ID_TO_TRAIN_ID.items()},
        kind='label ids',
        counts=dict(val=500, test=1525),
    ),
    acdc=Rules(
        title='ACDC',
        url='https://acdc.vision.ee.ethz.ch/submit',
        folder='labelTrainIds',
        pattern=r'(?P<key>[A-Z0-9]+_frame_\d{6})_rgb_anon\.png',
        example='GOPR0475_frame_000041_rgb_anon.png',
        size=(1920, 1080),
        ids={t: t for t in range(len(CLASSES))},
        counts=dict(val=406, test=2000),
    ),
)


@METRICS.register_module()
class SubmissionMetric(BaseMetric):
    """Write label maps and the zip file for an evaluation server.

    No metric is computed: the labels are not public. Files are
    ``out_dir/<server>_<split>/<folder>/<image name>.png``, the archive is
    ``out_dir/<server>_<split>.zip``; names, ids and folder are the server's
    (:data:`SERVERS`). The archive is renamed to its path only after all checks
    have passed.

    Args:
        servers: Domain -> ``'cityscapes'`` or ``'acdc'``.
        out_dir: Where the files go; in a run of several processes a folder
            that all of them see.
        split: ``'test'``, or ``'val'`` for a rehearsal.
        **kwargs: Arguments of mmengine's ``BaseMetric``.

    Raises:
        UserError: A server or split is unknown, a prediction does not have the
            size that the server wants, or the archive breaks a rule.
    """

    def __init__(
        self,
        *,
        servers: dict[str, str],
        out_dir: str | Path,
        split: str = 'test',
        **kwargs: Any,
    ):
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
    def domains(self) -> list[str]:
        """Domains that are accepted."""
        return list(self.servers)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch.

        Args:
            data_samples: ``pred_sem_seg`` with ``data`` (1, H, W) integer,
                ``domain`` and ``img_path``.
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

    def compute_metrics(self, results: list[tuple[str, str]]) -> dict:
        """Pack and check the archives.

        Args:
            results: Server and file name of each image.

        Returns:
            Empty.
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


def check_submission(
    path: str | Path, server: str, *, split: str = 'test'
) -> list[str]:
    """Check a zip file against the rules of its server.

    Every file is decoded; its name, size, mode and ids are checked.

    Args:
        path: The zip file.
        server: A key of :data:`SERVERS`.
        split: ``'test'``, or ``'val'`` for a rehearsal.

    Returns:
        Problems; empty if the server will accept the file.

    Raises:
        UserError: The server or split is unknown, or there is no such file.
    """
    rules = rules_of(server, split)
    try:
        with zipfile.ZipFile(path) as archive:
            return _check_archive(archive, rules, split)
    except FileNotFoundError as error:
        raise UserError(f'there is no zip file {path}') from error
    except zipfile.BadZipFile as error:
        return [f'{path} is no zip file, or damaged: {error}']


def rules_of(server: str, split: str = 'test') -> Rules:
    """Return the rules of a server.

    Raises:
        UserError: The server or the split is unknown.
    """
    if server not in SERVERS:
        raise UserError(
            f'unknown server {server!r}; there are: ' + ', '.join(SERVERS)
        )
    rules = SERVERS[server]
    if split not in rules.counts:
        raise UserError(
            f'{rules.title} has no split {split!r} to predict; there are: '
            + ', '.join(rules.counts)
        )
    return rules


def check_names(
    names: Iterable[str], rules: Rules, *, split: str = 'test'
) -> list[str]:
    """Check file names against the rules of a server.

    Args:
        names: File names, without folders.
        rules: Of the server.
        split: Its number of images is required.

    Returns:
        Problems; empty if there are none.
    """
    problems, keys, wrong, double = [], set(), [], []
    for name in names:
        key = rules.key(name)
        if key is None:
            wrong.append(name)
        elif key in keys:
            double.append(name)
        else:
            keys.add(key)
    if wrong:
        problems.append(f'{_some(wrong)}: names must be like {rules.example}')
    if double:
        problems.append(f'{_some(double)}: another file is of the same image')
    required = rules.counts[split]
    if len(keys) != required:
        problems.append(
            f'{len(keys)} images, but the {split} split of {rules.title} has '
            f'{required}'
        )
    return problems


def _check_archive(archive, rules, split):
    entries = [e for e in archive.infolist() if not e.is_dir()]
    problems, names = [], []
    outside, bad = [], {}
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.parts[:-1] != (rules.folder,):
            outside.append(entry.filename)
            continue
        names.append(path.name)
        if rules.key(path.name) is not None:
            problem = _check_label_map(archive, entry, rules)
            if problem:
                bad.setdefault(problem, []).append(path.name)
    if outside:
        problems.append(f'{_some(outside)}: files must lie in {rules.folder}/')
    problems += check_names(names, rules, split=split)
    problems += [f'{_some(files)}: {what}' for what, files in bad.items()]
    return problems


def _check_label_map(archive, entry, rules):
    """Return the problem of one label map, or None."""
    try:
        with archive.open(entry) as stream, Image.open(stream) as image:
            mode, size = image.mode, image.size
            if mode not in ('L', 'P'):
                return f'mode {mode}, but 8-bit with one channel is required'
            if size != rules.size:
                return (
                    f'{size[0]}x{size[1]} pixels, but the images of '
                    f'{rules.title} have {rules.size[0]}x{rules.size[1]}'
                )
            histogram = image.histogram()
    except (
        OSError,
        SyntaxError,
        ValueError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as error:
        return f'cannot be decoded ({error})'
    valid = set(rules.ids.values())
    odd = [i for i, n in enumerate(histogram) if n and i not in valid]
    if odd:
        return (
            f'ids {", ".join(map(str, odd[:5]))}'
            f'{", ..." if len(odd) > 5 else ""}, which no evaluated class '
            f'has; {rules.title} wants {rules.kind}'
        )
    return None


def _some(names):
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return ', '.join(names[:_NAMED]) + more
