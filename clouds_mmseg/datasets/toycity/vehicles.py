"""What drives on the road, each kind in a shape of its own."""

from dataclasses import dataclass

from clouds_mmseg.datasets.toycity.cars import draw_car
from clouds_mmseg.datasets.toycity.item import Item, centred
from clouds_mmseg.datasets.toycity.look import ground_shadow
from clouds_mmseg.datasets.toycity.transit import draw_bus, draw_tram
from clouds_mmseg.datasets.toycity.trucks import draw_truck

DRAW = {'truck': draw_truck, 'bus': draw_bus, 'tram': draw_tram}


@dataclass(frozen=True)
class Vehicle(Item):
    """Anything on four wheels or rails.

    Attributes:
        kind: 'hatch', 'sedan', 'van', 'truck', 'bus' or 'tram'.
        heading: Direction of travel, radians clockwise from world z; only
            0 and pi keep the footprint true.
        length: Length in metres.
    """

    kind: str = 'hatch'
    heading: float = 0.0
    length: float = 4.4

    @property
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""
        wide = 1.27 if self.kind in DRAW else 0.92
        return centred(self.x, self.z, wide, self.length / 2)

    @property
    def top(self):
        """Height of the vehicle in metres."""
        return 4.4 if self.kind in DRAW else 2.0

    @property
    def solid(self):
        """Height of its vertical walls in metres."""
        return {'truck': 2.9, 'bus': 3.0, 'tram': 1.2}.get(self.kind, 0.75)

    def draw(self, canvas, look):
        """Paint the vehicle."""
        frame = canvas.camera.frame(self.x, self.z, self.heading)
        half = self.length / 2
        wide = 1.5 if self.kind in DRAW else 1.15
        ground_shadow(canvas, look, frame, wide, half + 0.2)
        DRAW.get(self.kind, draw_car)(canvas, look, frame, self)
