"""Plots of the ablation."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from ablation.report import in_order
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.statistics import paired_difference

_COLORS = ('#31688e', '#d1495b')


def plot_gains(results: Mapping[str, Mapping], path: Path) -> None:
    """Plot the difference of each row to its baseline, with its interval.

    Args:
        results: Title of a schedule -> its results.
        path: Of the PNG file.
    """
    rows = {}
    for number, (title, data) in enumerate(results.items()):
        for row in in_order(data):
            theirs = data['rows'].get(row.baseline, {})
            found = paired_difference(data['rows'][row.name], theirs)
            if found is not None:
                rows.setdefault(row, []).append((number, title, found))
    height = 1.2 + 0.42 * len(rows)
    figure = Figure(figsize=(8, height), layout='constrained')
    axes = figure.subplots()
    shown = set()
    for place, (_, entries) in enumerate(rows.items()):
        for number, title, found in entries:
            y = place + 0.16 * (number - (len(results) - 1) / 2)
            margin = 0 if math.isinf(found.margin) else found.margin
            axes.errorbar(
                found.mean,
                y,
                xerr=margin,
                fmt='o',
                capsize=3,
                color=_COLORS[number % len(_COLORS)],
                label=None if title in shown else f'{title} iterations',
            )
            axes.scatter(
                found.values,
                [y] * len(found.values),
                s=8,
                color=_COLORS[number % len(_COLORS)],
                alpha=0.4,
            )
            shown.add(title)
    axes.axvline(0, color='0.6', linewidth=1)
    axes.set_yticks(range(len(rows)), [row.title.strip() for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(
        'difference to the same images without self-training, mIoU\n'
        '(mean with 95 % interval; small dots: seeds)'
    )
    if shown:
        axes.legend(loc='best', frameon=False)
    _save(figure, path)


def plot_accuracy(data: Mapping, path: Path) -> None:
    """Plot the mIoU of the labels that were trained on, over iterations.

    Args:
        data: Results of a schedule, whose teachers were measured.
        path: Of the PNG file.
    """
    figure = Figure(figsize=(10, 4), layout='constrained')
    axes = figure.subplots()
    # Rows with restyling are dashed and have colours of their own order.
    used_colours = Counter()
    for row in in_order(data):
        seeds = data['teacher'].get(row.name, {})
        curves = {}
        for measured in seeds.values():
            for iteration, values in measured.items():
                used = values.get('after', values['before'])
                curves.setdefault(int(iteration), []).append(used['mIoU'])
        if curves:
            x = sorted(curves)
            axes.plot(
                x,
                [mean(curves[i]) for i in x],
                marker='o',
                color=f'C{used_colours[row.is_restyled]}',
                linestyle='--' if row.is_restyled else '-',
                label=row.title.strip(),
            )
            used_colours[row.is_restyled] += 1
    axes.set_xlabel('iteration')
    axes.set_ylabel('mIoU of the pseudo labels')
    axes.grid(alpha=0.3)
    figure.legend(loc='outside right upper', frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format='png')
