"""The server of the page: what it answers, and to whom.

Gradio's server has many more routes than this page needs, among them some
that serve files, fetch addresses or convert recordings. Those that the page
needs are let through, everything else does not exist.
"""

import io
import logging
import os
import re
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clouds_mmseg.predict.predictor import Predictor
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.web.page import Demo, build_page
from clouds_mmseg.web.results import FILES, ResultStore
from clouds_mmseg.web.style import SCRIPT, STYLE
from clouds_mmseg.web.upload import Limits

_GET = re.compile(
    r'/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json'
    r'|/(?:assets|static|svelte)/[\w./@+-]+'
    r'|/(?:result|example)/[\w./-]+'
    r'|/gradio_api/(?:startup-events|theme\.css|info|upload_progress'
    r'|queue/data|heartbeat/\w+)'
)
_POST = re.compile(r'/gradio_api/(?:upload|queue/join|cancel|reset)/?')
_UPLOAD = '/gradio_api/upload'
# Bytes of a request that is no upload, and of an upload besides its file.
_REQUEST = 2**18
# All uploads that no prediction has taken yet, as a multiple of one.
_WAITING = 16
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')
# Gradio writes its start values into the page as a script, and evaluates the
# functions of `js=`. Nothing is loaded from or sent to other servers.
_HEADERS = [
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
    (b'cross-origin-resource-policy', b'same-origin'),
    (
        b'content-security-policy',
        b"default-src 'self'; img-src 'self' data: blob:; "
        b"script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        b"style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
]
# Seconds for requests to end when the page is stopped.
_GRACE = 2

logger = logging.getLogger(__name__)
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware that lets through what the page needs.

    Args:
        app: The application.
        limits: Limits of an upload.
        uploads: Folder of uploads that wait for their prediction.
        hosts: Names under which the page may be asked for; None: any. A page
            on 127.0.0.1 is otherwise open to every web site whose name its
            owner lets point there.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        limits: Limits,
        uploads: Path,
        hosts: tuple[str, ...] | None,
    ):
        self._app = app
        self._limits = limits
        self._uploads = uploads
        self._hosts = hosts

    async def __call__(
        self, scope: Message, receive: Receive, send: Send
    ) -> None:
        """Answer a request, as ASGI has it."""
        if scope['type'] == 'lifespan':
            return await self._app(scope, receive, send)
        if scope['type'] != 'http':
            return None
        refused = self._refuse(scope)
        if refused:
            return await _answer(send, *refused)
        upload = scope['path'].rstrip('/') == _UPLOAD
        left = (self._limits.bytes if upload else 0) + _REQUEST
        too_large = started = False

        async def counted():
            nonlocal left, too_large
            message = await receive()
            left -= len(message.get('body', b''))
            if left < 0:
                too_large = True
                return {'type': 'http.disconnect'}
            return message

        async def checked(message):
            nonlocal started
            if too_large and not started:
                return
            if message['type'] == 'http.response.start':
                started = True
                headers = [*message.get('headers', ()), *_HEADERS]
                message = dict(message, headers=headers)
            await send(message)

        try:
            await self._app(scope, counted, checked)
        except Exception:
            if not too_large:
                raise
        if too_large and not started:
            await _answer(send, 413, self._too_large())

    def _refuse(self, scope):
        """Return status and text for what is not let through."""
        headers = {k.lower(): v.decode('latin-1') for k, v in scope['headers']}
        host = headers.get(b'host', '')
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return 421, 'This page is not served under that name.'
        method, path = scope['method'], scope['path']
        if method in ('GET', 'HEAD'):
            # Encoded dots have been decoded here.
            known = _GET.fullmatch(path) and '..' not in path
            return None if known else (404, 'Not found.')
        if method != 'POST' or not _POST.fullmatch(path):
            return 404, 'Not found.'
        origin = headers.get(b'origin')
        if origin and origin.partition('://')[2] != host:
            return 403, 'Another page may not ask for this.'
        if path.rstrip('/') != _UPLOAD:
            return None
        length = headers.get(b'content-length', '0')
        if not length.isdigit() or int(length) > self._limits.bytes + _REQUEST:
            return 413, self._too_large()
        if _size_of(self._uploads) > _WAITING * self._limits.bytes:
            return 503, 'Too many uploads are waiting. Try again later.'
        return None

    def _too_large(self):
        return (
            f'The file has more than the {self._limits.megabytes:g} MB that '
            'this page takes.'
        )


async def _answer(send, status, text):
    body = text.encode()
    headers = [
        (b'content-type', b'text/plain; charset=utf-8'),
        (b'content-length', str(len(body)).encode()),
        *_HEADERS,
    ]
    start = {'type': 'http.response.start', 'status': status}
    await send(dict(start, headers=headers))
    await send({'type': 'http.response.body', 'body': body})


def _name_of(host):
    """Return the name in a Host header, without its port."""
    if host.startswith('['):
        return host[1:].partition(']')[0]
    return host.partition(':')[0]


def _size_of(folder):
    total = 0
    for path in folder.rglob('*'):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            # Its prediction has taken it.
            continue
    return total


def require_gradio() -> None:
    """Check that Gradio is installed.

    Raises:
        UserError: It is not.
    """
    for name in ('gradio', 'uvicorn'):
        if find_spec(name) is None:
            raise UserError(
                f'the demo page needs {name}, which is not installed: '
                'pip install "clouds_mmseg[web]"'
            )


def create_app(
    models: dict[str, Predictor],
    folder: str | Path,
    *,
    limits: Limits,
    examples: dict[str, np.ndarray],
    hosts: tuple[str, ...] | None = _LOOPBACK,
    title: str = 'Semantic segmentation',
) -> Guard:
    """Build the application.

    ``GRADIO_TEMP_DIR`` has to name the folder ``uploads`` in ``folder``.

    Args:
        models: Name that is shown -> model; one or two.
        folder: Temporary folder: all files that are written lie there.
        limits: Limits of an upload.
        examples: Name -> image (H, W, 3) uint8 RGB.
        hosts: Names under which the page may be asked for; None: any.
        title: Heading of the page.

    Returns:
        An ASGI application.
    """
    import gradio as gr
    from fastapi import FastAPI, Response
    from fastapi.responses import FileResponse

    root = Path(folder)
    (root / 'results').mkdir()
    (root / 'uploads').mkdir(exist_ok=True)
    store = ResultStore(root / 'results')
    demo = Demo(models, store, limits, examples)
    thumbnails = [_jpeg(image) for image in examples.values()]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    missing = Response('Not found.', 404)

    @app.get('/result/{token}/{index}/overlay.png')
    def overlay(token: str, index: int, opacity: float = 0.5) -> Response:
        opacity = min(max(opacity, 0.0), 1.0) if opacity == opacity else 0.5
        body = store.overlay(token, index, opacity)
        if body is None:
            return missing
        return Response(body, media_type='image/png')

    @app.get('/result/{token}/{index}/{name}')
    def result(token: str, index: int, name: str) -> Response:
        path = store.file(token, index, name)
        if path is None:
            return missing
        return FileResponse(path, media_type=FILES[name])

    @app.get('/example/{index}.jpg')
    def example(index: int) -> Response:
        if not 0 <= index < len(thumbnails):
            return missing
        return Response(thumbnails[index], media_type='image/jpeg')

    # Fonts of the system: the theme's own come from another server.
    plain = dict(
        font=['system-ui', 'sans-serif'],
        font_mono=['ui-monospace', 'Consolas'],
    )
    gr.mount_gradio_app(
        app,
        build_page(demo, title),
        '/',
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(**plain),
        css=STYLE,
        js=SCRIPT,
    )
    return Guard(app, limits, root / 'uploads', hosts)


def _jpeg(image):
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    picture.thumbnail((320, 320))
    picture.save(buffer, 'jpeg', quality=85)
    return buffer.getvalue()


def serve(
    models: dict[str, Predictor],
    *,
    host: str = '127.0.0.1',
    port: int = 7860,
    limits: Limits | None = None,
    examples: dict[str, np.ndarray] | None = None,
    title: str = 'Semantic segmentation',
) -> None:
    """Serve the page until the process is interrupted or terminated.

    Everything is written into one temporary folder, which is removed then.

    Args:
        models: Name that is shown -> model; one or two.
        host: Address to listen on. On a loopback address the page answers
            under that name and ``localhost`` alone.
        port: 0 for any that is free.
        limits: Limits of an upload.
        examples: Name -> image (H, W, 3) uint8 RGB.
        title: Heading of the page.

    Raises:
        UserError: Gradio is not installed, or the address cannot be used.
    """
    require_gradio()
    with _listen(host, port) as listener:
        with tempfile.TemporaryDirectory(prefix='clouds_demo_') as folder:
            with _environment(folder):
                _serve(models, folder, listener, host, limits, examples, title)


def _serve(models, folder, listener, host, limits, examples, title):
    import uvicorn

    local = host in _LOOPBACK
    app = create_app(
        models,
        folder,
        limits=limits or Limits(),
        examples=examples or {},
        hosts=_LOOPBACK if local else None,
        title=title,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level='warning',
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    address = listener.getsockname()
    name = f'[{host}]' if ':' in host else host
    print(f'The page is at http://{name}:{address[1]} (Ctrl-C ends it)')
    if not local:
        print('Everyone who reaches this machine can use it.')
    print(end='', flush=True)
    server.run(sockets=[listener])


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        number = getattr(error, 'errno', None)
        raise UserError(
            f'the page cannot listen on {host}, port {port}: '
            f'{os.strerror(number) if number else error}; choose '
            'others with --host and --port (0: any that is free)'
        ) from error
    with listener:
        yield listener


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """What Gradio takes from the environment alone; SIGTERM as Ctrl-C."""
    settings = dict(
        GRADIO_TEMP_DIR=str(Path(folder) / 'uploads'),
        GRADIO_ANALYTICS_ENABLED='False',
        GRADIO_EXAMPLES_CACHE=str(Path(folder) / 'cache'),
    )
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)

    def stop(number, frame):
        raise SystemExit(128 + number)

    # By default the process would end at once, and the folder stay.
    handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
