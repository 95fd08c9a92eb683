from dataclasses import replace

import cv2
import numpy as np
import pytest

from clouds_mmseg.toycity import STYLES, Style, render_scene
from clouds_mmseg.toycity.camera import Camera
from clouds_mmseg.toycity.canvas import Canvas
from clouds_mmseg.toycity.scene import Scene
from clouds_mmseg.toycity.solids import rect
from clouds_mmseg.toycity.styles import (
    BUILDING,
    GAME,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
)
from clouds_mmseg.toycity.weather import View, add_fog, add_wetness
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import UserError

GROUND = (ROAD, SIDEWALK, TERRAIN)


def brightness(image, where=None):
    grey = image.mean(-1)
    return float(grey[where].mean() if where is not None else grey.mean())


def detail(image):
    """Variance that a slight blur takes away."""
    grey = image.mean(-1).astype(np.float32)
    return float(np.var(grey - cv2.GaussianBlur(grey, (0, 0), 1)))


def mean_of(scenes, style, measure):
    return np.mean([measure(image, label) for image, label in scenes[style]])


def on_ground(image, label):
    return brightness(image, np.isin(label, GROUND))


@pytest.mark.parametrize('style', STYLES)
def test_image_and_label_have_the_promised_form(scenes, style):
    for image, label in scenes[style]:
        assert image.shape == (128, 256, 3) and image.dtype == np.uint8
        assert label.shape == (128, 256) and label.dtype == np.uint8
        assert label.max() < len(CLASSES)


@pytest.mark.parametrize('style', STYLES)
def test_same_seed_same_pixels_and_another_seed_others(scenes, style):
    image, label = render_scene(1, style)
    assert np.array_equal(image, scenes[style][1][0])
    assert np.array_equal(label, scenes[style][1][1])
    assert (label != scenes[style][2][1]).mean() > 0.1


@pytest.mark.parametrize('size', [(256, 128), (64, 48), (301, 133), (32, 32)])
def test_any_size(size):
    image, label = render_scene(5, 'clear', size)
    assert image.shape == (size[1], size[0], 3)
    assert label.shape == size[::-1]
    assert {ROAD, SKY} <= set(np.unique(label))


def test_larger_picture_shows_the_same_scene():
    small = render_scene(4, 'source', (128, 64))[1]
    large = render_scene(4, 'source', (512, 256))[1]
    shrunk = cv2.resize(large, (128, 64), interpolation=cv2.INTER_NEAREST)
    assert (shrunk == small).mean() > 0.9


def test_all_classes_are_frequent_and_large_in_the_source():
    labels = [render_scene(1000 + i, 'source')[1] for i in range(60)]
    counts = np.array([np.bincount(x.ravel(), minlength=19) for x in labels])
    shown = (counts >= 50).mean(0)
    for name, share, areas in zip(CLASSES, shown, counts.T, strict=True):
        assert share >= 0.25, f'{name} is in {share:.0%} of the images'
        median = np.median(areas[areas > 0])
        assert median >= 90, f'{name} has {median} px'


def test_road_below_sky_above():
    counts = np.zeros((2, 128))
    for seed in range(5):
        label = render_scene(seed, 'source')[1]
        counts += np.array([(label == ROAD).mean(1), (label == SKY).mean(1)])
    rows = np.arange(128)
    road, sky = (counts * rows).sum(1) / counts.sum(1)
    assert road > 80 and sky < 40


def test_weather_leaves_the_street_where_it_is(scenes):
    for style in ('fog', 'night', 'rain', 'snow'):
        for (_, label), (_, clear) in zip(
            scenes[style], scenes['clear'], strict=True
        ):
            assert np.array_equal(label, clear)


def test_targets_see_another_street_than_the_source(scenes):
    for (_, source), (_, clear) in zip(
        scenes['source'], scenes['clear'], strict=True
    ):
        assert (source != clear).mean() > 0.05


def test_source_is_flat_and_saturated(scenes):
    def colours(image, _):
        return len(np.unique(image.reshape(-1, 3), axis=0))

    def saturation(image, _):
        return float(np.ptp(image.astype(int), axis=-1).mean())

    assert mean_of(scenes, 'source', colours) < 0.5 * mean_of(
        scenes, 'clear', colours
    )
    for style in STYLES:
        if style != 'source':
            assert mean_of(scenes, 'source', saturation) > 1.5 * mean_of(
                scenes, style, saturation
            )


def test_night_is_dark_with_bright_spots(scenes):
    def middle(image, _):
        return float(np.median(image.mean(-1)))

    def brightest(image, _):
        return float(np.percentile(image.max(-1), 99.5))

    assert mean_of(scenes, 'night', middle) < 0.5 * mean_of(
        scenes, 'clear', middle
    )
    assert mean_of(scenes, 'night', brightest) > 180
    sky = mean_of(scenes, 'night', lambda i, x: brightness(i, x == SKY))
    assert sky < 60


def test_fog_takes_contrast_from_what_is_far(scenes):
    far = (BUILDING, VEGETATION, SKY)

    def spread(classes):
        def measure(image, label):
            return float(image.mean(-1)[np.isin(label, classes)].std())

        return measure

    away = mean_of(scenes, 'fog', spread(far)) / mean_of(
        scenes, 'clear', spread(far)
    )
    assert away < 0.6


def test_snow_is_on_the_ground_and_in_the_air(scenes):
    white = mean_of(scenes, 'snow', on_ground)
    assert white > 1.2 * mean_of(scenes, 'clear', on_ground)
    assert white > 1.2 * mean_of(scenes, 'fog', on_ground)
    clean = replace(STYLES['snow'], snowfall=(0, 0), noise=(0, 0))
    snowing = replace(STYLES['snow'], noise=(0, 0))
    assert detail(render_scene(2, snowing)[0]) > 1.2 * detail(
        render_scene(2, clean)[0]
    )


def test_rain_streaks_run_downwards():
    dry = replace(
        STYLES['rain'], rain=(0, 0), noise=(0, 0), blur=(0, 0)
    )  # fmt: skip
    wet = replace(dry, rain=(6, 6))
    sky = render_scene(3, wet)[1] == SKY
    change = render_scene(3, wet)[0].astype(int) - render_scene(3, dry)[0]
    change = change.mean(-1)
    assert np.abs(change[sky]).mean() > 1
    down = np.abs(np.diff(change, axis=0)).mean()
    across = np.abs(np.diff(change, axis=1)).mean()
    assert across > 1.3 * down


def test_wet_road_mirrors_what_stands_on_it():
    camera = Camera(focal=180, cx=100, cy=42, x=0, height=1.5, yaw=0)
    canvas = Canvas((200, 100), camera, ambient=1.0)
    ground = camera.frame().face((0, 0, 0), (1, 0, 0), (0, 0, 1))
    canvas.paint(ground, rect(-300, 0.1, 300, 300), (80, 80, 80), ROAD)
    face = camera.frame(0, 14).face((0, 0, 0), (1, 0, 0), (0, 1, 0))
    canvas.paint(face, rect(-2, 0, 0, 1.5), (250, 0, 0), BUILDING)
    canvas.paint(face, rect(0, 0, 2, 1.5), (0, 0, 250), BUILDING)
    view = View(canvas, Scene(None, ()), 1)
    image = canvas.image / np.float32(255)
    wet = add_wetness(image, view, 0.7, np.random.default_rng(0))
    below = slice(64, 74)
    red, blue = wet[below, 80:96], wet[below, 104:120]
    assert red[..., 0].mean() > 2 * red[..., 2].mean()
    assert blue[..., 2].mean() > 2 * blue[..., 0].mean()
    house = view.label == BUILDING
    assert np.array_equal(wet[house], image[house])


def test_fog_leaves_five_per_cent_at_the_visibility():
    camera = Camera(focal=180, cx=100, cy=42, x=0, height=1.5, yaw=0)
    canvas = Canvas((200, 100), camera, ambient=1.0)
    face = camera.frame(0, 50).face((0, 0, 0), (1, 0, 0), (0, 1, 0))
    canvas.paint(face, rect(-20, -20, 20, 20), (0, 0, 0), BUILDING)
    view = View(canvas, Scene(None, ()), 1)
    image = np.zeros((100, 200, 3), np.float32)
    fog = add_fog(image, view, 50, (255, 255, 255))
    assert fog[40, 100] == pytest.approx(np.exp(-3) * 0 + 0.9502, abs=1e-3)
    assert fog[view.label == SKY].min() > 0.999


def test_a_style_of_ones_own_is_drawn():
    dusk = Style('dusk', darkness=(0.4, 0.5), white=(1.2, 1.0, 0.8))
    image, label = render_scene(0, dusk)
    plain, same = render_scene(0, 'source')
    assert np.array_equal(label, same)
    assert brightness(image) < brightness(plain)


@pytest.mark.parametrize(
    ('style', 'words'),
    [
        ('hail', ['hail', 'fog', 'night']),
        (3, ['style', '3']),
    ],
)
def test_unknown_style_is_named(style, words):
    with pytest.raises(UserError) as error:
        render_scene(0, style)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize('size', [(256,), (16, 128), 'big', (64.5, 64), 7])
def test_bad_size_is_named(size):
    with pytest.raises(UserError, match='size must be') as error:
        render_scene(0, 'source', size)
    assert repr(size) in str(error.value)


def test_bad_styles_are_refused():
    with pytest.raises(UserError, match="noise of style 'x'.*low <= high"):
        Style('x', noise=(5, 1))
    with pytest.raises(UserError, match='visibility'):
        Style('x', visibility=(5,))
    poor = {k: v for k, v in GAME.items() if k not in ('road', 'leaf')}
    with pytest.raises(UserError, match='no colours for leaf, road'):
        Style('x', palette=poor)
