"""IoU under common corruptions, by corruption and severity."""

import math
from collections.abc import Sequence
from typing import Any

from mmseg.registry import METRICS

from clouds_mmseg.evaluation.dg_iou_metric import DGIoUMetric
from clouds_mmseg.robustness.corruptions import CATEGORIES, CLEAN, split_domain
from clouds_mmseg.utils.tables import format_table, percent_cell


@METRICS.register_module()
class CorruptionMetric(DGIoUMetric):
    """``DGIoUMetric`` for the domains of a :class:`CorruptedDataset`.

    Every corruption at every severity is a domain; IoU is computed over its
    images. Besides the values of ``DGIoUMetric`` there are, in percent:

    - ``corruption/<name>``: mean mIoU over the severities of a corruption;
    - ``severity/<n>``: mean mIoU over the corruptions at a severity;
    - ``category/<name>``: mean over the corruptions of a category;
    - ``mean_mIoU``: mean over the corruptions, without the clean images: the
      score of a model;
    - ``retention``: ``mean_mIoU`` in percent of the clean mIoU.

    With all corruptions and severities ``mean_mIoU`` is the mean over all
    domains as well. ``last_results`` holds them under ``corruptions``.

    Args:
        **kwargs: See :class:`DGIoUMetric`. ``source_domains`` is set here.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(source_domains=[CLEAN], **kwargs)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Compute all values and log the tables.

        Args:
            results: See :class:`DGIoUMetric`.

        Returns:
            See the class.
        """
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        summary = summarize(self.last_results['domains'])
        self.last_results['corruptions'] = summary
        for kind in ('corruption', 'severity', 'category'):
            for name, value in summary[kind].items():
                metrics[f'{kind}/{name}'] = value
        metrics['retention'] = summary['retention']
        return metrics

    def _tables(self, reports, mean):
        summary = summarize(reports)
        return (
            'mIoU by corruption and severity, percent (protocol '
            f'{self.protocol}):\n'
            + corruption_table(summary)
            + '\nIoU by class, percent, mean over the corruptions of a '
            'category (-: the class does not occur):\n'
            + class_by_category_table(reports, self.dataset_meta['classes'])
        )


def summarize(reports: dict[str, dict], metric: str = 'mIoU') -> dict:
    """Compute the means over severities, corruptions and categories.

    Args:
        reports: Domain -> ``metrics`` (name -> percent).
        metric: The metric that is averaged.

    Returns:
        ``images`` (of a domain), ``clean`` (percent, NaN without the clean
        domain), ``grid`` (corruption -> severity -> percent), ``corruption``,
        ``severity``, ``category`` (name -> percent), ``overall`` and
        ``retention`` (percent).
    """
    grid = {}
    for domain, report in reports.items():
        parts = split_domain(domain)
        if parts is not None:
            corruption, severity = parts
            row = grid.setdefault(corruption, {})
            row[severity] = report['metrics'][metric]
    by_corruption = {name: _mean(row.values()) for name, row in grid.items()}
    severities = sorted({s for row in grid.values() for s in row})
    clean = reports.get(CLEAN, {}).get('metrics', {}).get(metric, math.nan)
    overall = _mean(by_corruption.values())
    return dict(
        images=max((r['images'] for r in reports.values()), default=0),
        clean=clean,
        grid=grid,
        corruption=by_corruption,
        severity={
            s: _mean(row[s] for row in grid.values() if s in row)
            for s in severities
        },
        category={
            category: _mean(by_corruption[n] for n in names if n in grid)
            for category, names in CATEGORIES.items()
            if any(name in grid for name in names)
        },
        overall=overall,
        retention=100 * overall / clean if clean else math.nan,
    )


def _mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def corruption_table(summary: dict) -> str:
    """Format mIoU by corruption (rows) and severity (columns), with means.

    Args:
        summary: See :func:`clouds_mmseg.robustness.metric.summarize`.

    Returns:
        The table, and a line about the clean images.
    """
    severities = list(summary['severity'])
    rows: list[list | None] = []
    for category, names in CATEGORIES.items():
        present = [name for name in names if name in summary['grid']]
        for name in present:
            row = summary['grid'][name]
            cells = [percent_cell(row.get(s)) for s in severities]
            mean = percent_cell(summary['corruption'][name])
            rows.append([name, *cells, mean])
        if present:
            cells = [
                percent_cell(_severity_mean(summary['grid'], present, s))
                for s in severities
            ]
            mean = percent_cell(summary['category'][category])
            rows += [[f'mean of {category}', *cells, mean], None]
    cells = [percent_cell(value) for value in summary['severity'].values()]
    count = len(summary['grid'])
    what = f'mean of {count} corruption{"s" if count != 1 else ""}'
    rows.append([what, *cells, percent_cell(summary['overall'])])
    table = format_table(['corruption', *map(str, severities), 'mean'], rows)
    line = f'{summary["images"]} images a cell'
    if not math.isnan(summary['clean']):
        line += (
            f'; clean {summary["clean"]:.2f}, kept under corruption '
            f'{summary["retention"]:.1f} % of it'
        )
    return f'{table}\n{line}'


def _severity_mean(grid, names, severity):
    values = [grid[n][severity] for n in names if severity in grid[n]]
    return sum(values) / len(values) if values else None


def class_by_category_table(
    reports: dict[str, dict], classes: Sequence[str]
) -> str:
    """Format IoU by class (rows) and category of corruptions (columns).

    Args:
        reports: Domain -> ``class_iou`` (class -> percent, None where the
            class does not occur).
        classes: The rows.
    """
    columns = {CLEAN: [CLEAN]} if CLEAN in reports else {}
    for category, names in CATEGORIES.items():
        domains = [
            domain
            for domain in reports
            if (split_domain(domain) or ('',))[0] in names
        ]
        if domains:
            columns[category] = domains
    rows = []
    for name in classes:
        cells = []
        for domains in columns.values():
            values = [
                reports[d].get('class_iou', {}).get(name) for d in domains
            ]
            values = [v for v in values if v is not None]
            mean = sum(values) / len(values) if values else None
            cells.append(percent_cell(mean))
        rows.append([name, *cells])
    return format_table(['class', *columns], rows)
