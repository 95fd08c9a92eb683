"""Rows and schedules of the ablation."""

from collections.abc import Sequence
from typing import NamedTuple

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.names import ABLATION_ROWS

_FOLDER = 'configs/toycity/ablation'
# Numbers of seeds: in the short schedule, in the long one.
_CONTROL = (3, 0)
_CLAIM = (5, 0)
_CLAIM_OF_BOTH = (5, 3)


class Schedule(NamedTuple):
    """Length of the two stages of every row.

    Attributes:
        name: On the command line and of its folder.
        source_iters: Iterations on labelled images, as many steps as
            the rows with self-training then take with generated ones.
        max_iters: Of both stages.
    """

    name: str
    source_iters: int
    max_iters: int

    @property
    def title(self) -> str:
        """Return such as ``200 + 200``."""
        return f'{self.source_iters} + {self.max_iters - self.source_iters}'


SCHEDULES = {
    'short': Schedule('short', 200, 400),
    # The rate is restarted for the second stage.
    'long': Schedule('long', 400, 800),
}


class Row(NamedTuple):
    """Training configuration that the ablation compares.

    Attributes:
        name: Name of its folder and on the command line.
        title: Title in the table.
        config: Path of the config from the root of the repository.
        warm_up: Row whose first stage is the same, bit for bit; it is trained
            once for both. None for a row that is one stage.
        baseline: Row that it is compared with: the same labelled images
            without self-training.
        two_stages: Whether generated images are added in the second stage.
        num_seeds: Number of seeds in the short and in the long schedule,
            unless they are named. The rows that claims are made of have more.
    """

    name: str
    title: str
    config: str
    warm_up: str | None = None
    baseline: str | None = None
    two_stages: bool = True
    num_seeds: tuple[int, int] = _CONTROL

    @property
    def is_restyled(self) -> bool:
        """Whether source images are restyled in both stages."""
        return 'restyling' in (self.name, self.baseline)

    def has_seed(self, seed: int, schedule: str) -> bool:
        """Return whether a seed is one of the default ones."""
        short, long = self.num_seeds
        return seed < (short if schedule == 'short' else long)

    def options(self, schedule: Schedule) -> dict:
        """Return the settings of a schedule, as overrides of the config."""
        first = schedule.source_iters
        return {
            'train_cfg.max_iters': schedule.max_iters,
            'train_cfg.val_interval': schedule.max_iters,
            'train_cfg.warmup_iters': (
                first if self.two_stages else schedule.max_iters
            ),
            'default_hooks.checkpoint.interval': first,
        }


def _row(
    name,
    title,
    warm_up=None,
    *,
    config=None,
    two_stages=True,
    num_seeds=_CONTROL,
):
    return Row(
        name,
        title,
        config or f'{_FOLDER}/{name}.py',
        warm_up,
        baseline=warm_up,
        two_stages=two_stages and warm_up is not None,
        num_seeds=num_seeds,
    )


# In the order of the table. All have the same number of optimiser steps.
ROWS = (
    _row('source', 'source only', num_seeds=_CLAIM_OF_BOTH),
    _row(
        'self_training',
        'official self-training',
        'source',
        num_seeds=_CLAIM,
    ),
    _row('refinement', '+ refinement', 'source', num_seeds=_CLAIM),
    _row(
        'self_training_plus',
        'recommended self-training',
        'source',
        num_seeds=_CLAIM_OF_BOTH,
    ),
    _row('without_weights', '  without region weights', 'source'),
    _row('without_mixing', '  without mixing', 'source'),
    _row('without_refinement', '  without refinement', 'source'),
    _row(
        'labelled_six',
        'control: 6 labelled images a step',
        'source',
        two_stages=False,
    ),
    _row('labelled_mixed', 'control: 2 of 8 labelled images mixed', 'source'),
    _row('true_labels_source', 'true labels', 'source'),
    _row('restyling', 'restyling', num_seeds=_CLAIM_OF_BOTH),
    _row(
        'all',
        'restyling, official self-training, refinement',
        'restyling',
        config='configs/toycity/clouds.py',
        num_seeds=_CLAIM,
    ),
    _row(
        'all_plus',
        'restyling, recommended self-training',
        'restyling',
        config='configs/toycity/clouds_plus.py',
        num_seeds=_CLAIM_OF_BOTH,
    ),
    _row(
        'all_labelled_mixed',
        'restyling, control: 2 of 8 labelled images mixed',
        'restyling',
    ),
    _row('true_labels', 'restyling, true labels', 'restyling'),
)
assert tuple(row.name for row in ROWS) == ABLATION_ROWS


def choose(names: Sequence[str]) -> list[Row]:
    """Find rows by name.

    Args:
        names: Names of rows.

    Returns:
        In the order of the table. Where the row of a first stage is not among
        them, the first row that has this stage trains it for the others.

    Raises:
        UserError: A control needs the first stage of a row that is not named.
    """
    chosen = []
    for row in (row for row in ROWS if row.name in names):
        provider = row.warm_up
        if provider is not None and provider not in names:
            provider = next(
                (
                    other.name
                    for other in chosen
                    if other.two_stages and other.baseline == row.baseline
                ),
                None,
            )
            if provider is None and not row.two_stages:
                raise UserError(
                    f'--rows {row.name} continues the first stage of '
                    f'{row.warm_up}: name that row too'
                )
        chosen.append(row._replace(warm_up=provider))
    return chosen
