"""Pictures of a report: the drawings of a run, cut into layers.

The hooks draw image | label | prediction side by side. Here they are taken
apart, so that one can be laid over the other, and what is wrong is marked.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clouds_mmseg.report.read_run import Run
from clouds_mmseg.utils.images import ImageFileError, open_image
from clouds_mmseg.utils.visualization import split_strip

# RGB of an error map.
RIGHT, WRONG, IGNORED = (226, 226, 226), (200, 30, 45), (60, 60, 60)
_WIDTH = 512
_QUALITY = 78


class Layer(NamedTuple):
    """One of the images of a figure that lie over one another.

    Attributes:
        kind: ``'image'``, ``'label'``, ``'prediction'`` or ``'error'``; the
            last two are followed by ``' of '`` and the name of the run if
            there are several.
        uri: Of the image, ``data:``.
    """

    kind: str
    uri: str


@dataclass
class Figure:
    """An image of a domain in several layers.

    Attributes:
        domain: Its domain.
        name: Of the image.
        width: Of all layers, pixels.
        height: Of all layers, pixels.
        layers: The image first.
        scores: Run -> mIoU of this image, where it is known.
    """

    domain: str
    name: str
    width: int
    height: int
    layers: list[Layer]
    scores: dict[str, float] = field(default_factory=dict)


class Step(NamedTuple):
    """Pseudo-labels of one iteration: image, teacher and refined."""

    iteration: int
    uris: list[str]
    width: int
    height: int


def error_map(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Mark where a prediction differs from the label.

    Args:
        label: (H, W, 3) uint8, in the colours of the classes; black is not
            compared.
        prediction: The same.

    Returns:
        (H, W, 3) uint8: grey where they are equal, red where they differ,
        dark where nothing is compared.
    """
    drawn = np.empty_like(label)
    drawn[:] = RIGHT
    drawn[(label != prediction).any(-1)] = WRONG
    drawn[(label == 0).all(-1)] = IGNORED
    return drawn


def read_panel(
    path: Path, classes: Sequence[str] | None
) -> tuple[list[Image.Image], list[tuple[int, int, int]]] | None:
    """Read a drawing of a hook and take it apart.

    Args:
        path: PNG file.
        classes: Of its legend; None without one.

    Returns:
        See :func:`~clouds_mmseg.utils.visualization.split_strip`; None for a
        file that cannot be read or has another layout.
    """
    try:
        with open_image(path.read_bytes()) as image:
            return split_strip(image.convert('RGB'), classes)
    except (OSError, ValueError, ImageFileError):
        return None


def photo_uri(image: Image.Image) -> str:
    """Encode a photograph as a ``data:`` address."""
    return _encode(_shrink(image), 'JPEG', quality=_QUALITY, optimize=True)


def map_uri(image: Image.Image) -> str:
    """Encode a map of few colours as a ``data:`` address, without loss."""
    image = _shrink(image, Image.Resampling.NEAREST)
    colors = image.getcolors(256)
    if colors:
        image = image.convert('P', palette=Image.Palette.ADAPTIVE)
    return _encode(image, 'PNG', optimize=True)


def _shrink(image, resampling=Image.Resampling.LANCZOS):
    if image.width <= _WIDTH:
        return image
    height = max(1, round(image.height * _WIDTH / image.width))
    return image.resize((_WIDTH, height), resampling)


def _encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    text = base64.b64encode(stream.getvalue()).decode('ascii')
    return f'data:image/{kind.lower()};base64,{text}'


def collect_figures(
    runs: Sequence[Run], chosen: dict[str, list[str]]
) -> tuple[list[Figure], list[str]]:
    """Lay the predictions of all runs over the images.

    Args:
        runs: With their drawings.
        chosen: Domain -> names of the images.

    Returns:
        Figures in that order, and what could not be shown.
    """
    figures, notes = [], set()
    # Run -> what follows the kind of a layer.
    suffixes = {r.name: f' of {r.name}' if len(runs) > 1 else '' for r in runs}
    for domain, names in chosen.items():
        for name in names:
            figure = None
            for run in runs:
                path = run.panels.get(domain, {}).get(name)
                if path is not None:
                    figure = _add_layers(
                        figure, run, domain, name, suffixes[run.name], notes
                    )
            if figure is not None:
                figures.append(figure)
    return figures, sorted(notes)


def _add_layers(figure, run, domain, name, suffix, notes):
    path = run.panels[domain][name]
    parts = read_panel(path, (run.results or {}).get('classes'))
    if parts is None:
        notes.add(
            f'{path.name} of {run.name} cannot be taken apart: it is damaged '
            'or of another version.'
        )
        return figure
    image, label, prediction = parts[0]
    size = _shrink(image).size
    if figure is None:
        layers = [Layer('image', photo_uri(image))]
        if np.asarray(label).any():
            layers.append(Layer('label', map_uri(label)))
        figure = Figure(domain, name, *size, layers)
    elif size != (figure.width, figure.height):
        notes.add(
            f'The drawings of {run.name} have another size than those of the '
            'runs before it and are not laid over the same images.'
        )
        return figure
    figure.layers.append(Layer(f'prediction{suffix}', map_uri(prediction)))
    if np.asarray(label).any():
        error = error_map(np.asarray(label), np.asarray(prediction))
        layer = Layer(f'error{suffix}', map_uri(Image.fromarray(error)))
        figure.layers.append(layer)
    score = image_score(run, domain, name)
    if score is not None:
        figure.scores[run.name] = score
    return figure


def image_score(run: Run, domain: str, name: str) -> float | None:
    """Return the mIoU of an image, percent; None if it is not recorded."""
    for record in run.images:
        if record['domain'] == domain and record.get('name') == name:
            return record.get('mIoU')
    return None


def class_colors(runs: Sequence[Run]) -> dict[str, str]:
    """Return class -> colour as in the drawings, such as ``'#804080'``."""
    for run in runs:
        classes = (run.results or {}).get('classes')
        for paths in run.panels.values():
            for path in paths.values():
                parts = read_panel(path, classes)
                if classes and parts:
                    colors = (
                        f'#{r:02x}{g:02x}{b:02x}' for r, g, b in parts[1]
                    )
                    return dict(zip(classes, colors, strict=True))
    return {}


def collect_steps(run: Run, most: int) -> list[Step]:
    """Read the drawings of pseudo-labels over time.

    Args:
        run: The run.
        most: Number of iterations shown, spread evenly; the first and the
            last are among them.

    Returns:
        By iteration; of each the first image.
    """
    iterations = evenly(sorted(run.pseudo_labels), most)
    steps = []
    for iteration in iterations:
        parts = read_panel(run.pseudo_labels[iteration][0], None)
        if parts is not None:
            image, *labels = parts[0]
            uris = [photo_uri(image), *map(map_uri, labels)]
            steps.append(Step(iteration, uris, *_shrink(image).size))
    return steps


def evenly(values: Sequence, most: int) -> list:
    """Choose at most so many values, with the first and the last."""
    if len(values) <= most:
        return list(values)
    if most < 2:
        return list(values[-1:]) if most else []
    last = len(values) - 1
    return [values[round(i * last / (most - 1))] for i in range(most)]
