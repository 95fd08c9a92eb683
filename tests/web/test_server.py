"""The page over HTTP: what it answers, and what it refuses to."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image
from web_page import Refused, file_data, noise


def png(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'png', **options)
    return buffer.getvalue()


def files_of(html):
    return [part.split('"')[0] for part in html.split('src="')[1:]]


def test_an_upload_is_predicted(page, small_segmenter):
    image = noise(48, 64)
    html = page.upload(png(image))
    expected = small_segmenter(image)
    assert 'left &lt;b&gt;' in html and 'right' in html
    files = files_of(html)
    assert len(files) == 6
    for name in files:
        assert page.http.get('/' + name).status_code == 200
    labels = page.http.get('/' + files[1].replace('colors', 'labels'))
    found = np.asarray(Image.open(io.BytesIO(labels.content)))
    assert np.array_equal(found, expected.labels)
    overlay = '/' + files[1].replace('colors', 'overlay')
    for query, opacity in (('', 0.5), ('?opacity=0.25', 0.25)):
        body = page.http.get(overlay + query).content
        drawn = np.asarray(Image.open(io.BytesIO(body)))
        assert np.array_equal(drawn, np.asarray(expected.overlay(opacity)))
    for query in ('?opacity=7', '?opacity=nan', '?opacity=-inf'):
        assert page.http.get(overlay + query).status_code == 200
    # The upload itself has been deleted.
    left = list((page.temporary).rglob('image.png'))
    assert [p.parent.parent.name for p in left] == ['results'] * len(left)


BROKEN = {
    'text.png': (b'no image', 'is no image that this page reads'),
    'a.svg': (
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        'is no image that this page reads',
    ),
    'line.png': (None, 'its shorter side must have'),
    'large.png': (None, 'more than the 1 megapixels'),
    'cut.png': (png(noise(64, 64))[:5000], 'This PNG file'),
    '../../../etc/cron.d/x.png': (b'\0', 'is no image'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_bad_file_is_one_message(page, name):
    payload, message = BROKEN[name]
    if payload is None:
        size = dict(line=(1, 100_000), large=(1001, 1000))[name[:-4]]
        payload = png(np.zeros((*size, 3), np.uint8))
    html = page.upload(payload, name)
    assert html.count('role="alert"') == 1 and message in html
    assert 'Traceback' not in html and str(page.folder) not in html
    # The page goes on.
    assert '<figure>' in page.upload(png(noise(32, 32)))


def test_limits_hold_before_anything_is_stored(page):
    large = b'\x89PNG\r\n\x1a\n' + bytes(3_000_000)
    url = '/gradio_api/upload'
    sent = page.http.post(url, files={'files': ('a.png', large)})
    assert sent.status_code == 413
    assert 'more than the 2 MB' in sent.text

    def chunks():
        yield from (
            b'--x\r\nContent-Disposition: form-data; name="files"; '
            b'filename="a.png"\r\n\r\n',
            *([bytes(100_000)] * 30),
            b'\r\n--x--\r\n',
        )

    # Without a length in its head.
    kind = {'content-type': 'multipart/form-data; boundary=x'}
    sent = page.http.post(url, content=chunks(), headers=kind)
    assert sent.status_code == 413
    # Many files in one request, and a request that is no upload.
    parts = [('files', (f'{i}.png', bytes(400_000))) for i in range(8)]
    assert page.http.post(url, files=parts).status_code == 413
    body = dict(data=['x' * 2**19])
    joined = page.http.post('/gradio_api/queue/join', json=body)
    assert joined.status_code == 413


def test_files_of_the_machine_are_not_served(page):
    secret = page.folder / 'secret.png'
    uploads = next(page.temporary.iterdir()) / 'uploads'
    (uploads / 'x.png').write_bytes(b'secret')
    for path in (
        f'/gradio_api/file={secret}',
        f'/gradio_api/file={uploads}/../../../secret.png',
        f'/gradio_api/file={uploads}/x.png',
        '/gradio_api/file=/etc/passwd',
        '/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd',
        '/gradio_api/file/etc/passwd',
        '/gradio_api/proxy=http://127.0.0.1/x',
        '/gradio_api/stream/x/1/1/playlist.m3u8',
        '/static/../../../../../../../etc/passwd',
        '/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd',
        '/assets/..%2f..%2f..%2froutes.py',
        '/assets//etc/passwd',
        '/result/..%2f..%2fsecret.png/0/labels.png',
        '/result/%2e%2e/0/labels.png',
        '/example/99.jpg',
        '/example/..%2fx.jpg',
        '/monitoring',
        '/gradio_api/vibe-code/',
        '/gradio_api/deep_link',
        '/docs',
        '/openapi.json',
    ):
        sent = page.http.get(path)
        assert sent.status_code in (403, 404), path
        assert 'secret' not in sent.text.replace('secret.png', ''), path
        assert 'root:' not in sent.text and 'Traceback' not in sent.text
    (uploads / 'x.png').unlink()
    for path in ('process_recording', 'vibe-edit', 'component_server'):
        sent = page.http.post(f'/gradio_api/{path}', json={})
        assert sent.status_code == 404


def test_files_that_nobody_uploaded_are_not_read(page):
    image = page.folder / 'private.png'
    results = next(page.temporary.iterdir()) / 'results'
    stored = next(results.rglob('image.png'), results / 'none')
    uploads = results.parent / 'uploads'
    for path in (
        str(image),
        str(stored),
        f'{uploads}/../../../private.png',
        '/etc/passwd',
        'http://127.0.0.1:9/x.png',
        'https://example.org/x.png',
    ):
        answer = page.ask('upload', [file_data(path), ''])
        text = json.dumps(answer)
        assert '<figure>' not in text and 'private.png' not in text, path
        assert 'Traceback' not in text and str(page.folder) not in text
        assert answer.get('error') is None
    assert image.is_file()


def test_other_sites_and_names_are_refused(page):
    path = '/gradio_api/upload'
    for head in (
        {'host': 'evil.example'},
        {'host': 'evil.example:80'},
        {'host': '127.0.0.1.evil.example'},
    ):
        assert page.http.get('/', headers=head).status_code == 421
    named = page.url.replace('127.0.0.1', 'localhost').partition('://')[2]
    assert page.http.get('/', headers={'host': named}).status_code == 200
    other = {'origin': 'https://evil.example'}
    file = {'files': ('a.png', b'x')}
    sent = page.http.post(path, files=file, headers=other)
    assert sent.status_code == 403
    same = {'origin': page.url}
    assert page.http.post(path, files=file, headers=same).status_code == 200
    policy = page.http.get('/').headers['content-security-policy']
    assert "default-src 'self'" in policy and 'http' not in policy


def test_the_page_says_nothing_of_the_machine(page):
    config = page.http.get('/config').text
    for text in (config, page.http.get('/').text):
        assert str(page.folder) not in text
        assert 'site-packages' not in text and 'small' not in text
    assert 'at most 2 MB and 1 megapixels' in config


def test_uploads_in_a_row_do_not_grow_the_process(page):
    # A megabyte each besides what the image needs: 100 MB in all.
    payloads = [png(noise(96, 96, seed)) + bytes(10**6) for seed in (0, 1)]
    for index in range(20):
        page.upload(payloads[index % 2])
    before = page.memory()
    for index in range(100):
        assert '<figure>' in page.upload(payloads[index % 2])
    grown = page.memory() - before
    assert grown < 10e6, f'{grown / 1e6:.0f} MB'
    folder = next(page.temporary.iterdir())
    assert len(list((folder / 'results').iterdir())) <= 32
    # Nothing waits: each upload was deleted when it was read.
    waiting = [p for p in (folder / 'uploads').rglob('*') if p.is_file()]
    assert len(waiting) < 20


def test_the_queue_is_bounded(page):
    before = page.http.get('/config').status_code
    example = page.event('example')
    # One is predicted and eight wait; what is done meanwhile makes room, so
    # how many are taken before one is refused depends on the machine.
    for index in range(500):
        sent = page.http.post(
            '/gradio_api/queue/join',
            json=dict(
                data=[''],
                fn_index=example,
                session_hash=f'many{index}',
                event_data={'index': index % 5},
            ),
        )
        if sent.status_code != 200:
            break
    assert before == 200 and index >= 8
    assert sent.status_code == 503 and 'full' in sent.text
    assert 'Traceback' not in sent.text
    # Those that wait are served, and then there is room again.
    for _ in range(100):
        try:
            html = page.upload(png(noise(32, 32)))
        except Refused:
            time.sleep(0.2)
            continue
        assert '<figure>' in html
        break
    else:
        raise AssertionError('the queue stays full')
