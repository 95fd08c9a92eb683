"""Rows of the ablation."""

from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """Training configuration that the ablation compares.

    Attributes:
        name: Name of its folder and on the command line.
        title: Title in the table.
        config: Path of the config from the root of the repository.
        warm_up: Row with the same source-only training, which is trained once
            for both.
    """

    name: str
    title: str
    config: str
    warm_up: str | None = None


_FOLDER = 'configs/toycity/ablation'

# In the order of the table. All have the same number of optimiser steps.
ROWS = (
    Row('source', 'source only', f'{_FOLDER}/source.py'),
    Row(
        'self_training',
        '+ generated images, self-training',
        f'{_FOLDER}/self_training.py',
        'source',
    ),
    Row(
        'refinement',
        '+ generated images, self-training, refinement',
        f'{_FOLDER}/refinement.py',
        'source',
    ),
    Row('restyling', '+ DiffusionAugment', f'{_FOLDER}/restyling.py'),
    Row('all', '+ all', 'configs/toycity/clouds.py', 'restyling'),
)


def choose(names: Sequence[str]) -> list[Row]:
    """Find rows by name.

    Args:
        names: Names of rows.

    Returns:
        In the order of the table. A row whose ``warm_up`` is not among
        them runs its own source-only training.
    """
    return [
        row if row.warm_up in names else row._replace(warm_up=None)
        for row in ROWS
        if row.name in names
    ]
