"""Corruptions are those that are published, and the same each time."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.robustness import corruptions as corrupt
from clouds_mmseg.robustness.corruptions import (
    CORRUPTIONS,
    corrupt_image,
    image_seed,
)
from clouds_mmseg.utils.errors import UserError


@pytest.fixture(scope='module')
def picture():
    """A street of three colours with fine texture: 48x80, uint8 RGB."""
    rng = np.random.default_rng(0)
    image = np.zeros((48, 80, 3), np.uint8)
    image[:20] = 120, 160, 210
    image[20:] = 100, 90, 80
    image[16:34, 30:52] = 190, 40, 30
    return (image + rng.integers(0, 20, image.shape)).astype(np.uint8)


@pytest.fixture(scope='module')
def grey():
    return np.full((200, 300, 3), 128, np.uint8)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_every_corruption_changes_images_and_repeats(name, picture):
    first = corrupt_image(picture, name, 3, seed=5)
    np.random.rand()
    again = corrupt_image(picture, name, 3, seed=5)
    assert first.shape == picture.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != picture).mean() > 0.05


@pytest.mark.parametrize(
    'name',
    [
        *('gaussian_noise', 'shot_noise', 'impulse_noise', 'glass_blur'),
        *('motion_blur', 'snow', 'frost', 'fog', 'elastic_transform'),
    ],
)
def test_another_seed_is_another_image(name, picture):
    one = corrupt_image(picture, name, 5, seed=1)
    assert (one != corrupt_image(picture, name, 5, seed=2)).any()


def test_the_random_numbers_of_others_are_left_alone(picture):
    np.random.seed(3)
    expected = np.random.rand(4)
    np.random.seed(3)
    corrupt_image(picture, 'gaussian_noise', 1, seed=9)
    np.testing.assert_array_equal(np.random.rand(4), expected)


# The strengths of the published code of ImageNet-C.
@pytest.mark.parametrize(
    ('severity', 'sigma'), enumerate([0.08, 0.12, 0.18], 1)
)
def test_gaussian_noise_has_the_published_strength(grey, severity, sigma):
    noisy = corrupt_image(grey, 'gaussian_noise', severity, seed=0)
    spread = (noisy.astype(float) - 128).std() / 255
    # At 0.18 a few values in a thousand are cut off.
    assert spread == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize(
    ('severity', 'amount'), enumerate([0.03, 0.06, 0.09, 0.17, 0.27], 1)
)
def test_impulse_noise_has_the_published_amount(grey, severity, amount):
    noisy = corrupt_image(grey, 'impulse_noise', severity, seed=0)
    assert set(np.unique(noisy)) <= {0, 128, 255}
    assert (noisy != 128).mean() == pytest.approx(amount, rel=0.05)


@pytest.mark.parametrize(
    ('severity', 'factor'), enumerate([0.4, 0.3, 0.2, 0.1, 0.05], 1)
)
def test_contrast_shrinks_towards_the_mean(picture, severity, factor):
    flat = corrupt_image(picture, 'contrast', severity, seed=0)
    mean = picture.mean((0, 1))
    expected = (picture - mean) * factor + mean
    assert np.abs(flat - expected).max() <= 1


@pytest.mark.parametrize(
    ('severity', 'quality'), enumerate([25, 18, 15, 10, 7], 1)
)
def test_jpeg_has_the_published_quality(picture, severity, quality):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, 'JPEG', quality=quality)
    expected = np.asarray(Image.open(stream))
    found = corrupt_image(picture, 'jpeg_compression', severity, seed=0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('name', ['defocus_blur', 'brightness'])
def test_severity_grows(name, picture):
    distances = [
        np.abs(
            corrupt_image(picture, name, severity, seed=0)
            - picture.astype(int)
        ).mean()
        for severity in (1, 3, 5)
    ]
    assert distances == sorted(distances)
    assert distances[2] > 1.2 * distances[0]


def test_seeds_depend_on_every_argument():
    seeds = {
        image_seed(name, corruption, severity, seed)
        for name in ('a', 'b')
        for corruption in ('fog', 'snow')
        for severity in (1, 2)
        for seed in (0, 1)
    }
    assert len(seeds) == 16
    # A set that was made stays the same in later versions.
    name = 'berlin_000000_000019_leftImg8bit'
    assert image_seed(name, 'fog', 3) == 3589061221


def test_small_images_and_wrong_names(picture):
    with pytest.raises(UserError, match='80x20 pixels is too small'):
        corrupt_image(picture[:20], 'fog', 1, seed=0)
    with pytest.raises(UserError, match='unknown corruptions: mist'):
        corrupt_image(picture, 'mist', 1, seed=0)


@pytest.fixture
def forgetful():
    corrupt.load_library.cache_clear()
    yield
    corrupt.load_library.cache_clear()


def test_a_missing_package_is_one_message(forgetful, monkeypatch, picture):
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(UserError, match=r'clouds_mmseg\[robustness\]'):
        corrupt_image(picture, 'fog', 1, seed=0)


def test_the_old_package_is_refused(forgetful, monkeypatch):
    class Old:
        corruption_dict = dict(impulse_noise=lambda x, severity: x)

    monkeypatch.setitem(sys.modules, 'imagecorruptions', Old)
    with pytest.raises(UserError, match='impulse_noise takes no seed'):
        corrupt.load_library()
