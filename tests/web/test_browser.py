"""The page in a real browser, as its visitors see it.

Marked as skipped, with the reason, where Chromium or Playwright is missing.
"""

import re
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from web_page import noise

# Milliseconds.
_PATIENCE = 60_000
_RESULT = '#result figure'
_ERROR = '#result [role=alert]'


@pytest.fixture(scope='module')
def browser():
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        pytest.skip('needs Chromium: apt-get install chromium')
    if find_spec('playwright') is None:
        pytest.skip('needs playwright: pip install "clouds_mmseg[dev]"')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            # Without a sandbox of its own: tests run as root in containers.
            args=['--no-sandbox', '--disable-gpu'],
        )
        yield started
        started.close()


@pytest.fixture(scope='module')
def opened(browser, page):
    """The page in a window, with what its browser has reported."""
    window = browser.new_page(viewport=dict(width=1280, height=900))
    window.set_default_timeout(_PATIENCE)
    said = dict(requests=[], failures=[])
    failures = said['failures']
    window.on('request', lambda r: said['requests'].append(r.url))
    window.on(
        'response',
        # Gradio asks how far an upload is that it has refused.
        lambda r: (
            r.status >= 400
            and 'upload_progress' not in r.url
            and failures.append(r.url)
        ),
    )
    window.on('pageerror', lambda error: failures.append(str(error)))
    window.on(
        'console',
        lambda m: (
            m.type == 'error'
            and m.text != 'Response'
            and not m.text.startswith('Failed to load resource')
            and failures.append(m.text)
        ),
    )
    window.goto(page.url)
    window.wait_for_selector('#upload input[type=file]', state='attached')
    yield window, said
    window.close()


@pytest.fixture
def files(tmp_path):
    Image.fromarray(noise(96, 128)).save(tmp_path / 'street.png')
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\nbroken')
    (tmp_path / 'large.png').write_bytes(bytes(3_000_000))
    return tmp_path


def upload(window, path, shown):
    window.set_input_files('#upload input[type=file]', path)
    window.wait_for_selector(shown)
    window.wait_for_function(
        "[...document.querySelectorAll('#result img')].every(i => i.complete)"
    )


def shown_images(window):
    """Whether each image of the result was loaded and is in the window."""
    return window.evaluate(
        """[...document.querySelectorAll('#result img')]
        .filter(image => image.offsetParent !== null)
        .map(image => {
          const box = image.getBoundingClientRect();
          return image.complete && image.naturalWidth > 0 && box.width > 100
            && box.left >= 0 && box.right <= window.innerWidth;
        })"""
    )


def test_upload_error_and_example(opened, files):
    window, said = opened
    assert 'at most 2 MB and 1 megapixels' in window.inner_text('body')
    upload(window, files / 'street.png', _RESULT)
    assert window.locator(_RESULT).count() == 2
    # Image and classes of both models; the confidence is hidden.
    assert shown_images(window) == [True] * 4
    # The name of a model is text, not markup.
    assert 'left <b>' in window.inner_text('#result')
    upload(window, files / 'broken.png', _ERROR)
    said_now = window.inner_text(_ERROR)
    assert 'head is damaged' in said_now
    assert window.locator(_RESULT).count() == 0
    # Over the limit, which the browser finds before it sends the file.
    window.set_input_files('#upload input[type=file]', files / 'large.png')
    window.get_by_text('maximum allowed size of 2.0 Mb').first.wait_for()
    window.click('#examples button:nth-child(2)')
    window.wait_for_selector(_RESULT)
    assert said['failures'] == []


def test_controls_need_no_server(opened, page, files):
    window, said = opened
    upload(window, files / 'broken.png', _ERROR)
    upload(window, files / 'street.png', _RESULT)
    begin = len(said['requests'])
    window.fill('#opacity input[type=number]', '25')
    window.press('#opacity input[type=number]', 'Tab')
    colors = window.locator('.cl-colors').first
    window.wait_for_function(
        "getComputedStyle(document.querySelector('.cl-colors')).opacity"
        " === '0.25'"
    )
    window.get_by_label('Confidence', exact=True).check()
    window.locator('.cl-confidence').first.wait_for(state='visible')
    assert not colors.is_visible()
    assert window.locator('.cl-scale').first.is_visible()
    window.get_by_label('Image', exact=True).check()
    window.locator('.cl-confidence').first.wait_for(state='hidden')
    assert not colors.is_visible()
    window.get_by_label('Classes', exact=True).check()
    colors.wait_for(state='visible')
    asked = [url for url in said['requests'][begin:] if 'queue' in url]
    assert asked == []
    # The downloaded overlay has the opacity that is seen.
    with window.expect_download() as download:
        window.get_by_text('Overlay (PNG)').first.click()
    assert download.value.suggested_filename == 'overlay.png'
    overlay = np.asarray(Image.open(download.value.path())).astype(int)
    with window.expect_download() as download:
        window.get_by_text('Labels (PNG)').first.click()
    labels = np.asarray(Image.open(download.value.path()))
    assert labels.shape == overlay.shape[:2] == (96, 128)
    image = noise(96, 128).astype(int)
    assert np.abs(overlay - image).max() <= 0.25 * 255 + 1
    assert np.abs(overlay - image).max() > 0.1 * 255
    # No font, script or count of visitors comes from elsewhere.
    others = [u for u in said['requests'] if not u.startswith(page.url)]
    assert [u for u in others if not u.startswith(('data:', 'blob:'))] == []
    assert said['failures'] == []


def test_classes_as_text(opened, files):
    window, said = opened
    upload(window, files / 'street.png', _RESULT)
    window.fill('#classes textarea', 'tram, kerb')
    window.get_by_role('button', name='Predict with these classes').click()
    legend = window.locator(f'{_RESULT}:nth-of-type(2) .cl-legend')
    legend.get_by_text(re.compile('tram|kerb')).first.wait_for()
    # The other model has the classes of its training.
    first = window.inner_text(f'{_RESULT}:nth-of-type(1) .cl-legend')
    assert 'tram' not in first and 'kerb' not in first
    window.fill('#classes textarea', 'tram')
    window.get_by_role('button', name='Predict with these classes').click()
    window.wait_for_selector(_ERROR)
    assert 'Give 2 to 64 classes' in window.inner_text(_ERROR)
    window.fill('#classes textarea', '')
    upload(window, files / 'street.png', _RESULT)
    assert 'tram' not in window.inner_text('#result')
    assert said['failures'] == []


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_narrow_window(opened, files, scheme):
    window, said = opened
    window.emulate_media(color_scheme=scheme)
    window.set_viewport_size(dict(width=390, height=844))
    upload(window, files / 'broken.png', _ERROR)
    upload(window, files / 'street.png', _RESULT)
    assert shown_images(window) == [True] * 4
    # One below the other, and nothing to be scrolled to the side.
    boxes = [f.bounding_box() for f in window.locator(_RESULT).all()]
    assert boxes[1]['y'] >= boxes[0]['y'] + boxes[0]['height']
    width = window.evaluate('document.documentElement.scrollWidth')
    assert width <= 390
    color = window.evaluate(
        "getComputedStyle(document.querySelector('#result figcaption')).color"
    )
    red = int(re.search(r'\d+', color)[0])
    assert red > 150 if scheme == 'dark' else red < 100
    window.set_viewport_size(dict(width=1280, height=900))
    window.emulate_media(color_scheme='light')
    assert said['failures'] == []
