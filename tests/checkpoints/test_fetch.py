import functools
import http.server
import threading

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from clouds_mmseg.checkpoints.fetch import read_remote
from clouds_mmseg.checkpoints.writing import write_weights
from clouds_mmseg.utils.errors import UserError

WEIGHTS = {'w': torch.arange(3.0)}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server and the folder that it serves."""
    folder = tmp_path / 'site'
    folder.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('HF_HUB_OFFLINE', '0')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), 'w'))


@pytest.mark.parametrize('name', ['w.pth', 'w.safetensors'])
def test_an_address_is_read_as_a_file(site, name):
    folder, address = site
    write_weights(folder / name, WEIGHTS, dict(iter=4))
    content = read_remote(f'{address}/{name}')
    assert torch.equal(content['state_dict']['w'], WEIGHTS['w'])
    assert content['meta']['iter'] == 4


def test_code_from_an_address_never_runs(site, tmp_path):
    folder, address = site
    target = tmp_path / 'was_here'
    torch.save({'state_dict': WEIGHTS, 'x': Evil(target)}, folder / 'e.pth')
    with pytest.raises(UserError, match='needs code'):
        read_remote(f'{address}/e.pth')
    assert not target.exists()


def test_other_schemes_of_mmengine_run_nothing_either(tmp_path, monkeypatch):
    """Its loaders ask torch for all that a pickle wants."""
    monkeypatch.setattr(
        CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
    )

    @CheckpointLoader.register_scheme(prefixes='folder://')
    def load(filename, map_location):
        path = tmp_path / filename.removeprefix('folder://')
        return torch.load(path, map_location, weights_only=False)

    torch.save({'state_dict': WEIGHTS}, tmp_path / 'a.pth')
    assert read_remote('folder://a.pth')['state_dict'].keys() == {'w'}
    target = tmp_path / 'was_here'
    torch.save({'state_dict': WEIGHTS, 'x': Evil(target)}, tmp_path / 'e.pth')
    with pytest.raises(UserError, match=r'folder://e\.pth could not be read'):
        read_remote('folder://e.pth')
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    with pytest.raises(UserError, match=r'none\.pth could not be read'):
        read_remote('folder://none.pth')
    assert not target.exists()
