"""The page of ``clouds demo`` in a process of its own, and a client of it."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

_MEGABYTES = 2
# Seconds; the stack is imported.
_START = 120


class Refused(Exception):
    """The page does not take a request."""


class Page:
    """``clouds demo`` in a process that can write into one folder alone.

    Attributes:
        url: Of the page.
        folder: Holds ``home``, ``temporary`` and ``here``, where it runs.
    """

    def __init__(self, checkpoints, folder):
        import httpx

        self.folder = folder
        self.temporary = folder / 'temporary'
        for name in ('home', 'temporary', 'here'):
            (folder / name).mkdir()
        environment = dict(
            os.environ,
            HOME=str(folder / 'home'),
            TMPDIR=str(self.temporary),
            # What importing torch and matplotlib writes is not the page's.
            TORCHINDUCTOR_CACHE_DIR=str(folder / 'inductor'),
            MPLCONFIGDIR=str(Path.home() / '.cache' / 'matplotlib'),
        )
        # What is asked for and must not be had.
        (folder / 'secret.png').write_bytes(b'secret')
        Image.fromarray(noise(32, 32)).save(folder / 'private.png')
        self.log = folder / 'log'
        command = 'from clouds_mmseg_cli.command import main; main()'
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, '-c', command, 'demo'),
                    *map(str, checkpoints),
                    *('--name', 'left <b>', 'right', '--port', '0'),
                    *('--device', 'cpu', '--max-megapixels', '1'),
                    *('--max-megabytes', str(_MEGABYTES)),
                ],
                cwd=folder / 'here',
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = self.process.stdout.readline()
        found = re.search(r'http://\S+', line)
        assert found, self.log.read_text()
        self.url = found[0]
        self.http = httpx.Client(base_url=self.url, timeout=_START)
        config = self.http.get('/config').raise_for_status().json()
        self._events = {
            event: dependency['id']
            for dependency in config['dependencies']
            for _, event in dependency['targets']
            if dependency['backend_fn']
        }
        self._sessions = itertools.count()

    def upload(self, payload, name='image.png'):
        """Send a file as the browser does, and return the result's HTML."""
        sent = self.http.post(
            '/gradio_api/upload', files={'files': (name, payload)}
        )
        assert sent.status_code == 200, sent.text
        return self.ask('upload', [file_data(sent.json()[0]), ''])['data'][0]

    def event(self, name):
        """Return the number of an event of the page."""
        return self._events[name]

    def ask(self, event, data, **more):
        """Send an event, and return the server's answer to it."""
        session = f'session{next(self._sessions)}'
        joined = self.http.post(
            '/gradio_api/queue/join',
            json=dict(
                data=data,
                fn_index=self.event(event),
                session_hash=session,
                event_data=more.get('event_data'),
            ),
        )
        if joined.status_code != 200:
            raise Refused(joined.text)
        address = f'/gradio_api/queue/data?session_hash={session}'
        with self.http.stream('GET', address) as stream:
            for line in stream.iter_lines():
                if not line.startswith('data:'):
                    continue
                message = json.loads(line[5:])
                if message['msg'] == 'process_completed':
                    return message['output']
        raise AssertionError('the server has not answered')

    def memory(self):
        """Bytes of the process that are in use."""
        status = Path(f'/proc/{self.process.pid}/status').read_text()
        return int(re.search(r'VmRSS:\s+(\d+)', status)[1]) * 1024

    def stop(self):
        """End the process as a service manager does."""
        if self.process.poll() is None:
            self.http.close()
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def file_data(path):
    """What the browser sends for an uploaded file."""
    return dict(path=path, meta={'_type': 'gradio.FileData'})


def noise(height, width, seed=0):
    """An image (H, W, 3) uint8 that cannot be compressed."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8)
