"""Quick check whether a server responds, before slow client retries."""

import errno
import os
import queue
import select
import socket
import threading
import time
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

# Time enough to send the first packet of a connection again twice, after one
# and after three seconds.
_PATIENCE = 5.0
# What the hub's own client calls its patience, for slow networks.
_PATIENCE_VARIABLE = 'HF_HUB_ETAG_TIMEOUT'
_PORTS = {'http': 80, 'https': 443}


def check_reachable(address: str) -> None:
    """Open and close a connection to the server of an address.

    The clients that fetch weights wait for minutes, or try again and again,
    where there is no network. A server that takes the connection may then
    answer as slowly as it likes.

    Args:
        address: ``http://`` or ``https://``; where the environment names a
            proxy for it, the proxy is asked.

    Raises:
        OSError: The name is unknown, or nothing took the connection within
            5 seconds (``HF_HUB_ETAG_TIMEOUT``, if that is set).
    """
    host, port = _first_hop(address)
    if host is None:
        return
    seconds = _patience()
    answer = queue.Queue()
    # Looking a name up cannot be given a time limit, a thread can be left.
    threading.Thread(
        target=_connect, args=(host, port, seconds, answer), daemon=True
    ).start()
    try:
        problem = answer.get(timeout=seconds)
    except queue.Empty:
        problem = _late(host, seconds)
    if problem is not None:
        raise problem


def _patience():
    try:
        return max(float(os.environ[_PATIENCE_VARIABLE]), 1.0)
    except (KeyError, ValueError):
        return _PATIENCE


def _late(host, seconds):
    return TimeoutError(
        errno.ETIMEDOUT, f'{host} does not answer within {seconds:g} s'
    )


def _first_hop(address):
    """Host and port that are really connected to: a proxy's, if one is set."""
    parts = urlsplit(address)
    host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get('all')
    if host and proxy and not proxy_bypass(host):
        parts = urlsplit(proxy if '://' in proxy else f'//{proxy}')
        host, port = parts.hostname, parts.port or 80
    return host, port


def _connect(host, port, seconds, answer):
    """Try all addresses of a host at once; put None or the OSError."""
    end = time.monotonic() + seconds
    waiting, problem = {}, _late(host, seconds)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, place in found:
            try:
                stream = socket.socket(family, kind, protocol)
            except OSError as error:  # No IPv6 here.
                problem = error
                continue
            stream.setblocking(False)
            waiting[stream] = stream.connect_ex(place)
        while waiting:
            left = max(end - time.monotonic(), 0)
            _, ready, _ = select.select([], list(waiting), [], left)
            if not ready:
                problem = _late(host, seconds)
                break
            for stream in ready:
                code = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    problem = None
                    return
                problem = OSError(code, f'{os.strerror(code)}: {host}:{port}')
                del waiting[stream]
                stream.close()
    except OSError as error:
        problem = error
    finally:
        for stream in waiting:
            stream.close()
        answer.put(problem)
