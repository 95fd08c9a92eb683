"""Entry point of the campaign: which trials, and what is reported."""

import functools
from collections.abc import Sequence
from pathlib import Path

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.locks import ProcessLock
from faults.campaign import FAULTS, Campaign
from faults.commands import COMMANDS
from faults.forks import import_stack
from faults.report import write_docs
from faults.store import NAMES, disturb_in_store

_WITH_WORKERS = ('train', 'toycity', 'corrupt', 'verify', 'filter')
# Of the short form: cheap, each writing in another way. The slow disk of
# FAULTS meets the first, which has the fewest calls.
_SHORT = ('publish', 'publish_folder', 'predict', 'generate')


def run_campaign(
    work: Path,
    *,
    parts: Sequence[str],
    commands: Sequence[str] | None,
    kills: int,
    in_a_row: int,
    points: int,
    faults: Sequence[str] | None,
    short: bool,
    seed: int,
    docs: Path | None,
    missing: str | None,
) -> bool:
    """Run the campaign and print what happened.

    Args:
        work: Folder of inputs, outputs and logs.
        parts: Names of its parts.
        commands: Names of commands; None: those that suit each part.
        kills: Number of runs that are killed.
        in_a_row: Kills of each of them.
        points: Trials of each other fault on each command.
        faults: Parts of names of faults of the disk; None: all.
        short: Whether to run the short form.
        seed: Of the moments.
        docs: Folder of the page to update.
        missing: Why no calls can be made to fail; None if they can.

    Returns:
        Whether no trial failed.

    Raises:
        UserError: There is no such command or fault, or another campaign
            uses the folder.
    """
    for name in commands or ():
        if name not in COMMANDS:
            raise UserError(
                f'--commands {name}: there are {", ".join(COMMANDS)}'
            )
    chosen = [
        fault
        for fault in FAULTS
        if faults is None or any(text in fault.name for text in faults)
    ]
    if not chosen:
        raise UserError(
            f'--faults {" ".join(faults or ())}: there are '
            + ', '.join(fault.name for fault in FAULTS)
        )
    work.mkdir(parents=True, exist_ok=True)
    if not ProcessLock(work / 'faults.lock').acquire(wait=False):
        raise UserError(f'--work-dir {work}: another campaign is using it')
    import_stack()

    def save():
        if docs is not None:
            write_docs(docs, campaign.records.values())

    # What is done is there if a campaign of hours is stopped.
    log = functools.partial(print, flush=True)
    campaign = Campaign(work, seed, log=log, noted=save)
    if 'kills' in parts:
        names = commands or (('train', *_SHORT) if short else list(COMMANDS))
        campaign.kills(names, 6 if short else kills, in_a_row)
    if 'disk' in parts and missing is not None:
        print(f'no faults of disk and clock: {missing}')
    elif 'disk' in parts and short:
        for number, fault in enumerate(chosen):
            name = _SHORT[number % len(_SHORT)]
            campaign.disk([name], [fault], 1)
    elif 'disk' in parts:
        campaign.disk(commands or list(COMMANDS), chosen, points)
    if 'small-disk' in parts and not short:
        why = campaign.small_disk(commands or list(COMMANDS), points)
        if why:
            print(f'no small disk: {why}')
    if 'workers' in parts:
        names = commands or (('corrupt',) if short else _WITH_WORKERS)
        names = [name for name in names if name in _WITH_WORKERS]
        campaign.lost_workers(names, 1 if short else points)
    if 'two-runs' in parts:
        names = ('train',) if short else commands or list(COMMANDS)
        campaign.two_runs(names)
    if 'store' in parts and not short:
        names = [name for name in commands or NAMES if name in NAMES]
        why = disturb_in_store(campaign, names, points)
        if why:
            print(f'no faults in a store: {why}')
    records = campaign.records.values()
    failed = [text for record in records for text in record.failed]
    trials = sum(record.trials for record in records)
    print(f'{trials} trials, {len(failed)} failed')
    return not failed
