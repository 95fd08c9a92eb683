"""Trees and bushes."""

import math
from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.item import Item, centred
from clouds_mmseg.datasets.toycity.look import VEGETATION, dim, ground_shadow
from clouds_mmseg.datasets.toycity.shapes import disc

# A plant of fewer pixels of the canvas than this is drawn with few leaves.
SMALL = 110


@dataclass(frozen=True)
class Plant(Item):
    """A tree, a conifer or a bush.

    Attributes:
        kind: 'tree', 'conifer' or 'bush'.
        height: Height in metres.
        seed: What shapes the crown.
    """

    kind: str = 'tree'
    height: float = 6.0
    seed: int = 0

    @property
    def reach(self):
        """How far the crown sticks out over the stem, in metres."""
        return self.height * (0.9 if self.kind == 'bush' else 0.45)

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) of the stem in metres."""
        return centred(self.x, self.z, 0.3, 0.3)

    @property
    def top(self):
        """Height in metres."""
        return 1.15 * self.height

    def draw(self, canvas, look):
        """Paint the stem, then the crown from the shade into the light."""
        camera, height = canvas.camera, self.height
        leaf, trunk = look.pick('leaf'), look.pick('trunk')
        frame = camera.frame(self.x, self.z)
        ground_shadow(canvas, look, frame, 0.25 * height, 0.15 * height)
        # From here on a unit is the height of the plant.
        face = camera.billboard(self.x, self.z, height)

        def leaves(outline, factor):
            canvas.paint(
                face,
                outline,
                dim(leaf, factor),
                VEGETATION,
                rough=0.9,
                shade=False,
            )

        if self.kind != 'bush':
            stem = [(-0.035, 0), (0.035, 0), (0.025, 0.55), (-0.025, 0.55)]
            canvas.paint(face, stem, trunk, VEGETATION, rough=0.6, shade=False)
        if self.kind == 'conifer':
            for i in range(4):
                low, half = 0.15 + 0.19 * i, 0.24 - 0.045 * i
                tier = [(-half, low), (half, low), (0, low + 0.34)]
                leaves(tier, 0.8 + 0.12 * i)
            return
        small = canvas.scale_at(self.z) * height < SMALL
        _crown(leaves, self.kind, 4 if small else 8, self.seed)


def _crown(leaves, kind, count, seed):
    rng = np.random.default_rng(seed)
    centre, spread = (0.68, 0.24) if kind == 'tree' else (0.45, 0.5)
    clumps = []
    for angle, away, size in rng.random((count, 3)).tolist():
        away = math.sqrt(0.1 + 0.9 * away) * spread
        u = away * math.cos(2 * math.pi * angle)
        v = away * 0.75 * math.sin(2 * math.pi * angle)
        clumps.append((u, v, spread * (0.55 + 0.25 * size)))
    leaves(disc(0, centre, spread, stretch=0.85), 0.8)
    for u, v, size in clumps:
        leaves(disc(u, centre + v, size, points=9, turn=u), 0.82)
    for u, v, size in clumps:
        lit = disc(
            u - size * 0.12,
            centre + v + size * 0.2,
            size * 0.66,
            points=9,
            turn=v,
        )
        leaves(lit, 1.0 + 0.3 * v / spread)
