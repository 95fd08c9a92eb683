"""Wheels of cars, trucks and buses."""

from clouds_mmseg.datasets.toycity.shapes import disc
from clouds_mmseg.datasets.toycity.solids import box

TYRE = (26, 26, 28)
HUB = (150, 152, 156)
# Wheels lower than this many pixels of the canvas are a mere strip.
SMALL = 9


def tyres(canvas, frame, class_id, *, half, axles, radius):
    """Paint the tyres as blocks, before the body that covers their tops.

    Args:
        canvas (Canvas): Where.
        frame (Frame): Axes of the vehicle.
        class_id (int): Train id of the vehicle.
        half (float): Distance of a tyre's outside from the middle in metres.
        axles (Sequence[float]): Places of the axles forward in metres.
        radius (float): Of the wheels, in metres.
    """
    if canvas.scale_at(frame.origin[2]) * 2 * radius < SMALL:
        zs = (axles[0] - radius, axles[-1] + radius)
        box(canvas, frame, (-half, half), (0, radius), zs, TYRE, class_id)
        return
    for z in axles:
        for xs in ((-half, 0.24 - half), (half - 0.24, half)):
            zs = (z - radius * 0.9, z + radius * 0.9)
            box(
                canvas,
                frame,
                xs,
                (0, radius * 1.9),
                zs,
                TYRE,
                class_id,
                rough=0,
            )


def discs(canvas, frame, faces, class_id, *, half, axles, radius):
    """Paint the wheels on the sides in sight; arguments as in tyres()."""
    for name, sign in (('left', -1), ('right', 1)):
        if name not in faces:
            continue
        side = frame.face((sign * half * 1.01, 0, 0), (0, 0, 1), (0, 1, 0))
        for z in axles:
            made = canvas.paint(
                side, disc(z, radius, radius), TYRE, class_id, rough=0
            )
            hub = disc(z, radius, radius * 0.55, points=8)
            canvas.detail(made, [hub], HUB)
