"""Download of an image or a video from an address, within limits."""

import time
from pathlib import Path
from urllib import error, request
from urllib.parse import urlsplit

from clouds_mmseg.predict.inputs import VIDEO_SUFFIXES
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_files import IMAGE_SUFFIXES
from clouds_mmseg.utils.images import open_image

# Bytes of an image and of a video.
MOST_BYTES = dict(image=64 << 20, video=2 << 30)
# Of an image, and of a frame of a video; 8192x4320 has 35 million.
MOST_PIXELS = 100_000_000
# Seconds without a byte, and of a whole download.
_PATIENCE = 20.0
_LONGEST = 1800.0
_CHUNK = 1 << 20
_SCHEMES = ('http', 'https')


class DownloadError(UserError):
    """An address cannot be fetched, or is neither image nor video."""


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects to web servers only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in _SCHEMES:
            raise DownloadError(
                f'{req.full_url} redirects to {newurl}: only http:// and '
                'https:// are followed'
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(address: str, folder: Path) -> tuple[Path, str]:
    """Download an image or a video.

    Args:
        address: ``http://`` or ``https://``.
        folder: Where the file is written.

    Returns:
        The file, and ``'image'`` or ``'video'``.

    Raises:
        DownloadError: It cannot be fetched, its content type is another, it
            is larger than :data:`MOST_BYTES`, or an image larger than
            :data:`MOST_PIXELS`.
    """
    if urlsplit(address).scheme not in _SCHEMES:
        raise DownloadError(f'{address} is no address of a web server')
    # Without the handlers of file://, ftp:// and data:.
    opener = request.OpenerDirector()
    for handler in (
        *(request.ProxyHandler(), request.HTTPHandler(), _Redirects()),
        *(request.HTTPSHandler(), request.HTTPErrorProcessor()),
        *(request.HTTPDefaultErrorHandler(), request.UnknownHandler()),
    ):
        opener.add_handler(handler)
    opener.addheaders = [('User-Agent', 'clouds_mmseg')]
    try:
        with opener.open(address, timeout=_PATIENCE) as answer:
            kind, suffix = _kind_of(address, answer)
            path = folder / f'input{suffix}'
            _write(address, answer, path, MOST_BYTES[kind])
    except (OSError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        reason = getattr(problem, 'reason', None) or problem
        if isinstance(problem, error.HTTPError):
            reason = f'{problem.code} {problem.reason}'
        raise DownloadError(
            f'{address} cannot be fetched: {reason}'
        ) from problem
    if kind == 'image':
        _check_pixels(address, path)
    return path, kind


def _kind_of(address, answer):
    """Return the kind and the suffix of an answer."""
    content = answer.headers.get_content_type()
    suffix = Path(urlsplit(address).path).suffix.lower()
    kind = content.partition('/')[0]
    if content == 'application/octet-stream':
        # The server does not know.
        kind = 'image' if suffix in IMAGE_SUFFIXES else kind
        kind = 'video' if suffix in VIDEO_SUFFIXES else kind
    if kind not in MOST_BYTES or content == 'image/svg+xml':
        raise DownloadError(
            f'{address} is neither an image nor a video: the server says '
            f'{content}'
        )
    known = suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES
    return kind, suffix if known else ''


def _write(address, answer, path, most):
    announced = answer.headers.get('Content-Length', '')
    announced = int(announced) if announced.isdigit() else None
    too_large = (
        f'{address} is larger than {most >> 20} MiB; download it yourself '
        'and give the file'
    )
    if announced is not None and announced > most:
        raise DownloadError(too_large)
    end, size = time.monotonic() + _LONGEST, 0
    with open(path, 'wb') as stream:
        # read1: returns what is there, so that the time is looked at.
        while part := answer.read1(_CHUNK):
            size += len(part)
            if size > most:
                raise DownloadError(too_large)
            if time.monotonic() > end:
                raise DownloadError(
                    f'{address} is not here after {_LONGEST:.0f} seconds'
                )
            stream.write(part)
    if announced is not None and size < announced:
        raise DownloadError(
            f'{address} ended after {size} of {announced} bytes'
        )


def _check_pixels(address, path):
    try:
        with open_image(path.read_bytes()) as image:
            width, height = image.size
    except UserError as problem:
        raise DownloadError(f'{address} {problem}') from problem
    except Exception as problem:
        raise DownloadError(
            f'{address} is no image that can be read'
        ) from problem
    if width * height > MOST_PIXELS:
        raise DownloadError(
            f'{address} has {width}x{height} pixels; up to '
            f'{MOST_PIXELS // 10**6} million are fetched'
        )
