"""Verification of datasets on the command line."""

import argparse
import copy
import shlex

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.data_tools.verify import (
    Task,
    accept,
    advice_text,
    fix,
    keep,
    reports_text,
    verify,
)
from clouds_mmseg.data_tools.verify.listing import has_report
from clouds_mmseg.data_tools.verify.report import counted, current_reports
from clouds_mmseg.data_tools.verify.run import refuse_stores
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.shared_work import LEASE_SECONDS
from clouds_mmseg_cli.cfg_options import format_value


def config_tasks(cfg: Config) -> list[Task]:
    """Collect the datasets of a config for verification.

    Returns:
        Datasets of training, validation and test.

    Raises:
        UserError: The config has no dataset.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    tasks = {}
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        for leaf in dataset_configs(copy.deepcopy(loader.dataset)):
            # Not opened: verification continues after a missing root.
            # Transforms are not needed and may read generated images.
            leaf = dict(leaf, lazy_init=True, pipeline=[])
            dataset = DATASETS.build(leaf)
            domain = getattr(dataset, 'domain', None) or leaf['type']
            name = title = f'{split} {domain}'
            number = 1
            while name in tasks:
                number += 1
                name = f'{title} {number}'
            tasks[name] = Task(name, dataset, split == 'train')
    if not tasks:
        raise UserError(
            f'{cfg.filename} names no dataset; give a config that has a '
            'train_dataloader, val_dataloader or test_dataloader'
        )
    return list(tasks.values())


def config_command(args: argparse.Namespace) -> str:
    """Return the command that verifies the datasets of a config.

    Args:
        args: ``config``, ``data_root``, ``cfg_options``.

    Returns:
        A shell command.
    """
    words = ['clouds', 'verify', '--config', args.config]
    if args.data_root is not None:
        words += ['--data-root', args.data_root]
    if getattr(args, 'report_dir', None) is not None:
        words += ['--report-dir', args.report_dir]
    if args.cfg_options:
        words.append('--cfg-options')
        words += [
            f'{key}={format_value(value)}'
            for key, value in args.cfg_options.items()
        ]
    return shlex.join(words)


def verify_data(
    tasks: list[Task],
    *,
    command: str,
    workers: int | None = None,
    action: str | None = None,
    shared: bool = False,
    lease: float = LEASE_SECONDS,
) -> tuple[bool, str]:
    """Verify datasets, and fix or accept the errors.

    Args:
        tasks: The datasets.
        command: Command that verifies, without ``--fix`` and ``--accept``.
        workers: Processes. Defaults to the number of cores.
        action: ``'fix'`` moves bad files aside, ``'accept'`` lets training use
            the data as it is. Both use the findings of the last verification
            if no file has changed since.
        shared: See :func:`verify`.
        lease: See :func:`verify`.

    Returns:
        Whether training may use all datasets, and the report.

    Raises:
        UserError: See :func:`verify` and :func:`fix`.
    """
    if action == 'fix':
        # Not found after hours of reading.
        refuse_stores(
            task.dataset.files_root
            for task in tasks
            if has_report(task.dataset)
        )
    reports = current_reports(tasks) if action else None
    lines = []
    if reports:
        lines.append(f'No file has changed since {reports[0].when}.')
    else:
        reports = verify(
            tasks,
            workers=workers,
            command=command,
            shared=shared,
            lease=lease,
        )
    if action == 'fix':
        moved = fix(reports)
        lines.append(f'Moved {counted(len(moved), "file")} aside.')
    elif action == 'accept':
        lines.append(f'Accepted {counted(accept(reports), "error")}.')
    if action and not keep(reports):
        raise UserError(
            'the decision cannot be kept, and training will not know of it; '
            'repeat the command as a user with write permission'
        )
    lines.append(reports_text(reports))
    fine = not any(report.open_errors for report in reports)
    lines.append(advice_text(reports, command) or 'No open errors.')
    return fine, '\n'.join(lines)
