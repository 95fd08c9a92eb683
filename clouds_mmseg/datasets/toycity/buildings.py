"""Houses and blocks."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.geometry import Face
from clouds_mmseg.datasets.toycity.item import Item
from clouds_mmseg.datasets.toycity.look import (
    BUILDING,
    WARM_LAMP,
    WHITE,
    dim,
    mix,
)
from clouds_mmseg.datasets.toycity.shapes import rect, rects
from clouds_mmseg.datasets.toycity.solids import box

# A facade of fewer pixels of the canvas than this shows no windows.
PLAIN = 14


@dataclass(frozen=True)
class Building(Item):
    """A block of a street front, or a house with a pitched roof.

    Attributes:
        width: Extent across the street in metres, around x.
        length: Extent along the street in metres, from z on.
        height: Height of the eaves in metres.
        pitched: Whether it has a gable roof.
        shop: Whether the ground floor is a shop window.
    """

    width: float = 10.0
    length: float = 12.0
    height: float = 9.0
    pitched: bool = False
    shop: bool = False

    reach = 0.5

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        half = self.width / 2
        return (self.x - half, self.x + half, self.z, self.z + self.length)

    @property
    def top(self):
        """Height of the ridge or of the flat roof in metres."""
        return self.height + (0.4 * self.width if self.pitched else 0.1)

    @property
    def solid(self):
        """Height of the walls in metres."""
        return self.height

    def draw(self, canvas, look):
        """Paint the building."""
        plaster, trim = look.pick('building'), look.pick('kerb')
        roof = look.pick('roof')
        colours = (look.pick('window'), look.pick('door'), look.pick('shop'))
        frame = canvas.camera.frame(self.x, self.z)
        half = self.width / 2
        faces = box(
            canvas,
            frame,
            (-half, half),
            (0, self.height),
            (0, self.length),
            {None: plaster, 'top': roof},
            BUILDING,
            rough=0.5,
        )
        if self.pitched:
            self._roof(canvas, frame, plaster, roof)
        for name in ('left', 'right', 'back'):
            if name in faces:
                extent = self.width if name == 'back' else self.length
                self._facade(canvas, look, faces[name], extent, colours, trim)

    def _roof(self, canvas, frame, plaster, roof):
        half = self.width / 2
        rise = 0.32 * self.width
        length = self.length + 0.6
        for sign in (-1, 1):
            eaves = (sign * (half + 0.4), self.height - 0.2, -0.3)
            up = (-sign * (half + 0.4), rise + 0.2, 0)
            along = (0, 0, 1)
            # v x u has to point outwards on either side.
            slope = frame.face(eaves, *((up, along)[::-sign]))
            if slope.seen:
                outline = rect(0, 0, *((1, length)[::-sign]))
                canvas.paint(slope, outline, roof, BUILDING, rough=0.5)
        gable = frame.face((-half, self.height, 0), (1, 0, 0), (0, 1, 0))
        outline = [(0, 0), (self.width, 0), (half, rise)]
        canvas.paint(gable, outline, plaster, BUILDING, rough=0.5)

    def _facade(self, canvas, look, face, length, colours, trim):
        if self._extent(canvas, face, length) < PLAIN:
            return
        window, door, shop = colours
        floors = max(int(self.height // 3.1), 1)
        rise = self.height / floors
        bays = max(int(length // 2.6), 1)
        step = length / bays
        us = np.arange(bays) * step + step * 0.27
        start = 1 if floors > 1 else 0
        vs = np.arange(start, floors) * rise + rise * 0.28
        width, height = step * 0.46, rise * 0.52
        edge = 0.1
        frames = rects(us - edge, vs - edge, width + 2 * edge, height + 0.2)
        canvas.detail(face, frames, trim)
        panes = rects(us, vs, width, height)
        lit = look.rng.random(len(panes))
        canvas.detail(face, panes[lit >= 0.35], window)
        for low, high, glow in ((0, 0.18, 0.4), (0.18, 0.35, 0.75)):
            canvas.detail(
                face,
                panes[(lit >= low) & (lit < high)],
                mix(window, WHITE, 0.12),
                glow=dim(WARM_LAMP, glow),
            )
        cornice = rect(0, self.height - 0.35, length, self.height)
        canvas.detail(face, [cornice], trim)
        if start == 0:
            return
        if self.shop:
            panes = rects(us - step * 0.18, [0.45], step * 0.8, rise - 1.2)
            canvas.detail(face, panes, shop, glow=dim(WARM_LAMP, 0.5))
            sign = rect(0, rise - 0.6, length, rise - 0.1)
            canvas.detail(face, [sign], door)
            return
        doors = rects(us[::2], [0.1], step * 0.4, rise * 0.7)
        canvas.detail(face, doors, door)
        canvas.detail(face, rects(us[1::2], [0.9], width, height), window)

    def _extent(self, canvas, face: Face, length):
        """Roughly how many pixels of the canvas a facade is wide."""
        camera = canvas.camera
        columns = [
            camera.focal * x / max(z, 1.0)
            for x, _, z in (face.point(0, 0), face.point(length, 0))
        ]
        return abs(columns[1] - columns[0])
