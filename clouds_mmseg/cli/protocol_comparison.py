"""One checkpoint under several evaluation protocols, side by side.

Numbers of two papers are comparable only if their test images went through
the network at the same size and were compared at the same size. This shows
how much the protocol alone moves the numbers of one set of weights.
"""

import copy
import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.engine.hooks.results import RESULTS_FILE, to_json
from clouds_mmseg.evaluation.protocols import (
    apply_protocol,
    check_protocols,
    describe_protocol,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError, naming
from clouds_mmseg.utils.tables import format_table, percent_cell

PROTOCOLS_FILE = 'protocols.json'
_METRICS = ('DGIoUMetric', 'CorruptionMetric')


def compare_protocols(cfg: Config, names: Sequence[str]) -> dict:
    """Test a checkpoint under each protocol; print and write the comparison.

    Args:
        cfg: With ``load_from`` and ``work_dir``. Not changed.
        names: Keys of :data:`~clouds_mmseg.evaluation.PROTOCOLS`.

    Returns:
        What ``protocols.json`` in the work dir has: ``checkpoint`` and
        ``config``; ``protocols``: name -> ``does`` (see
        :func:`~clouds_mmseg.evaluation.protocols.describe_protocol`),
        ``mean`` and, of each domain, ``metrics``, ``images`` and
        ``labelled_pixels``; ``warnings``; and the file of all its ``results``.

    Raises:
        UserError: A protocol does not exist or cannot be applied, the metric
            does not record protocols, or no image has a label.
    """
    check_protocols(names)
    _require_metric(cfg)
    cfgs = {}
    for name in names:
        # All are rewritten before the first is run.
        cfgs[name] = apply_protocol(copy.deepcopy(cfg), name)
        cfgs[name].work_dir = str(Path(cfg.work_dir, 'protocols', name))
        cfgs[name].experiment_name = f'protocol_{name}'
    found = {}
    for name, one in cfgs.items():
        print_log(f'Protocol {name}: {_in_words(name)}', logger=None)
        found[name] = _test(one)
    comparison = _collect(found, cfgs)
    if is_main_process():
        with atomic_path(Path(cfg.work_dir, PROTOCOLS_FILE)) as temporary:
            temporary.write_text(to_json(comparison) + '\n')
        print_log('\n' + comparison_tables(comparison), logger=None)
        print_log(f'Written: {Path(cfg.work_dir, PROTOCOLS_FILE)}')
    return comparison


def _require_metric(cfg):
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    kinds = [str(evaluator.get('type')) for evaluator in evaluators]
    if not set(kinds) & set(_METRICS):
        raise UserError(
            f'test_evaluator is {", ".join(kinds)}, which records no '
            'protocol: give DGIoUMetric, or --benchmark NAME'
        )


def _in_words(name):
    does = describe_protocol(name)
    return f'input {does["input"]}, {does["windows"]}, labels {does["labels"]}'


def _test(cfg: Config) -> dict:
    """Run one test and return its results."""
    path = Path(cfg.work_dir, RESULTS_FILE)
    # A file of an earlier run is not to be taken for this one's.
    if is_main_process():
        path.unlink(missing_ok=True)
    with naming(cfg.work_dir):
        runner = build_runner(cfg)
        runner.test()
    del runner
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    barrier()
    if not path.is_file():
        raise UserError(
            f'the test wrote no {path}: the config has no ResultsHook in '
            'custom_hooks, or no test image has a label'
        )
    return json.loads(path.read_text())


def _collect(found: Mapping[str, dict], cfgs: Mapping[str, Config]) -> dict:
    first = next(iter(found.values()))
    protocols = {}
    for name, results in found.items():
        protocols[name] = dict(
            does=describe_protocol(name),
            mean=results.get('mean', {}),
            domains={
                domain: dict(
                    metrics=values['metrics'],
                    images=values['images'],
                    labelled_pixels=sum(map(sum, values['confusion'])),
                )
                for domain, values in results['domains'].items()
            },
            warnings=results['warnings'],
            results=str(Path(cfgs[name].work_dir, RESULTS_FILE)),
        )
    return dict(
        checkpoint=first['checkpoint'],
        config=first['config']['path'],
        versions=first['versions'],
        date=first['date'],
        protocols=protocols,
    )


def comparison_tables(comparison: dict) -> str:
    """Format the tables for the terminal.

    Args:
        comparison: See :func:`compare_protocols`.

    Returns:
        mIoU by domain and protocol, with the difference between the highest
        and the lowest; and what each protocol does.
    """
    protocols = comparison['protocols']
    domains = list(next(iter(protocols.values()))['domains'])

    def row(title, values):
        known = [v for v in values if v is not None]
        spread = max(known) - min(known) if len(known) > 1 else None
        cells = [percent_cell(value) for value in values]
        return [title, *cells, percent_cell(spread)]

    rows = [
        row(
            domain,
            [
                p['domains'][domain]['metrics'].get('mIoU')
                for p in protocols.values()
            ],
        )
        for domain in domains
    ]
    rows += [
        None,
        row('mean', [p['mean'].get('mIoU') for p in protocols.values()]),
    ]
    numbers = format_table(['mIoU', *protocols, 'highest - lowest'], rows)
    facts = format_table(
        ['protocol', 'input', 'windows', 'labels compared at'],
        [[name, *p['does'].values()] for name, p in protocols.items()],
        left=('input', 'windows', 'labels compared at'),
    )
    return (
        f'{numbers}\n\n{facts}\nThe same weights throughout: '
        'only numbers of one column can be compared with one another.'
    )
