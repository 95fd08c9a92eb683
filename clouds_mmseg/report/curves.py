"""Curves as SVG, drawn by matplotlib.

matplotlib is there anyway, as MMEngine needs it, and an SVG of some kilobytes
prints, opens everywhere and needs no script. (Plotly, Bokeh and Altair would
put their whole JavaScript library into each file.) Colours are variables of
the page's style sheet, so that one drawing serves light and dark; the
positions of the points go into the page for its few lines of script that show
values.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clouds_mmseg.report.pictures import evenly
from clouds_mmseg.report.read_run import Curve

# Points of a curve that are drawn.
_MOST = 600
# Points are marked where there are so few.
_FEW = 25
_SIZE = (400, 240)
_COLORS = 8
_DASHES = ('-', '--', '-.', ':')
# matplotlib draws in these colours, which become variables of the style sheet.
_INK, _GRID, _MARK = '#010101', '#020202', '#030303'
_VARIABLES = {_INK: '--ink', _GRID: '--grid', _MARK: '--mark'}
_SERIES = [f'#0400{i:02x}' for i in range(_COLORS)]
_VARIABLES.update({c: f'--series-{i}' for i, c in enumerate(_SERIES)})
_STYLE = {
    # Text stays text, and none of it is a formula.
    'svg.fonttype': 'none',
    'text.parse_math': False,
    'font.family': 'sans-serif',
    'font.size': 12,
    'axes.edgecolor': _INK,
    'axes.labelcolor': _INK,
    'xtick.color': _INK,
    'ytick.color': _INK,
    'grid.color': _GRID,
    'path.simplify': False,
}


@dataclass
class Series:
    """A curve.

    Attributes:
        name: Of the curve.
        curve: Its values.
        number: From 0; gives the colour and, where these repeat, the dashes.
        is_second: Whether it goes with another curve of the same colour, from
            which dots tell it.
    """

    name: str
    curve: Curve
    number: int
    is_second: bool = False

    @property
    def color(self) -> int:
        """Index of the colour."""
        return self.number % _COLORS

    @property
    def dash(self) -> int:
        """Index of the dashes."""
        if self.is_second:
            return _DASHES.index(':')
        return self.number // _COLORS % len(_DASHES)


@dataclass
class Plot:
    """A drawing of curves.

    Attributes:
        title: What is drawn.
        svg: The drawing.
        points: Series -> positions in the drawing, iteration and value.
        series: Name, colour and dashes of each curve.
        rows: Name, first, last, lowest and highest value of each curve, each
            with its iteration.
        note: What else a reader has to know.
    """

    title: str
    svg: Markup
    points: list[dict[str, Any]]
    series: list[Series]
    rows: list[tuple]
    note: str = ''


@dataclass
class Request:
    """What to draw.

    Attributes:
        title: Of the plot, with the unit.
        series: Curves; those without a finite value are left out.
        marks: Iterations at which something begins.
        note: See :class:`Plot`.
    """

    title: str
    series: list[Series]
    marks: list[int] = field(default_factory=list)
    note: str = ''


def draw(requests: Sequence[Request], prefix: str) -> list[Plot]:
    """Draw the plots that have a curve of at least two points.

    Args:
        requests: What to draw.
        prefix: Of the names inside of the drawings.

    Returns:
        Plots in the same order.
    """
    plots = []
    for request in requests:
        shown = [
            replace(s, curve=finite)
            for s in request.series
            if (finite := _finite(s.curve))
        ]
        if any(len(s.curve) > 1 for s in shown):
            plots.append(_draw(request, shown, f'{prefix}-{len(plots)}'))
    return plots


def _finite(curve):
    return {s: v for s, v in sorted(curve.items()) if math.isfinite(v)}


def _draw(request, shown, name):
    width, height = _SIZE
    thinned = max(len(s.curve) for s in shown) > _MOST
    with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):
        # 72 dots an inch: a pixel of the figure is a unit of the SVG.
        figure = Figure(
            (width / 72, height / 72), dpi=72, layout='constrained'
        )
        axes = figure.subplots()
        lines = [
            (series, evenly(list(series.curve.items()), _MOST))
            for series in shown
        ]
        for series, points in lines:
            axes.plot(
                *zip(*points, strict=True),
                color=_SERIES[series.color],
                linestyle=_DASHES[series.dash],
                linewidth=1.8,
                marker='o' if len(points) <= _FEW else None,
                markersize=4,
            )
        for mark in request.marks:
            axes.axvline(mark, color=_MARK, linewidth=1, linestyle=(0, (2, 2)))
        axes.grid(linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        axes.xaxis.set_major_locator(
            MaxNLocator(6, integer=True, steps=[1, 2, 5, 10])
        )
        axes.set_xlabel('iteration')
        stream = io.StringIO()
        unknown = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
        figure.savefig(
            stream, format='svg', transparent=True, metadata=unknown
        )
        points = [
            dict(
                name=series.name,
                color=series.color,
                points=[_position(axes, height, *p) for p in points],
            )
            for series, points in lines
        ]
    note = request.note
    if thinned:
        note += f' Curves show {_MOST} values each, evenly chosen.'
    label = f'{request.title}: ' + '; '.join(
        f'{s.name} from {_short(first)} to {_short(last)}'
        for s in shown
        for first, last in [[[*s.curve.values()][0], [*s.curve.values()][-1]]]
    )
    svg = _page_svg(stream.getvalue(), name, label)
    rows = [_summary(series) for series in shown]
    return Plot(request.title, svg, points, shown, rows, note.strip())


def _position(axes, height, step, value):
    """Return x and y in the SVG, iteration, and value as text."""
    x, y = axes.transData.transform((step, value))
    return [round(x, 1), round(height - y, 1), step, _short(value)]


def _short(value):
    return f'{value:.4g}'


def _summary(series):
    steps = list(series.curve)
    key = series.curve.__getitem__
    chosen = (steps[0], steps[-1], min(steps, key=key), max(steps, key=key))
    return (series.name, [(_short(key(s)), s) for s in chosen])


def _page_svg(text, name, label):
    """Turn matplotlib's file into an element of a page."""
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    text = re.sub(r'<!--.*?-->', '', text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', '', text)
    text = text.replace('xlink:href', 'href')
    # Names are those of the whole page.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf'\1#{name}-', text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f'var({variable})')
    text = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 >', text, count=1
    )
    attributes = f'role="img" aria-label="{escape(label)}"'
    return Markup(text.replace('>', f' {attributes}>', 1))
