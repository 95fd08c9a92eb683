"""Rendered and restyled images by the words of prompts."""

import numpy as np
import pytest
from generate_helpers import tree
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds_mmseg.generate.backends import Request, list_sources, request_for
from clouds_mmseg.generate.prompts import template_prompts
from clouds_mmseg.generate.restyle import restyle
from clouds_mmseg.generate.run import (
    generate_images,
    render_toycity,
    target_ranges,
)
from clouds_mmseg.generate.toycity import (
    SHARED,
    ToyCityBackend,
    allowed_ranges,
    ranges_for,
    style_for,
    subtract_ranges,
)
from clouds_mmseg.toycity import STYLES, Style
from clouds_mmseg.utils.errors import GenerationError, UserError
from clouds_mmseg.utils.image_set import read_bank, read_entries

pytestmark = pytest.mark.usefixtures('one_process')
TARGETS = [style for name, style in STYLES.items() if name != 'source']
WEATHERS = (
    'night', 'dusk', 'dense fog', 'fog', 'haze', 'drizzle', 'heavy rain',
    'puddles', 'blizzard', 'light snowfall', 'melting snow', 'overcast',
    'bright sun', 'nothing of note',
)  # fmt: skip
SMALL = (64, 32)


def backend(**options):
    return ToyCityBackend(
        render_toycity, avoid=target_ranges(), size=SMALL, **options
    )


@pytest.mark.parametrize('words', WEATHERS)
def test_no_parameter_lies_in_a_range_of_a_target(words):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        style = style_for(words, rng, target_ranges())
        Style('generated', **style)
        for name in ranges_for(words):
            if name in SHARED:
                continue
            value = as_range(style[name])[0]
            for target in TARGETS:
                used = getattr(target, name)
                if used is not None:
                    low, high = as_range(used)
                    assert not low <= value <= high, (name, target.name)


def as_range(value):
    return value if isinstance(value, tuple) else (value, value)


def test_a_range_in_use_is_widened():
    pieces = allowed_ranges('contrast', 1.0, 2.0, [(1.5, 1.6)])
    assert np.allclose(pieces, [(1.0, 1.48), (1.62, 2.0)])
    pieces = allowed_ranges('contrast', 1.0, 2.0, [(0.9, 2.2)])
    assert all(b < 0.9 or a > 2.2 for a, b in pieces)
    assert all(a >= 0.5 and b <= 2.5 for a, b in pieces)
    ((a, b),) = allowed_ranges('wetness', 0.5, 0.9, [(0.4, 1.0)])
    assert 0 <= a < b < 0.4
    with pytest.raises(UserError, match='target styles use all of it'):
        allowed_ranges('wetness', 0.5, 0.9, [(0.0, 1.0)])


RANGE = st.tuples(st.floats(-2, 2), st.floats(-2, 2)).map(
    lambda pair: tuple(sorted(pair))
)


@given(st.lists(RANGE, max_size=5), st.floats(0, 1))
def test_outside_is_what_remains(avoid, share):
    pieces = subtract_ranges(-1, 1, avoid)
    margin = 0.04
    for a, b in pieces:
        assert -1 <= a < b <= 1
        value = a + share * (b - a)
        assert all(not low < value < high for low, high in avoid)
    assert pieces == sorted(pieces)
    for value in np.linspace(-1, 1, 41):
        clear = all(
            value < low - 2 * margin or value > high + 2 * margin
            for low, high in avoid
        )
        inside = any(a <= value <= b for a, b in pieces)
        # What is far from all that is avoided remains.
        assert inside or not clear or not avoid


def test_colours_are_not_those_of_a_target():
    for number, prompt in enumerate(template_prompts(20)[0]):
        style = style_for(
            prompt, np.random.default_rng(number), target_ranges()
        )
        for target in TARGETS:
            assert style['white'] != target.white
            assert style['fog_colour'] != target.fog_colour
            for kind, colours in target.palette.items():
                assert list(style['palette'][kind]) != list(colours)


def test_words_set_the_weather():
    rng = np.random.default_rng(0)

    def has(prompt, name):
        return name in style_for(prompt, rng, {})

    assert has('a road at NIGHT', 'darkness')
    assert not has('a knight on a road', 'darkness')
    assert not has('morning', 'darkness')
    assert has('dense fog', 'visibility')
    assert has('heavy rain at dusk', 'rain')
    assert has('heavy rain at dusk', 'darkness')
    assert has('light snowfall', 'snow_cover')
    assert not has('puddles after a rain shower', 'rain')


def test_seasons_and_places_set_the_colours():
    rng = np.random.default_rng(0)

    def leaf_reds(prompt):
        colours = style_for(prompt, rng, {})['palette']['leaf']
        return np.mean([r - g for r, g, _ in colours])

    autumn = np.mean([leaf_reds('a road in autumn') for _ in range(20)])
    summer = np.mean([leaf_reds('a road in summer') for _ in range(20)])
    assert autumn > 20 > 0 > summer


def test_an_image_depends_on_prompt_and_seed_alone():
    requests = [request_for(i, [(1, 'a road'), (2, 'fog')], seed=5)
                for i in range(3)]  # fmt: skip
    images = [p.image for p in backend().generate(requests)]
    assert images[0].shape == (32, 64, 3) and images[0].dtype == np.uint8
    alone = backend().generate(requests[2:])[0]
    assert np.array_equal(alone.image, images[2])
    assert alone.label is None
    assert not np.array_equal(images[0], images[2])
    other = Request(index=9, prompt='snow', line=1, seed=5)
    assert not np.array_equal(backend().generate([other])[0].image, images[0])


def test_labels_are_handed_out_on_request():
    request = request_for(0, [(1, 'a road')], seed=0)
    (picture,) = backend(keep_labels=True).generate([request])
    assert picture.label.shape == (32, 64)
    assert set(np.unique(picture.label)) <= set(range(19))
    with pytest.raises(GenerationError, match='--keep-labels'):
        backend(keep_labels=True, mode='img2img')
    with pytest.raises(GenerationError, match='--mode'):
        backend(mode='inpaint')


def test_the_fingerprint_follows_the_renderer():
    def brighter(seed, style, size):
        image, label = render_toycity(seed, style, size)
        return np.maximum(image, 3), label

    assert backend().recipe() == backend().recipe()
    other = ToyCityBackend(brighter, avoid={}, size=SMALL).recipe()
    # Without ranges to avoid the looks are others as well.
    assert other['fingerprint'] != backend().recipe()['fingerprint']


@pytest.mark.parametrize('words', WEATHERS)
def test_restyling_keeps_edges_in_place(words):
    # A bright square on dark ground, as large as to outlast blur and noise.
    source = np.full((96, 160, 3), 60, np.uint8)
    source[20:76, 50:110] = (200, 170, 150)
    inside = np.zeros((96, 160), bool)
    inside[24:72, 54:106] = True
    near = np.zeros((96, 160), bool)
    near[16:80, 46:114] = True
    for seed in range(3):
        rng = np.random.default_rng(seed)
        image = restyle(source, style_for(words, rng, {}), rng)
        assert image.shape == source.shape and image.dtype == np.uint8
        assert not np.array_equal(image, source)
        grey = image.astype(float).mean(-1)
        rows = slice(24, 72)
        ring = near.copy()
        ring[16:80, 50:110] = False
        step = grey[rows][inside[rows]].mean() - grey[rows][ring[rows]].mean()
        assert step > 4, (words, seed, step)


def test_restyling_is_seeded_and_leaves_its_source_alone():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (16, 24, 3), np.uint8)
    before = source.copy()
    for words in WEATHERS:
        a, b, c = (
            restyle(source, style_for(words, rng, {}), rng)
            for rng in map(np.random.default_rng, (1, 1, 2))
        )
        assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert np.array_equal(source, before)


def make(root, prompt_file, num, **options):
    options = {'size': SMALL, **options}
    return generate_images(root, prompts=prompt_file, num=num, **options)


def test_a_bank_of_scenes_with_labels_aside(tmp_path, prompt_file):
    root = tmp_path / 'bank'
    assert make(root, prompt_file, 4, keep_labels=True).complete
    assert sorted(p.name for p in root.iterdir()) == [
        'bank.json', 'contact_sheet.png', 'images', 'labels_for_evaluation',
        'manifest.jsonl',
    ]  # fmt: skip
    entry = read_entries(root)[3]
    label = np.asarray(Image.open(root / entry['evaluation_label']))
    image = np.asarray(Image.open(root / entry['file']))
    assert label.shape == image.shape[:2] == (32, 64)
    assert 'no target' in read_bank(root)['info']['note']
    # Asked for later, the labels are added and the images are the same.
    later = tmp_path / 'later'
    make(later, prompt_file, 4)
    assert make(later, prompt_file, 4, keep_labels=True).created == 4
    assert tree(later) == tree(root)


def test_contact_sheet_shows_pictures_and_prompts(tmp_path, prompt_file):
    from clouds_mmseg.generate.run import write_contact_sheet

    make(tmp_path / 'bank', prompt_file, 5)
    path = write_contact_sheet(tmp_path / 'bank', count=3, columns=2)
    with Image.open(path) as sheet:
        assert sheet.size == (2 * 262 + 6, 2 * (128 + 36 + 6) + 6)
        pixels = np.asarray(sheet)
    assert np.ptp(pixels[6:134, 6:262]) > 40
    assert (pixels[134:170, 6:262] < 99).any()


def test_restyled_bank(tmp_path, prompt_file, source_images):
    root = tmp_path / 'bank'
    options = dict(mode='img2img', source=source_images)
    make(root, prompt_file, 7, **options)
    sizes = {}
    for name, path in list_sources(source_images):
        with Image.open(path) as image:
            sizes[name] = image.size
    entries = read_entries(root)
    for entry in entries.values():
        assert (entry['width'], entry['height']) == sizes[entry['source']]
    assert entries[0]['source'] == entries[5]['source']
    assert entries[0]['sha256'] != entries[5]['sha256']
    assert 'without a diffusion' in read_bank(root)['info']['note']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(num=0), '--num must be in'),
        (dict(seed=-1), '--seed must be in'),
        (dict(seed=2**32), '--seed must be in'),
        (dict(mode='img2img'), '--source'),
        (dict(source='images'), '--source'),
        (dict(backend='dalle'), '--backend must be one of toycity, diffusers'),
        (dict(steps=5), "no option 'steps'"),
        (dict(backend='diffusers'), 'needs --model'),
        (dict(backend='diffusers', keep_labels=True), '--keep-labels'),
    ],
)
def test_bad_arguments(tmp_path, prompt_file, options, message):
    with pytest.raises(GenerationError, match=message):
        make(tmp_path / 'bank', prompt_file, **{'num': 1, **options})
    assert not (tmp_path / 'bank').exists()
