"""Which objects are in sight, and in what order they are painted."""

import numpy as np

from clouds_mmseg.datasets.toycity.geometry import NEAR


def paint_order(boxes, eye):
    """Order in which boxes on the ground are painted, hidden ones first.

    Two upright boxes that do not overlap on the ground are parted by a line
    along or across the street; the one on the camera's side of it can only
    be in front.

    Args:
        boxes (np.ndarray): Footprints (N, 4) as (x0, x1, z0, z1) in metres.
        eye (float): Place of the camera across the street in metres; it
            stands at z = 0.

    Returns:
        list[int]: Indices into ``boxes``.
    """
    x0, x1, z0, z1 = boxes.T
    nearer = z1[:, None] <= z0[None]
    beside = (x1[:, None] <= x0[None]) & (eye <= x0[None])
    beside |= (x0[:, None] >= x1[None]) & (eye >= x1[None])
    front = nearer | (beside & ~nearer & ~nearer.T)
    waiting = front.sum(1)
    far = z0 + z1
    order = []
    for _ in range(len(boxes)):
        ready = waiting == 0
        # Overlapping boxes can wait for one another: then the farthest goes.
        pool = ready if ready.any() else waiting > 0
        index = int(np.argmax(np.where(pool, far, -np.inf)))
        order.append(index)
        waiting -= front[:, index]
        waiting[index] = -len(boxes)
    return order


def visible_items(items, camera, width, height):
    """Items that are in the picture and not behind solid ones.

    Args:
        items (Sequence[Item]): Objects that do not overlap.
        camera (Camera): Projection.
        width (int): Of the canvas in pixels.
        height (int): Of the canvas in pixels.

    Returns:
        list[Item]: In the order to paint them.
    """
    boxes = np.array([item.box for item in items], float)
    reach = np.array([item.reach for item in items], float)
    wide = boxes + reach[:, None] * np.array([-1, 1, -1, 1])
    near = _corners(wide, camera)  # (N, 4, 2) right and depth
    slope = width / 2 / camera.focal
    right, depth = near[..., 0], near[..., 1]
    seen = (depth > NEAR).any(1)
    seen &= (right > -slope * depth).any(1) & (right < slope * depth).any(1)
    # Behind the near plane there is no column: such an item is kept.
    whole = (depth > NEAR).all(1)
    depth = np.maximum(depth, NEAR)
    columns = camera.cx + camera.focal * right / depth  # (N, 4)
    cover = np.full(width, float(height))
    kept = []
    inside = np.flatnonzero(seen)
    order = inside[paint_order(boxes[inside], camera.x)]
    for index in order[::-1].tolist():
        item = items[index]
        rise = (item.top - camera.height) * camera.focal
        z = depth[index]
        top = camera.cy - rise / (z.min() if rise > 0 else z.max())
        first = max(int(columns[index].min()), 0)
        last = min(int(columns[index].max()) + 1, width)
        hidden = whole[index] and (cover[first:last] <= top).all()
        if hidden:
            continue
        kept.append(item)
        if item.solid:
            _cover(cover, boxes[index], item.solid, camera)
    return kept[::-1]


def _corners(boxes, camera):
    """Camera coordinates (N, 4, 2), right and depth, of footprints."""
    x0, x1, z0, z1 = boxes.T
    x = np.stack([x0, x1, x0, x1], 1) - camera.x
    z = np.stack([z0, z0, z1, z1], 1)
    right, _, depth = camera.turn(x, 0.0, z)
    return np.stack([right, depth], -1)


def _cover(cover, box, height, camera):
    """Lower the rows above which something may still be seen."""
    x0, x1, z0, z1 = box
    edges = [((x0, z0), (x1, z0))]
    if camera.x < x0:
        edges.append(((x0, z0), (x0, z1)))
    elif camera.x > x1:
        edges.append(((x1, z0), (x1, z1)))
    for ends in edges:
        line = []
        for x, z in ends:
            right, _, depth = camera.turn(x - camera.x, 0.0, z)
            if depth <= NEAR:
                break
            scale = camera.focal / depth
            line.append(
                (
                    camera.cx + right * scale,
                    camera.cy - (height - camera.height) * scale,
                )
            )
        if len(line) < 2:
            continue
        (c0, r0), (c1, r1) = sorted(line)
        first, last = max(int(c0) + 1, 0), min(int(c1), len(cover))
        if first < last:
            rows = np.interp(np.arange(first, last), (c0, c1), (r0, r1))
            cover[first:last] = np.minimum(cover[first:last], rows)
