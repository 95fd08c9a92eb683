"""Restyling of photographs by operations on pixels."""

import shlex

import cv2
import numpy as np
import pytest
from generate_helpers import tree
from PIL import Image

from clouds_mmseg.engine.self_training_runner import (
    generation_command,
    require_generated_images,
)
from clouds_mmseg.generate.backends import blank_reason
from clouds_mmseg.generate.image_bank import Shard
from clouds_mmseg.generate.photo_effects import (
    apply_style,
    colour_transfer,
    fourier_transfer,
    sky_share,
)
from clouds_mmseg.generate.photometric import (
    REFERENCE_STYLES,
    STYLES,
    PhotometricBackend,
    draw_style,
)
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import read_bank, read_entries
from clouds_mmseg_cli.generate import parse_args

HEIGHT, WIDTH = 96, 128


@pytest.fixture(scope='module')
def photo():
    """Sky, a brick house on the left, a road with a white line."""
    rng = np.random.default_rng(0)
    image = np.empty((HEIGHT, WIDTH, 3), np.int16)
    image[:] = (168, 205, 240)
    image[44:] = (95, 95, 98)
    image[15:60, :40] = (150, 95, 75)
    image[44:, 62:66] = (225, 225, 225)
    image[15:] += rng.integers(-12, 13, image[15:].shape, np.int16)
    return np.clip(image, 0, 255).astype(np.uint8)


def grey(image):
    return image.astype(np.float64).mean(-1)


def test_styles_are_seeded_and_show_the_scene(photo):
    before = photo.copy()
    for name in STYLES:
        for seed in range(2):
            found = []
            for _ in range(2):
                rng = np.random.default_rng(seed)
                found.append(apply_style(photo, draw_style(name, rng), rng))
            assert np.array_equal(*found)
            image = found[0]
            assert image.shape == photo.shape and image.dtype == np.uint8
            assert blank_reason(image) is None
            assert np.abs(grey(image) - grey(photo)).mean() > 1
            # However dark, something is seen.
            assert grey(image).mean() > 25, name
            assert grey(image)[44:].std() > 3, name
    assert np.array_equal(photo, before)


def test_nothing_is_moved(photo):
    """The edges of the house and of the line stay where the label has them."""

    def edges(image):
        rows = slice(52, 60)
        lines = cv2.GaussianBlur(image, (0, 0), 1)[rows].astype(float)
        steps = np.abs(np.diff(lines.mean((0, 2))))
        return 30 + steps[30:50].argmax(), 56 + steps[56:64].argmax()

    expected = edges(photo)
    for name in STYLES:
        rng = np.random.default_rng(3)
        style = draw_style(name, rng) | dict(noise=0, rain=0, wet=0)
        found = edges(apply_style(photo, style, rng))
        assert np.abs(np.subtract(found, expected)).max() <= 2, name


def test_the_sky_is_found(photo):
    share = sky_share(photo.astype(np.float32) / 255)
    assert share.shape == (HEIGHT, WIDTH)
    assert share[:36, 50:].mean() > 0.9
    assert share[20:40, 2:34].max() < 0.1
    # The white line is as bright, and below the horizon.
    assert share[55:].max() < 0.05
    dark = np.full((HEIGHT, WIDTH, 3), 0.1, np.float32)
    assert sky_share(dark).max() < 0.05


def test_fog_hides_the_distance_and_night_dims_the_sky_most(photo):
    def contrast(image, rows):
        part = grey(image)[rows]
        return part[:, 62:66].mean() - part[:, 70:90].mean()

    rng = np.random.default_rng(0)
    fog = apply_style(photo, dict(fog=60), rng)
    near, far = slice(84, 96), slice(48, 54)
    lost = [
        1 - contrast(fog, rows) / contrast(photo, rows) for rows in (near, far)
    ]
    assert lost[1] > lost[0] + 0.15 and lost[1] < 0.95
    night = apply_style(photo, dict(dark=0.8), rng)
    ratio = grey(night) / grey(photo)
    assert ratio[5:30, 60:].mean() < 0.8 * ratio[60:, 80:].mean() < 0.8
    dusk = apply_style(photo, dict(dark=0.4), rng)
    assert grey(night).mean() < grey(dusk).mean() < grey(photo).mean()
    rain = apply_style(photo, dict(rain=1.0), np.random.default_rng(1))
    assert np.abs(grey(rain) - grey(photo)).max() > 15
    warm = apply_style(photo, dict(temperature=0.8), rng).astype(float)
    cold = apply_style(photo, dict(temperature=-0.8), rng).astype(float)
    assert (
        (warm - cold)[..., 0].mean() > 10 > -10 > (warm - cold)[..., 2].mean()
    )


def test_colours_of_other_images(photo):
    rng = np.random.default_rng(1)
    other = np.clip(
        rng.normal((60, 90, 140), 40, (50, 70, 3)), 0, 255
    ).astype(np.uint8)  # fmt: skip
    assert np.abs(colour_transfer(photo, photo, 1.0) - 1.0 * photo).max() <= 2
    assert np.abs(colour_transfer(photo, other, 0.0) - 1.0 * photo).max() <= 2
    moved = colour_transfer(photo, other, 1.0)
    assert np.abs(moved.mean((0, 1)) - other.mean((0, 1))).max() < 15
    same = fourier_transfer(photo, photo, 0.01)
    assert np.abs(same.astype(int) - photo).max() <= 1
    found = fourier_transfer(photo, other, 0.01)
    assert np.abs(found.mean((0, 1)) - other.mean((0, 1))).max() < 8
    # What is fine stays: the difference is smooth.
    change = found.astype(float) - photo
    inner = change[8:-8, 8:-8]
    assert np.abs(np.diff(inner, axis=1)).mean() < 3 < np.abs(inner).mean()


def make(root, sources, num=7, **options):
    return generate_images(
        root, num=num, backend='photometric', mode='img2img', source=sources,
        contact_sheet=False, **options,
    )  # fmt: skip


def test_bank(tmp_path, source_images, one_process):
    root = tmp_path / 'bank'
    assert make(root, source_images).complete
    bank = read_bank(root)
    assert bank['recipe']['prompts'] == list(STYLES)
    assert 'dusk' in bank['info']['note']
    entries = read_entries(root)
    # Five sources: the second round goes on with another style.
    assert [e['prompt'] for e in entries.values()] == [
        *list(STYLES)[:5], *list(STYLES)[1:3],
    ]  # fmt: skip
    for entry in entries.values():
        with Image.open(source_images / entry['source']) as source:
            assert source.size == (entry['width'], entry['height'])
        for key, (low, high) in STYLES[entry['prompt']].items():
            assert low <= entry['style'][key] <= high
    two = tmp_path / 'two'
    for rank in range(2):
        make(two, source_images, shard=Shard(rank, 2))
    assert tree(two) == tree(root)
    other = tmp_path / 'other'
    make(other, source_images, seed=1)
    assert read_entries(other)[0]['sha256'] != entries[0]['sha256']
    with pytest.raises(GenerationError, match='prompt 1 is "sun"'):
        make(root, source_images, styles=['fog'])


def test_styles_of_other_images_in_a_bank(tmp_path, source_images):
    options = dict(reference=source_images, styles=['fourier', 'colours'])
    make(tmp_path / 'bank', source_images, 4, **options)
    entries = read_entries(tmp_path / 'bank')
    names = {p.name for p in source_images.rglob('*.png')}
    for entry in entries.values():
        assert entry['style']['reference'].split('/')[-1] in names
        (key,) = REFERENCE_STYLES[entry['prompt']]
        low, high = REFERENCE_STYLES[entry['prompt']][key]
        assert low <= entry['style'][key] <= high
    assert 'references_digest' in read_bank(tmp_path / 'bank')['recipe']
    every = PhotometricBackend(reference=source_images).styles
    assert every == [*STYLES, *REFERENCE_STYLES]
    assert PhotometricBackend().styles == list(STYLES)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mode='txt2img', source=None), 'use --mode img2img'),
        (dict(styles=['dusk', 'snow']), "no style 'snow'; there are sun"),
        (dict(styles=['fourier']), 'their folder with --reference'),
        (dict(reference='nowhere'), 'there is no such folder'),
        (dict(prompts='prompts.txt'), 'takes --styles, not --prompts'),
        (dict(size=(64, 32)), "no option 'size'"),
        (dict(keep_labels=True), "no option 'keep_labels'"),
        (dict(backend='toycity'), '--backend toycity needs --prompts'),
    ],
)
def test_bad_arguments(tmp_path, source_images, options, message):
    options = dict(
        num=1, backend='photometric', mode='img2img', source=source_images
    ) | options  # fmt: skip
    with pytest.raises(GenerationError, match=message):
        generate_images(tmp_path / 'bank', **options)
    assert not (tmp_path / 'bank').exists()


def test_made_before_a_training(tmp_path, source_images, one_process):
    bank = dict(
        out=str(tmp_path / 'bank'), num=2, backend='photometric',
        mode='img2img', source=str(source_images), styles=['rainy night'],
        make=True,
    )  # fmt: skip
    require_generated_images(dict(bank), 'none')
    assert len(read_entries(tmp_path / 'bank')) == 2
    assert not list(tmp_path.glob('*prompts*'))


def test_the_command_that_is_told_is_one():
    banks = [
        dict(num=2, backend='photometric', mode='img2img', source='a b',
             styles=['rainy night', 'fog'], seed=0),
        dict(num=2, backend='toycity', size=(256, 128), keep_labels=True,
             num_prompts=5, seed=0),
    ]  # fmt: skip
    for bank in banks:
        line = generation_command('data/x', dict(bank))
        words = shlex.split(line.partition('clouds generate ')[2])
        args = vars(parse_args(words))
        bank.pop('num_prompts', None)
        assert {key: args[key] for key in bank} == bank
        assert args['out'] == 'data/x'
