"""A pass over every file of a dataset, before hours are spent on it."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from clouds_mmseg.datasets.transforms import LoadSegImage, LoadSegLabels
from clouds_mmseg.utils.errors import UserError


@dataclass
class CheckReport:
    """What :func:`check_dataset` found.

    Attributes:
        checked (dict[str, int]): Domain -> number of samples read.
        problems (list[str]): One message for each bad sample or dataset,
            which names the file.
    """

    checked: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)

    @property
    def ok(self):
        """Whether every file can be used."""
        return not self.problems

    def __str__(self):
        counts = ', '.join(f'{d} {n}' for d, n in self.checked.items())
        lines = [
            f'checked {sum(self.checked.values())} images and labels '
            f'({counts or "none"}): {len(self.problems)} problems'
        ]
        return '\n'.join(lines + self.problems)


def check_dataset(dataset, *, workers=None):
    """Decode every image and label of a dataset and collect what is wrong.

    Args:
        dataset (Dataset): A dataset of mmengine, or wrappers around some.
            Labels are read if it is a :class:`DGDataset`. With
            ``lazy_init=True`` the first open is checked too.
        workers (int, optional): Number of threads; the decoders of OpenCV
            and Pillow run side by side. Defaults to the number of cores.

    Returns:
        CheckReport: The numbers of samples and all problems.

    Raises:
        ValueError: ``workers`` is not positive.
    """
    if workers is None:
        workers = os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f'workers={workers} must be at least 1')
    report = CheckReport()
    with ThreadPoolExecutor(workers) as pool:
        for leaf in _leaves(dataset):
            try:
                leaf.full_init()
            except UserError as error:
                report.problems.append(str(error))
                continue
            name = getattr(leaf, 'domain', type(leaf).__name__)
            report.checked[name] = report.checked.get(name, 0) + len(leaf)
            infos = map(leaf.get_data_info, range(len(leaf)))
            found = pool.map(_problem_of, infos)
            report.problems.extend(problem for problem in found if problem)
    return report


def _leaves(dataset):
    """Yield the datasets inside wrappers and concatenations."""
    if hasattr(dataset, 'datasets'):
        for child in dataset.datasets:
            yield from _leaves(child)
    elif hasattr(dataset, 'dataset'):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset


def _problem_of(info):
    """Return the message about a sample, or None."""
    try:
        info = LoadSegImage()(info)
        if 'label_table' in info and 'seg_map_path' in info:
            LoadSegLabels()(info)
    except UserError as error:
        return str(error)
    return None
