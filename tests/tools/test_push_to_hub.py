"""Upload to a stand-in of the Hugging Face hub on this machine.

It has the endpoints that an upload uses. The client is the real one.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard

TOKEN = 'hf_secretsecretsecretsecretsecret'


class Hub(ThreadingHTTPServer):
    """Accounts, repositories and what was asked for."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.account = dict(name='me', orgs=[dict(name='lab')])
        self.role = 'write'
        self.repositories = {}
        self.requests = []
        self.broken = ''


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        hub = self.server
        self.note()
        if self.path == '/api/whoami-v2':
            if self.headers['Authorization'] != f'Bearer {TOKEN}':
                return self.answer(401, dict(error='Invalid'))
            token = dict(role=hub.role, displayName='t')
            auth = dict(accessToken=token, type='access_token')
            return self.answer(200, dict(hub.account, auth=auth, type='user'))
        name = self.path.removeprefix('/api/models/').split('?')[0]
        if name in hub.repositories:
            private = hub.repositories[name]['private']
            found = dict(id=name, private=private, siblings=[], tags=[])
            return self.answer(200, dict(found, sha='0' * 40))
        return self.answer(404, dict(error='no'), 'RepoNotFound')

    def do_POST(self):
        hub = self.server
        self.note()
        body = self.rfile.read(int(self.headers['Content-Length'] or 0))
        if hub.broken and hub.broken in self.path:
            error = f'too bad, {self.headers["Authorization"]}'
            return self.answer(403, dict(error=error))
        if self.path == '/api/validate-yaml':
            content = json.loads(body)['content']
            ModelCard(content)
            return self.answer(200, dict(warnings=[], errors=[]))
        if self.path == '/api/repos/create':
            asked = json.loads(body)
            name = f'{asked.get("organization") or "me"}/{asked["name"]}'
            private = asked.get('visibility', asked.get('private'))
            hub.repositories[name] = dict(
                private=private in (True, 'private'), commits=[]
            )
            return self.answer(200, dict(url=f'{self.base}/{name}'))
        if '/preupload/' in self.path:
            files = [
                dict(path=f['path'], uploadMode='regular', shouldIgnore=False)
                for f in json.loads(body)['files']
            ]
            return self.answer(200, dict(files=files))
        name = self.path.removeprefix('/api/models/').split('/commit/')[0]
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line['value']['path']: base64.b64decode(line['value']['content'])
            for line in lines
            if line['key'] == 'file'
        }
        hub.repositories[name]['commits'].append(files)
        url = f'{self.base}/{name}/commit/{"a" * 40}'
        return self.answer(200, dict(commitUrl=url, commitOid='a' * 40))

    @property
    def base(self):
        return f'http://127.0.0.1:{self.server.server_address[1]}'

    def note(self):
        self.server.requests.append(f'{self.command} {self.path}')

    def answer(self, status, content, code=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        if code:
            self.send_header('X-Error-Code', code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_address[1]}'
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', address)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def push(run_tool, trained, tmp_path, capsys):
    """Publish and upload; returns the exit status and what was said."""

    def run(name, *words):
        words = (trained[1], tmp_path / 'out', '--push-to-hub', name, *words)
        status = run_tool('publish_model.py', *words)
        said = ''.join(capsys.readouterr())
        assert TOKEN not in said
        return status, said

    return run


def test_one_commit_holds_all_files(hub, push, tmp_path):
    status, said = push('me/tiny')
    assert status == 0, said
    assert f'me/tiny/commit/{"a" * 40} (private)' in said
    repository = hub.repositories['me/tiny']
    assert repository['private'] is True
    (files,) = repository['commits']
    out = tmp_path / 'out'
    assert files == {p.name: p.read_bytes() for p in out.iterdir()}
    assert b'# me/tiny' in files['README.md']
    assert b'clouds predict me/tiny street.jpg' in files['README.md']
    assert b"from_pretrained('me/tiny')" in files['README.md']

    # Again.
    status, said = push('me/tiny', '--overwrite')
    assert status == 0 and len(repository['commits']) == 2
    repository['private'] = False
    status, said = push('me/tiny', '--overwrite')
    assert status == 1 and 'is public, so everybody' in said
    status, said = push('me/tiny', '--overwrite', '--public')
    assert status == 0 and '(public)' in said


def test_all_is_checked_before_anything_is_written(
    hub, push, tmp_path, monkeypatch
):
    hub.repositories['me/there'] = dict(private=True, commits=[])
    for name, message in {
        'tiny': 'form user/name',
        'me/ti ny': 'is no name of a repository',
        'me/a/b': 'is no name of a repository',
        'you/tiny': 'the token belongs to me, which may not write for you',
        'me/there': 'the repository exists; --overwrite',
    }.items():
        status, said = push(name)
        assert status == 1 and message in said, said
    hub.role = 'read'
    status, said = push('lab/tiny')
    assert status == 1 and 'may only read' in said
    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    status, said = push('me/tiny')
    assert status == 1 and 'does not know the token' in said
    monkeypatch.delenv('HF_TOKEN')
    status, said = push('me/tiny')
    assert status == 1 and 'environment variable HF_TOKEN' in said
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    status, said = push('me/tiny')
    assert status == 1 and 'HF_HUB_OFFLINE is set' in said
    assert not (tmp_path / 'out').exists()
    assert not any(r.startswith('POST') for r in hub.requests)


def test_a_bad_checkpoint_makes_no_repository(hub, run_tool, tmp_path, capsys):
    words = (tmp_path / 'no.pth', tmp_path / 'out', '--push-to-hub', 'me/t')
    assert run_tool('publish_model.py', *words) == 1
    assert 'no such file' in capsys.readouterr().err
    assert hub.repositories == {}


def test_what_the_hub_refuses_is_told_without_the_token(hub, push, tmp_path):
    hub.broken = '/commit/'
    status, said = push('me/tiny')
    assert status == 1 and 'may not write there' in said
    # What was written here stays, for another attempt.
    assert (tmp_path / 'out/README.md').is_file()
    hub.shutdown()
    hub.server_close()
    status, said = push('me/tiny', '--overwrite')
    assert status == 1 and '--push-to-hub me/tiny: ' in said
