import hashlib
import http.server
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights import locate as pretrained
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.locate import (
    fetch_checkpoint,
    find_or_fetch,
    find_pretrained,
    in_repository,
    is_offline,
    missing_error,
    pretrained_dir,
    resolve_address,
    use_pretrained_dir,
)


@pytest.fixture(autouse=True)
def _places(monkeypatch, tmp_path):
    """No folder of the machine that runs the tests may help."""
    monkeypatch.delenv('CLOUDS_PRETRAINED_DIR', raising=False)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / 'weights'
    path.mkdir()
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(path))
    return path


def write(path, content=b'weights'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_folder_is_an_option_or_a_variable(tmp_path, monkeypatch):
    assert pretrained_dir() is None
    assert find_pretrained(['a.pth']) is None
    use_pretrained_dir(None)
    assert pretrained_dir() is None
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', '')
    assert pretrained_dir() is None
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', '/no/where')
    with pytest.raises(UserError, match='CLOUDS_PRETRAINED_DIR=/no/where'):
        find_pretrained(['a.pth'])
    use_pretrained_dir(tmp_path)
    assert pretrained_dir() == tmp_path
    with pytest.raises(UserError, match='--pretrained-dir /no/where'):
        use_pretrained_dir('/no/where')


def test_each_layout_of_a_repository_is_found(folder):
    paths = in_repository('owner/name', ['a.safetensors', 'a.bin'])
    assert find_pretrained(paths) is None
    # From the least to the most preferred.
    cached = 'models--owner--name/snapshots/c0ffee'
    for place in (
        f'{cached}/a.bin',
        f'{cached}/a.safetensors',
        'name/a.bin',
        'name/a.safetensors',
        'owner/name/a.bin',
        'owner/name/a.safetensors',
    ):
        written = write(folder / place)
        assert find_pretrained(paths) == written


def test_the_newest_commit_is_taken(folder):
    snapshots = folder / 'models--o--n/snapshots'
    for commit, time in (('b', 200), ('c', 300), ('a', 100)):
        path = write(snapshots / commit / 'f.bin')
        pretrained.os.utime(path, (time, time))
    (snapshots / 'd' / 'f.bin').mkdir(parents=True)
    found = find_pretrained(in_repository('o/n', ['f.bin']))
    assert found.parent.name == 'c'


names = st.text('abcXYZ019-_.', min_size=1, max_size=12)


@given(owner=names, name=names, file=names)
def test_paths_are_relative_and_end_with_the_file(owner, name, file):
    paths = in_repository(f'{owner}/{name}', [file])
    assert len(paths) == 3
    for path in paths:
        assert path.endswith('/' + file)
        assert not path.startswith('/')
        assert name in path


@pytest.mark.parametrize(
    ('value', 'offline'),
    [('1', True), ('true', True), ('ON', True), ('yes', True), ('0', False),
     ('', False), ('false', False)],
)  # fmt: skip
def test_offline_is_read_as_the_hub_reads_it(monkeypatch, value, offline):
    monkeypatch.setenv('HF_HUB_OFFLINE', value)
    assert is_offline() is offline


def test_the_message_says_what_where_and_how(folder):
    message = str(
        missing_error(
            "pretrained='openai' of RN50",
            ['timm/x/a.safetensors', 'timm/x/a.bin'],
            repository='timm/x',
            instead='a path as pretrained=',
        )
    )
    assert message.splitlines()[0] == (
        "pretrained='openai' of RN50: a.safetensors or a.bin is not here"
    )
    assert f'looked for: {folder}/timm/x/a.bin' in message
    assert "the hub's cache" in message
    assert 'HF_HUB_OFFLINE is set: nothing is downloaded' in message
    assert 'published at: https://huggingface.co/timm/x' in message
    assert 'hf download timm/x --local-dir DIR/timm/x' in message
    assert 'or a path as pretrained=' in message


@pytest.fixture
def server(tmp_path):
    """A local web server and the paths that were asked of it."""
    files, asked = tmp_path / 'served', []
    files.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=files)

        def log_message(self, text, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}', files, asked
        running.shutdown()


def test_nothing_is_asked_of_the_network_when_it_is_off(server, folder):
    address, files, asked = server
    write(files / 'a.pth')
    with pytest.raises(MissingWeightsError, match='HF_HUB_OFFLINE') as error:
        find_or_fetch(f'{address}/a.pth', 'the model')
    assert str(folder / 'a.pth') in str(error.value)
    assert 'hub/checkpoints/a.pth' in str(error.value)
    assert not asked


def test_the_folder_comes_before_the_cache_and_the_network(
    server, folder, monkeypatch, tmp_path
):
    address, files, asked = server
    monkeypatch.delenv('HF_HUB_OFFLINE')
    write(files / 'a.pth', b'from afar')
    fetched = find_or_fetch(f'{address}/a.pth?x=1', 'the model')
    assert fetched == tmp_path / 'hub/checkpoints/a.pth'
    assert fetched.read_bytes() == b'from afar'
    assert [p.name for p in fetched.parent.iterdir()] == ['a.pth']
    assert len(asked) == 1
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert find_or_fetch(f'{address}/a.pth', 'the model') == fetched
    near = write(folder / 'a.pth', b'from here')
    assert find_or_fetch(f'{address}/a.pth', 'the model') == near
    assert len(asked) == 1


def test_several_processes_fetch_once(server, monkeypatch, tmp_path):
    address, files, asked = server
    monkeypatch.delenv('HF_HUB_OFFLINE')
    write(files / 'a.pth', bytes(1 << 20))
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(find_or_fetch(f'{address}/a.pth', 'm'))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / 'hub/checkpoints/a.pth'] * 4
    assert len(asked) == 1


def test_a_download_is_compared_with_the_hash_in_its_name(
    server, monkeypatch, tmp_path
):
    address, files, _ = server
    monkeypatch.delenv('HF_HUB_OFFLINE')
    digest = hashlib.sha256(b'good').hexdigest()[:8]
    write(files / f'a-{digest}.pth', b'good')
    write(files / f'b-{digest}.pth', b'changed on the way')
    assert find_or_fetch(f'{address}/a-{digest}.pth', 'm').is_file()
    with pytest.raises(MissingWeightsError, match='invalid hash value'):
        find_or_fetch(f'{address}/b-{digest}.pth', 'm')
    with pytest.raises(MissingWeightsError, match='404'):
        find_or_fetch(f'{address}/absent.pth', 'm')
    left = [path.name for path in (tmp_path / 'hub/checkpoints').iterdir()]
    assert left == [f'a-{digest}.pth']


def test_names_of_model_zoos_have_addresses(folder):
    known = {
        'torchvision://resnet50': 'resnet50-0676ba61.pth',
        'open-mmlab://resnet50_v1c': 'resnet50_v1c-2cccc1ad.pth',
        'openmmlab://resnet101_v1c': 'resnet101_v1c-e67eebb6.pth',
        'https://a.b/c.pth': 'c.pth',
    }
    for name, file in known.items():
        address = resolve_address(name)
        assert address.startswith('http')
        assert address.endswith('/' + file)
        path = write(folder / file)
        assert fetch_checkpoint(name, 'model.backbone') == path
    assert resolve_address('petrel://bucket/x.pth') is None
    assert fetch_checkpoint('petrel://bucket/x.pth', 'model.backbone') is None
    with pytest.raises(UserError, match='no model .resnet5.; near: .*resnet5'):
        resolve_address('torchvision://resnet5')


def test_an_old_name_of_a_zoo_has_the_address_of_the_new_one():
    old = resolve_address('open-mmlab://resnet50_caffe')
    assert old == resolve_address('open-mmlab://detectron/resnet50_caffe')
