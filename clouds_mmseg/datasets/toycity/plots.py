"""The land along a street: blocks, houses, gardens, and its far end."""

from clouds_mmseg.datasets.toycity.boundaries import Boundary
from clouds_mmseg.datasets.toycity.buildings import Building
from clouds_mmseg.datasets.toycity.placer import in_view
from clouds_mmseg.datasets.toycity.plants import Plant

# Where the street ends, in metres.
END = 110
HEIGHTS = {'tree': (5, 9), 'conifer': (4, 8), 'bush': (1.0, 1.8)}
KINDS = ('wall', 'fence', 'front', 'yard')


def place_plots(place, side):
    """Fill the land beyond the pavement, block after block.

    Args:
        place (Placer): Where to.
        side (Side): Which side of the street.
    """
    x = side.plot + side.sign * 0.35
    z = place.between(2, 8)
    # The first block is the one that is seen best.
    kind = place.choice(KINDS, (0.33, 0.33, 0.2, 0.14))
    end = z + place.between(10, 20)
    if kind in ('wall', 'fence'):
        end = max(end, in_view(x, 6) + place.between(7, 13))
    while z < END:
        if kind == 'front':
            _front(place, side.sign, x, z, end)
        else:
            if kind != 'yard' or place.chance(0.4):
                _boundary(place, kind, x, z, end)
            _yard(place, side.sign, x, z, end)
        gap = place.between(1, 4) if place.chance(0.3) else 0.05
        z = end + gap
        end = z + place.between(10, 20)
        kind = place.choice(KINDS, (0.2, 0.2, 0.4, 0.2))


def place_end(place):
    """Close the view down the street with houses or with trees."""
    x = -60.0
    houses = place.chance(0.5)
    while x < 60:
        if houses:
            width = place.between(12, 22)
            z, height = place.between(114, 130), place.between(9, 22)
            house = Building(x + width / 2, z, width, 12.0, height)
            place.put(house, 0.0)
            x += width + 0.1
        else:
            z = place.between(114, 150)
            place.put(plant(place, 'tree', x, z, (10, 16)))
            x += place.between(5, 9)


def plant(place, kind, x, z, heights=None):
    """A plant of that kind, of a size of its own."""
    low, high = heights or HEIGHTS[kind]
    return Plant(x, z, kind, place.between(low, high), place.seed())


def _front(place, sign, x, z, end):
    depth = place.between(8, 14)
    block = Building(
        x + sign * depth / 2,
        z,
        depth,
        end - z,
        place.between(6, 17),
        shop=place.chance(0.5),
    )
    place.put(block, 0.0)


def _boundary(place, kind, x, z, end):
    boundary = Boundary(
        x,
        z,
        'hedge' if kind == 'yard' else kind,
        end - z - 0.2,
        place.between(1.3, 2.3),
        place.chance(0.5),
    )
    place.put(boundary, 0.0)


def _yard(place, sign, x, z, end):
    back = place.between(4, 8)
    if place.chance(0.7) and end - z > 9:
        width = place.between(7, 10)
        house = Building(
            x + sign * (back + width / 2),
            z + 1,
            width,
            end - z - 2.5,
            place.between(3.2, 6.4),
            pitched=place.chance(0.8),
        )
        place.put(house, 0.0)
    for _ in range(place.count(1, 3)):
        at = x + sign * place.between(1.6, max(back - 0.8, 2))
        kind = place.choice(tuple(HEIGHTS))
        place.put(plant(place, kind, at, place.between(z, end)))
