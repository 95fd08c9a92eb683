"""Inputs from a server that is not to be trusted."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from tiny_video import write_video

from clouds_mmseg.predict import download as module
from clouds_mmseg.predict.download import DownloadError, download
from clouds_mmseg.predict.predict_files import predict_files
from clouds_mmseg.predict.segmenter import Segmenter


def png(size=(32, 32)):
    stream = io.BytesIO()
    Image.new('RGB', size, (80, 140, 220)).save(stream, 'PNG')
    return stream.getvalue()


@pytest.fixture(scope='module')
def pages():
    """Path on a server -> status, headers, body."""
    return {
        '/a/street.png': (200, {'Content-Type': 'image/png'}, png()),
        '/untold.png': (
            200,
            {'Content-Type': 'application/octet-stream'},
            png(),
        ),
        '/page.png': (200, {'Content-Type': 'text/html'}, b'<html>'),
        '/drawing': (200, {'Content-Type': 'image/svg+xml'}, b'<svg/>'),
        '/not.png': (200, {'Content-Type': 'image/png'}, b'no image'),
        '/large.png': (200, {'Content-Type': 'image/png'}, png((300, 300))),
        '/short.png': (
            200,
            {'Content-Type': 'image/png', 'Content-Length': '5000'},
            png(),
        ),
        '/long.png': (
            200,
            {'Content-Type': 'image/png', 'Content-Length': '99999999999'},
            b'',
        ),
        '/moved': (302, {'Location': '/a/street.png'}, b''),
        '/passwords': (302, {'Location': 'file:///etc/hosts'}, b''),
        '/ftp': (302, {'Location': 'ftp://localhost/a.png'}, b''),
        '/loop': (302, {'Location': '/loop'}, b''),
    }


@pytest.fixture(scope='module')
def server(pages):
    """Address of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = pages.get(
                self.path.partition('?')[0],
                (404, {'Content-Type': 'text/plain'}, b'no'),
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    found = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{found.server_port}'
    found.shutdown()
    found.server_close()


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')


def test_images_are_downloaded(server, tmp_path):
    for name in ('/a/street.png?size=1', '/untold.png', '/moved'):
        path, kind = download(server + name, tmp_path)
        assert kind == 'image' and path.parent == tmp_path
        assert path.read_bytes() == png()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('/none.png', 'cannot be fetched: 404 Not Found'),
        ('/page.png', 'neither an image nor a video: the server says text/h'),
        ('/drawing', 'the server says image/svg'),
        ('/not.png', 'is no image that can be read'),
        ('/short.png', 'ended after .* of 5000 bytes'),
        ('/long.png', 'is larger than 64 MiB; download it yourself'),
        ('/passwords', "'file:///etc/hosts' is not allowed"),
        ('/ftp', 'redirects to ftp://'),
        ('/loop', 'cannot be fetched'),
    ],
)
def test_what_is_refused(server, tmp_path, name, message):
    with pytest.raises(DownloadError, match=message):
        download(server + name, tmp_path)


def test_limits(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'MOST_PIXELS', 80_000)
    with pytest.raises(DownloadError, match='300x300 pixels; up to'):
        download(f'{server}/large.png', tmp_path)
    monkeypatch.setitem(module.MOST_BYTES, 'image', 20)
    # The server does not announce its size.
    with pytest.raises(DownloadError, match='is larger than'):
        download(f'{server}/a/street.png', tmp_path)
    for address in ('file:///etc/hosts', 'data:image/png;base64,AA=='):
        with pytest.raises(DownloadError, match='no address of a web server'):
            download(address, tmp_path)
    with pytest.raises(DownloadError, match='cannot be fetched'):
        download('http://127.0.0.1:9/a.png', tmp_path)


def test_addresses_are_predicted(server, tiny_checkpoint, tmp_path):
    segmenter = Segmenter.from_pretrained(tiny_checkpoint, device='cpu')
    inputs = [f'{server}/{name}' for name in ('a/street.png', 'none.png')]
    done = predict_files(segmenter, inputs, tmp_path / 'out')
    assert done.written == 1
    assert list(done.failed) == [f'{server}/none.png']
    labels = np.asarray(Image.open(tmp_path / 'out/labels/street.png'))
    image = np.asarray(Image.open(io.BytesIO(png())))
    assert np.array_equal(labels, segmenter(image).labels)
    # Its result is there: the server is not asked.
    done = predict_files(
        segmenter, ['http://127.0.0.1:9/street.jpg'], tmp_path / 'out'
    )
    assert done.existing == 1 and not done.failed


def test_a_video_of_an_address(server, tiny_checkpoint, tmp_path, pages):
    pytest.importorskip('av', reason='needs PyAV: clouds_mmseg[video]')
    path = write_video(tmp_path / 'a.mp4', range(3))
    pages['/clip'] = (200, {'Content-Type': 'video/mp4'}, path.read_bytes())
    segmenter = Segmenter.from_pretrained(tiny_checkpoint, device='cpu')
    # A playlist that names other files is no video, whatever it is called.
    script = f'ffconcat version 1.0\nfile {path}\n'.encode()
    pages['/list.mp4'] = (200, {'Content-Type': 'video/mp4'}, script)
    inputs = [f'{server}/clip', f'{server}/list.mp4']
    done = predict_files(segmenter, inputs, tmp_path / 'out')
    assert done.frames == 3
    assert (tmp_path / 'out/overlay/clip.mp4').is_file()
    assert 'cannot be read as a video' in done.failed[f'{server}/list.mp4']
    assert predict_files(segmenter, inputs[:1], tmp_path / 'out').existing == 1
