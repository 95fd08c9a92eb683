"""Houses and what closes a plot: walls, fences, hedges."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.look import (
    BUILDING,
    FENCE,
    VEGETATION,
    WALL,
    WARM_LAMP,
    dim,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import (
    Frame,
    bar,
    box,
    paint_face,
    rect,
    rects,
)

GROUND = Frame()


@dataclass(frozen=True)
class Building:
    """A block of a street front, or a house with a pitched roof.

    Attributes:
        xs: Extent across the street in metres.
        zs: Extent along the street in metres.
        height: Height of the eaves in metres.
        pitched: Whether it has a gable roof.
        shop: Whether the ground floor is a shop window.
    """

    xs: tuple[float, float]
    zs: tuple[float, float]
    height: float
    pitched: bool = False
    shop: bool = False

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return (*self.xs, *self.zs)

    def draw(self, canvas, look):
        """Paint the building."""
        plaster, trim = look.pick('building'), look.pick('kerb')
        roof = look.pick('roof')
        colours = (look.pick('window'), look.pick('door'), look.pick('shop'))
        faces = box(
            canvas, GROUND, self.xs, (0, self.height), self.zs,
            {None: plaster, 'top': roof}, BUILDING, rough=0.5,
        )  # fmt: skip
        if self.pitched:
            self._roof(canvas, plaster, roof)
        for name in ('left', 'right', 'back'):
            if name not in faces:
                continue
            extent = self.xs if name == 'back' else self.zs
            self._facade(
                canvas, look, faces[name], extent[1] - extent[0], colours, trim
            )

    def _roof(self, canvas, plaster, roof):
        (x0, x1), (z0, z1) = self.xs, self.zs
        middle = (x0 + x1) / 2
        low, top = self.height, self.height + 0.32 * (x1 - x0)
        gable = [(x0, low, z0), (x1, low, z0), (middle, top, z0)]
        near, far = x0 - 0.4, x1 + 0.4
        eye = canvas.camera.x
        for edge, other in ((near, middle), (far, middle)):
            slope = [(edge, low - 0.2, z0 - 0.3), (edge, low - 0.2, z1 + 0.3),
                     (other, top, z1 + 0.3), (other, top, z0 - 0.3)]  # fmt: skip
            visible = eye < middle if edge == near else eye > middle
            if visible:
                canvas.surface(np.array(slope), roof, BUILDING, rough=0.5)
        canvas.surface(np.array(gable), plaster, BUILDING, rough=0.5)

    def _facade(self, canvas, look, face, length, colours, trim):
        window, door, shop = colours
        floors = max(int(self.height // 3.1), 1)
        rise = self.height / floors
        bays = max(int(length // 2.6), 1)
        step = length / bays
        us = np.arange(bays) * step + step * 0.27
        start = 1 if floors > 1 else 0
        vs = np.arange(start, floors) * rise + rise * 0.28
        size = (step * 0.46, rise * 0.52)
        frame = rects(us - 0.09, vs - 0.09, size[0] + 0.18, size[1] + 0.18)
        canvas.detail(face, frame, trim)
        panes = rects(us, vs, *size)
        lit = look.rng.random(len(panes)) < 0.35
        canvas.detail(face, panes[~lit], window)
        for pane in panes[lit]:
            glow = dim(WARM_LAMP, look.rng.uniform(0.35, 0.75))
            canvas.detail(face, [pane], mix(window, (255, 255, 255), 0.12),
                          glow=glow)  # fmt: skip
        sill = self.height - 0.35
        canvas.detail(face, [rect(0, sill, length, self.height)], trim)
        if floors > 1:
            if self.shop:
                canvas.detail(
                    face,
                    rects(np.arange(bays) * step + 0.25, [0.45], step - 0.5,
                          rise - 1.2),
                    shop, glow=dim(WARM_LAMP, 0.55),
                )  # fmt: skip
                canvas.detail(
                    face, [rect(0, rise - 0.6, length, rise - 0.1)], door
                )
            else:
                canvas.detail(
                    face, rects(us[::2], [0.1], step * 0.4, rise * 0.7), door
                )
                canvas.detail(
                    face, rects(us[1::2], [0.9], size[0], size[1] * 0.9),
                    window,
                )  # fmt: skip


@dataclass(frozen=True)
class Boundary:
    """A wall, a fence or a hedge along the street.

    Attributes:
        kind: 'wall', 'fence' or 'hedge'.
        x: Place across the street in metres.
        zs: Extent along the street in metres.
        height: Height in metres.
        picket: Whether a fence is of upright boards, not of wire and rails.
    """

    kind: str
    x: float
    zs: tuple[float, float]
    height: float
    picket: bool = False

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        return (self.x - 0.2, self.x + 0.2, *self.zs)

    def draw(self, canvas, look):
        """Paint the boundary."""
        {'wall': self._wall, 'fence': self._fence, 'hedge': self._hedge}[
            self.kind
        ](canvas, look)

    def _wall(self, canvas, look):
        stone = look.pick('wall')
        faces = box(
            canvas, GROUND, (self.x - 0.2, self.x + 0.2), (0, self.height),
            self.zs, {None: stone, 'top': dim(stone, 1.1)}, WALL, rough=0.6,
        )  # fmt: skip
        length = self.zs[1] - self.zs[0]
        joint = dim(stone, 0.72)
        for name in ('left', 'right'):
            face = faces.get(name)
            rows = np.arange(0.5, self.height - 0.2, 0.5)
            canvas.detail(face, rects([0.0], rows, length, 0.05), joint)
            for i, row in enumerate(rows):
                us = np.arange(0.5 * (i % 2), length, 1.0)
                canvas.detail(face, rects(us, [row - 0.5], 0.05, 0.5), joint)
            canvas.detail(
                face, [rect(0, self.height - 0.2, length, self.height)],
                dim(stone, 1.15),
            )  # fmt: skip

    def _fence(self, canvas, look):
        paint = look.pick('fence')
        z0, z1 = self.zs
        length = z1 - z0
        face = GROUND.face((self.x, 0, z0), (0, 0, 1), (0, 1, 0))
        panel = paint_face(
            canvas, face, rect(0, 0, length, self.height), paint, FENCE,
            rough=0.1, opacity=0.3,
        )  # fmt: skip
        if panel is None:
            return
        top = self.height
        if self.picket:
            us = np.arange(0, length, 0.32)
            canvas.detail(panel, rects(us, [0.0], 0.2, top), paint)
            rails = (top * 0.22, top * 0.72)
            shade = dim(paint, 0.7)
        else:
            lines = [
                bar((u, 0.05), (u + sign * top, top), 0.045)
                for u in np.arange(-top, length + top, 0.5)
                for sign in (-1, 1)
            ]
            inside = [
                line for line in lines
                if line[:, 0].min() >= 0 and line[:, 0].max() <= length
            ]  # fmt: skip
            canvas.detail(panel, inside, dim(paint, 0.85))
            rails = (0.1, top - 0.1)
            shade = paint
        canvas.detail(panel, rects([0.0], rails, length, 0.11), shade)
        posts = np.arange(0, length, 2.0)
        canvas.detail(panel, rects(posts, [0.0], 0.18, top), dim(paint, 0.8))

    def _hedge(self, canvas, look):
        leaf = look.pick('leaf')
        box(
            canvas, GROUND, (self.x - 0.5, self.x + 0.5), (0, self.height),
            self.zs, {None: leaf, 'top': dim(leaf, 1.2)}, VEGETATION,
            rough=0.9,
        )  # fmt: skip
