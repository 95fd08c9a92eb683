"""Trees and bushes."""

from dataclasses import dataclass

import numpy as np

from clouds_mmseg.datasets.toycity.look import VEGETATION, dim, ground_shadow
from clouds_mmseg.datasets.toycity.shapes import Frame, disc, paint_face


@dataclass(frozen=True)
class Plant:
    """A tree, a conifer or a bush.

    Attributes:
        kind: 'tree', 'conifer' or 'bush'.
        x: Place across the street in metres.
        z: Place along the street in metres.
        height: Height in metres.
        seed: What shapes the crown.
    """

    kind: str
    x: float
    z: float
    height: float
    seed: int = 0

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres, of the stem."""
        return (self.x - 0.3, self.x + 0.3, self.z - 0.3, self.z + 0.3)

    def draw(self, canvas, look):
        """Paint the stem, then the crown from the shade into the light."""
        rng = np.random.default_rng(self.seed)
        face = canvas.billboard(self.x, self.z)
        leaf = look.pick('leaf')
        h = self.height
        reach = 0.25 * h
        ground_shadow(
            canvas, look, Frame(self.x, self.z), (-reach, reach),
            (-0.6 * reach, 0.6 * reach),
        )  # fmt: skip

        def leaves(outline, factor):
            paint_face(
                canvas, face, outline, dim(leaf, factor), VEGETATION,
                rough=0.9, shade=False,
            )  # fmt: skip

        if self.kind != 'bush':
            wide = 0.035 * h
            paint_face(
                canvas, face,
                [(-wide, 0), (wide, 0), (wide * 0.7, 0.55 * h),
                 (-wide * 0.7, 0.55 * h)],
                look.pick('trunk'), VEGETATION, rough=0.6, shade=False,
            )  # fmt: skip
        if self.kind == 'conifer':
            for i in range(4):
                low, w = (0.15 + 0.19 * i) * h, (0.24 - 0.045 * i) * h
                leaves(
                    [(-w, low), (w, low), (0, low + 0.34 * h)],
                    0.8 + 0.12 * i,
                )
            return
        centre = 0.68 * h if self.kind == 'tree' else 0.45 * h
        spread = 0.24 * h if self.kind == 'tree' else 0.5 * h
        angles = rng.uniform(0, 2 * np.pi, 9)
        away = np.sqrt(rng.uniform(0.1, 1, 9)) * spread
        us, vs = away * np.cos(angles), away * 0.75 * np.sin(angles)
        sizes = spread * rng.uniform(0.55, 0.8, 9)
        leaves(disc(0, centre, spread, stretch=0.85), 0.8)
        for u, v, size in zip(us, vs, sizes, strict=True):
            leaves(disc(u, centre + v, size, points=9, turn=u), 0.82)
        for u, v, size in zip(us, vs, sizes, strict=True):
            leaves(
                disc(u - size * 0.12, centre + v + size * 0.2, size * 0.66,
                     points=9, turn=v),
                1.0 + 0.3 * v / spread,
            )  # fmt: skip
