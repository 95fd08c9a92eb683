import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.toycity.buildings import Placer
from clouds_mmseg.toycity.camera import NEAR, Camera, clip_near
from clouds_mmseg.toycity.canvas import ONE, SKY, Canvas
from clouds_mmseg.toycity.render import _canvas, paint_order, visible_items
from clouds_mmseg.toycity.scene import Scene, sample_scene
from clouds_mmseg.toycity.solids import box, extrude, rect, rects
from clouds_mmseg.toycity.styles import (
    BUILDING,
    CAR,
    ROAD,
    STYLES,
    TERRAIN,
    Look,
)
from clouds_mmseg.toycity.weather import View

SIZE = (200, 100)


def make_camera(yaw=0.0, x=0.0):
    return Camera(focal=180.0, cx=100.0, cy=42.0, x=x, height=1.5, yaw=yaw)


def make_canvas(**options):
    return Canvas(SIZE, make_camera(**options), ambient=1.0)


def project(camera, x, y, z):
    """The textbook projection, in matrices."""
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    right, up, depth = turn @ (x - camera.x, y - camera.height, z)
    return (
        camera.cx + camera.focal * right / depth,
        camera.cy - camera.focal * up / depth,
        depth,
    )


numbers = st.floats(-6, 6)


@given(numbers, st.floats(4, 60), st.floats(-4, 4), st.floats(-0.3, 0.3))
@settings(max_examples=60, deadline=None)
def test_corners_land_where_a_matrix_puts_them(x, z, heading, yaw):
    canvas = make_canvas(yaw=yaw, x=0.3)
    face = canvas.camera.frame(x, z, heading).face(
        (0.5, 1, 0.2), (1, 0, 0), (0, 1, 0)
    )
    corner = np.array([x, 1, z])
    corner += 0.5 * np.array([math.cos(heading), 0, -math.sin(heading)])
    corner += 0.2 * np.array([math.sin(heading), 0, math.cos(heading)])
    col, row, depth = project(canvas.camera, *corner)
    assert face.origin[2] == pytest.approx(depth)
    pixels = canvas._pixels(face, rect(0, 0, 0.5, 0.5))
    if pixels is not None and depth > NEAR:
        assert pixels[0] / ONE == pytest.approx([col, row], abs=0.1)
        many = canvas._many_pixels(face, rects([0], [0], 0.5, 0.5))
        assert many[0] / ONE == pytest.approx(pixels / ONE, abs=0.1)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=3, max_size=8))
@settings(max_examples=60, deadline=None)
def test_clipping_keeps_what_is_in_front(points):
    kept = clip_near(points)
    assert all(z >= NEAR - 1e-6 for _, _, z in kept)
    assert [p for p in points if p[2] >= NEAR] == [
        p for p in kept if p in points
    ]
    if all(z < NEAR for _, _, z in points):
        assert kept == []


@pytest.mark.parametrize('yaw', [-0.2, 0.0, 0.15])
def test_depth_of_ground_and_wall_is_that_of_the_ray(yaw):
    canvas = make_canvas(yaw=yaw)
    ground = canvas.camera.frame().face((0, 0, 0), (1, 0, 0), (0, 0, 1))
    canvas.paint(ground, rect(-300, 0.1, 300, 300), (90, 90, 90), ROAD)
    wall = canvas.camera.frame(3.0, 0.0).face((0, 0, 4), (0, 0, 1), (0, 1, 0))
    canvas.paint(wall, rect(0, 0, 40, 6), (200, 0, 0), BUILDING)
    view = View(canvas, Scene(None, ()), 1)
    x, y, z = view.points
    road, house = view.label == ROAD, view.label == BUILDING
    assert road.sum() > 500 and house.sum() > 500
    assert np.abs(y[road & (z < 80)]).max() < 1e-2
    assert np.abs(x[house] - 3).max() < 1e-2
    rows, cols = np.nonzero(house)
    for row, col in list(zip(rows, cols, strict=True))[::97]:
        at = (x[row, col], y[row, col], z[row, col])
        col_, row_, depth = project(canvas.camera, *at)
        assert (col_, row_) == pytest.approx((col, row), abs=0.02)
        assert view.nearness[row, col] == pytest.approx(1 / depth, rel=1e-3)
    assert (view.nearness[view.label == SKY] == 0).all()
    assert (view.up[road] > 0.99).all() and (abs(view.up[house]) < 1e-6).all()


def test_box_shows_the_sides_that_face_the_camera():
    canvas = make_canvas()
    frame = canvas.camera.frame(-3.0, 12.0)
    seen = box(canvas, frame, (-1, 1), (0, 1), (-2, 2), (9, 9, 9), CAR)
    assert set(seen) == {'back', 'right', 'top'}
    frame = canvas.camera.frame(3.0, 12.0, math.pi)
    seen = box(canvas, frame, (-1, 1), (0, 3), (-2, 2), (9, 9, 9), CAR)
    # Turned round, the left of the object is the side towards us.
    assert set(seen) == {'front', 'right'}


def test_extruded_box_covers_what_the_box_does():
    labels = []
    for solid in (box, extrude):
        canvas = make_canvas()
        frame = canvas.camera.frame(2.5, 12.0, 0.4)
        if solid is box:
            box(canvas, frame, (-1, 1), (0, 1), (-2, 2), (9, 9, 9), CAR)
        else:
            outline = [(-2, 0), (-2, 1), (2, 1), (2, 0)]
            grey = (9, 9, 9)
            seen = extrude(canvas, frame, outline, 1, [grey] * 4, grey, CAR)
            assert set(seen) == {'right', 0, 1}
        labels.append(canvas.ids > 0)
    assert labels[0].sum() > 300
    assert (labels[0] ^ labels[1]).sum() == 0


def test_see_through_surface_is_labelled_and_lets_colour_through():
    canvas = make_canvas()
    face = canvas.camera.frame(0, 10).face((0, 0, 0), (1, 0, 0), (0, 1, 0))
    outline = rect(-2, 0, 2, 2)
    canvas.paint(face, outline, (200, 0, 0), BUILDING, opacity=0.25)
    inside = canvas.ids == 1
    assert inside.sum() > 1000
    assert np.abs(canvas.image[inside][:, 0].astype(int) - 50).max() <= 51
    assert np.median(canvas.image[inside][:, 0]) == pytest.approx(50, abs=1)


def test_glowing_detail_keeps_class_and_depth():
    canvas = make_canvas()
    face = canvas.camera.frame(0, 10).face((0, 0, 0), (1, 0, 0), (0, 1, 0))
    made = canvas.paint(face, rect(-2, 0, 2, 2), (60, 60, 60), CAR)
    canvas.detail(made, [rect(-1, 0.5, 1, 1.5)], (9, 9, 9), glow=(255, 0, 0))
    view = View(canvas, Scene(None, ()), 1)
    car = view.label == CAR
    assert set(np.unique(view.glow[car][:, 0])) == {0.0, 1.0}
    assert np.allclose(view.nearness[car], 0.1, rtol=1e-3)


def test_what_is_out_of_sight_paints_nothing():
    canvas = make_canvas()
    for x, z in ((0, -5), (-60, 10), (60, 10)):
        face = canvas.camera.frame(x, z).face((0, 0, 0), (1, 0, 0), (0, 1, 0))
        assert canvas.paint(face, rect(0, 0, 1, 1), (9, 9, 9), CAR) is None
        canvas.detail(face, [rect(0, 0, 1, 1)], (200, 0, 0))
        canvas.detail(face, rects([0], [0], 1, 1), (200, 0, 0), opacity=0.5)
    canvas.detail(None, [rect(0, 0, 1, 1)], (200, 0, 0))
    assert not canvas.image.any() and not canvas.ids.any()


@st.composite
def layouts(draw):
    """Boxes in cells of a grid: they cannot overlap."""
    cells = draw(
        st.lists(
            st.tuples(st.integers(-4, 4), st.integers(1, 12)),
            min_size=1, max_size=20, unique=True,
        )
    )  # fmt: skip
    grow = st.floats(0.1, 1.0)
    return np.array(
        [(4 * x, 4 * x + 4 * draw(grow), 4 * z, 4 * z + 4 * draw(grow))
         for x, z in cells]
    )  # fmt: skip


@given(layouts(), st.floats(-4, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_paint_order_never_paints_the_hidden_last(boxes, eye, left):
    """On one side of the camera, where no boxes wait for one another."""
    boxes = boxes + np.array([20, 20, 0, 0])
    if left:
        boxes = boxes[:, [1, 0, 2, 3]] * np.array([-1, -1, 1, 1])
    order = paint_order(boxes, eye)
    assert sorted(order) == list(range(len(boxes)))
    place = np.argsort(order)
    # Rays over the ground meet boxes from near to far.
    for slope in np.linspace(0.05, 5, 60) * (-1 if left else 1):
        across = np.sort((boxes[:, :2] - eye) / slope)
        enter = np.maximum(across[:, 0], boxes[:, 2])
        leave = np.minimum(across[:, 1], boxes[:, 3])
        hit = np.flatnonzero(leave - enter > 1e-9)
        ranks = place[hit[np.argsort(enter[hit])]].tolist()
        assert ranks == sorted(ranks, reverse=True)


def test_overlapping_boxes_are_all_painted():
    boxes = np.array([[0.0, 2, 5, 9], [1, 3, 4, 8], [1, 2, 3, 10]])
    assert sorted(paint_order(boxes, 0.0)) == [0, 1, 2]


def test_leaving_out_hidden_objects_does_not_change_the_picture():
    class Fixed(Look):
        """Colours that do not depend on what was painted before."""

        def pick(self, kind):
            return self.style.palette[kind][0]

    style = STYLES['source']
    drawn = total = 0
    for seed in range(6):
        scene = sample_scene(seed)
        labels = []
        for every in (True, False):
            canvas = _canvas(style, 256, 128, np.random.default_rng(seed))
            look = Fixed(style, np.random.default_rng(0))
            scene.street.draw(canvas, look)
            if every:
                boxes = np.array([item.box for item in scene.items])
                order = paint_order(boxes, canvas.camera.x)
                items = [scene.items[i] for i in order]
                total += len(items)
            else:
                items = visible_items(
                    scene.items, canvas.camera, canvas.width, canvas.height
                )
                drawn += len(items)
            for item in items:
                item.draw(canvas, look)
            labels.append(View(canvas, scene, 2).label)
        # Slivers between the wheels of lorries are left out.
        assert (labels[0] != labels[1]).mean() < 0.01
    assert drawn < 0.9 * total


def test_objects_of_a_scene_do_not_overlap():
    for seed in range(10):
        boxes = np.array([item.box for item in sample_scene(seed).items])
        x0, x1, z0, z1 = boxes.T
        overlap = (x0[:, None] < x1) & (x0 < x1[:, None])
        overlap &= (z0[:, None] < z1) & (z0 < z1[:, None])
        assert overlap.sum() == len(boxes)


def test_placer_refuses_what_overlaps():
    item = sample_scene(0).items[0]
    place = Placer(np.random.default_rng(0))
    assert place.put(item)
    assert not place.put(item)
    assert place.items == [item]


def test_weighted_choice_follows_the_weights():
    place = Placer(np.random.default_rng(0))
    drawn = [place.choice('abc', (1, 0, 3)) for _ in range(2000)]
    assert 'b' not in drawn
    assert drawn.count('c') / 2000 == pytest.approx(0.75, abs=0.04)


def test_grass_lies_beyond_the_street():
    canvas = make_canvas()
    scene = next(
        s for s in map(sample_scene, range(20)) if s.street.grass
    )  # fmt: skip
    scene.street.draw(canvas, Look(STYLES['source'], np.random.default_rng(0)))
    view = View(canvas, scene, 1)
    x, _, z = view.points
    left, right = scene.street.sides
    near = (z < 60) & (view.label == ROAD)
    assert (x[near] > left.kerb - 0.2).all()
    assert (x[near] < right.kerb + 0.2).all()
    assert (view.label[(x > right.plot + 1) & (z < 60)] == TERRAIN).all()
