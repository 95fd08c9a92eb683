"""What closes a plot towards the street: walls, fences, hedges."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.item import Item
from clouds_mmseg.datasets.toycity.look import FENCE, VEGETATION, WALL, dim
from clouds_mmseg.datasets.toycity.shapes import bar, rect, rects
from clouds_mmseg.datasets.toycity.solids import box


@dataclass(frozen=True)
class Boundary(Item):
    """A wall, a fence or a hedge along the street.

    Attributes:
        kind: 'wall', 'fence' or 'hedge'.
        length: Extent along the street in metres, from z on.
        height: Height in metres.
        picket: Whether a fence is of upright boards, not of wire and rails.
    """

    kind: str = 'wall'
    length: float = 10.0
    height: float = 1.6
    picket: bool = False

    reach = 0.4

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return (self.x - 0.2, self.x + 0.2, self.z, self.z + self.length)

    @property
    def top(self):
        """Height in metres."""
        return self.height

    @property
    def solid(self):
        """Height in metres; one sees through a fence."""
        return 0.0 if self.kind == 'fence' else self.height

    def draw(self, canvas, look):
        """Paint the boundary."""
        frame = canvas.camera.frame(self.x, self.z)
        draw = {'wall': self._wall, 'fence': self._fence, 'hedge': self._hedge}
        draw[self.kind](canvas, look, frame)

    def _block(self, canvas, frame, half, colour, class_id, **options):
        return box(
            canvas,
            frame,
            (-half, half),
            (0, self.height),
            (0, self.length),
            colour,
            class_id,
            **options,
        )

    def _wall(self, canvas, look, frame):
        stone = look.pick('wall')
        colours = {None: stone, 'top': dim(stone, 1.1)}
        faces = self._block(canvas, frame, 0.2, colours, WALL, rough=0.6)
        joint = dim(stone, 0.72)
        rows = np.arange(0.5, self.height - 0.2, 0.5)
        coping = rect(0, self.height - 0.2, self.length, self.height)
        for name in ('left', 'right'):
            face = faces.get(name)
            canvas.detail(face, rects([0.0], rows, self.length, 0.05), joint)
            upright = [
                rects(
                    np.arange(i % 2 / 2, self.length, 1), [v - 0.5], 0.05, 0.5
                )
                for i, v in enumerate(rows)
            ]
            if upright:
                canvas.detail(face, np.concatenate(upright), joint)
            canvas.detail(face, [coping], dim(stone, 1.15))

    def _fence(self, canvas, look, frame):
        paint, top = look.pick('fence'), self.height
        length = self.length
        face = frame.face((0, 0, 0), (0, 0, 1), (0, 1, 0))
        panel = canvas.paint(
            face,
            rect(0, 0, length, top),
            paint,
            FENCE,
            rough=0.1,
            opacity=0.3,
        )
        if self.picket:
            boards = rects(np.arange(0, length, 0.32), [0.0], 0.2, top)
            canvas.detail(panel, boards, paint)
            rails, shade = (top * 0.22, top * 0.72), dim(paint, 0.7)
        else:
            for sign in (-1, 1):
                wire = [
                    bar((u, 0.05), (u + sign * top, top), 0.045)
                    for u in np.arange(0, length, 0.5)
                    if 0 <= u + sign * top <= length
                ]
                canvas.detail(
                    panel,
                    np.array(wire).reshape(-1, 4, 2),
                    dim(paint, 0.85),
                )
            rails, shade = (0.1, top - 0.1), paint
        canvas.detail(panel, rects([0.0], rails, length, 0.11), shade)
        posts = rects(np.arange(0, length, 2.0), [0.0], 0.18, top)
        canvas.detail(panel, posts, dim(paint, 0.8))

    def _hedge(self, canvas, look, frame):
        leaf = look.pick('leaf')
        colours = {None: leaf, 'top': dim(leaf, 1.2)}
        faces = self._block(
            canvas, frame, 0.45, colours, VEGETATION, rough=0.9
        )
        # Darker and lighter tufts keep it from looking like a green wall.
        for factor in (0.78, 1.2):
            spots = look.rng.uniform(
                (0, 0), (self.length - 0.6, self.height - 0.4), (14, 2)
            )
            tufts = np.array(
                [
                    [(u, v), (u + 0.35, v - 0.08), (u + 0.55, v + 0.2),
                     (u + 0.25, v + 0.4)]
                    for u, v in spots
                ]
            )  # fmt: skip
            for name in ('left', 'right'):
                canvas.detail(faces.get(name), tufts, dim(leaf, factor))
