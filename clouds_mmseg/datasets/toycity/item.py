"""What every object of a street can say about itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Item(ABC):
    """Base of all objects; a subclass adds its shape and ``draw``.

    Attributes:
        x: Place across the street in metres.
        z: Place along the street in metres.
    """

    x: float
    z: float

    # How far the object sticks out over its footprint, in metres.
    reach = 0.0
    # World point (3,) of a lamp that lights the street.
    lamp = None

    @property
    @abstractmethod
    def box(self):
        """Footprint (x0, x1, z0, z1) in metres."""

    @property
    @abstractmethod
    def top(self):
        """Height that nothing of the object exceeds, in metres."""

    @property
    def solid(self):
        """Height up to which the footprint is opaque, in metres."""
        return 0.0

    @abstractmethod
    def draw(self, canvas, look):
        """Paint the object.

        Args:
            canvas (Canvas): Where.
            look (Look): Colours.
        """


def centred(x, z, half_x, half_z):
    """Footprint (x0, x1, z0, z1) around a point."""
    return (x - half_x, x + half_x, z - half_z, z + half_z)
