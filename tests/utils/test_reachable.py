import socket
import time

import pytest

from clouds_mmseg.utils.reachable import check_reachable


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv('HF_HUB_ETAG_TIMEOUT', raising=False)


@pytest.fixture
def listening():
    """A server that takes connections and never says a word."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def full():
    """A server that drops connections, as a firewall does."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen(0)
        port = server.getsockname()[1]
        held = []
        for _ in range(4):
            stream = socket.socket()
            stream.setblocking(False)
            stream.connect_ex(('127.0.0.1', port))
            held.append(stream)
        yield port
        for stream in held:
            stream.close()


def closed_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def test_a_silent_server_is_reachable(listening):
    check_reachable(f'http://127.0.0.1:{listening}/a/b.pth')
    # The first of the host's addresses need not be the one that listens.
    check_reachable(f'https://localhost:{listening}')


def test_a_closed_port_is_told_at_once():
    begin = time.monotonic()
    with pytest.raises(OSError, match='refused: 127.0.0.1'):
        check_reachable(f'http://127.0.0.1:{closed_port()}')
    assert time.monotonic() - begin < 1


def test_dropped_packets_are_not_waited_for(full, monkeypatch):
    monkeypatch.setenv('HF_HUB_ETAG_TIMEOUT', '1')
    begin = time.monotonic()
    with pytest.raises(OSError, match='127.0.0.1 does not answer within 1 s'):
        check_reachable(f'http://127.0.0.1:{full}')
    # The system waits for minutes.
    assert time.monotonic() - begin < 20


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setenv('HF_HUB_ETAG_TIMEOUT', '1')
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: time.sleep(4))
    begin = time.monotonic()
    with pytest.raises(OSError, match='weights.example does not answer'):
        check_reachable('https://weights.example/a.pth')
    assert time.monotonic() - begin < 3


def test_an_unknown_name_is_told(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(OSError, match='Name or service not known'):
        check_reachable('https://weights.example/a.pth')


def test_the_proxy_is_what_must_answer(monkeypatch, listening):
    monkeypatch.setenv('https_proxy', f'http://127.0.0.1:{listening}')
    check_reachable('https://weights.example/a.pth')
    monkeypatch.setenv('https_proxy', f'http://127.0.0.1:{closed_port()}')
    with pytest.raises(OSError, match='refused'):
        check_reachable('https://weights.example/a.pth')
    # What goes around the proxy is asked itself.
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    check_reachable(f'https://127.0.0.1:{listening}')
