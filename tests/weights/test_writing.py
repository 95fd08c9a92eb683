import json
import os
import pickle
import resource
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.version import __version__
from clouds_mmseg.weights import io
from clouds_mmseg.weights.io import (
    read_content,
    read_state_dict,
    split_content,
    write_weights,
)

TABLE = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
WEIGHTS = {
    'whole': TABLE,
    'slice': TABLE[:2],
    'turned': TABLE.T,
    'tied': TABLE,
    'half': TABLE.to(torch.bfloat16),
    'count': torch.tensor(3),
    'none': torch.zeros(0, 3),
}
META = dict(
    cfg='model = dict()\n# größer',
    dataset_meta=dict(classes=('road', 'sky'), palette=[[1, 2, 3], [4, 5, 6]]),
    source=dict(file='a.pth', sha256='00'),
    iter=np.int64(4),
    seed=None,
)


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f'w{suffix}'
    assert write_weights(path, WEIGHTS, META) == sha256_of(path)
    content = read_content(path)
    weights, rest = split_content(content, path)
    assert weights.keys() == WEIGHTS.keys()
    for key, value in WEIGHTS.items():
        assert weights[key].dtype == value.dtype
        assert torch.equal(weights[key], value)
    assert len(rest['meta'].pop('content_sha256')) == 64
    assert rest['meta'] == dict(
        cfg=META['cfg'],
        dataset_meta=dict(
            classes=['road', 'sky'], palette=META['dataset_meta']['palette']
        ),
        source=META['source'],
        iter=4,
        seed=None,
        clouds_mmseg_version=__version__,
    )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.pkl'])
def test_the_same_weights_give_the_same_bytes(tmp_path, suffix):
    # Control characters have the same spelling in each header.
    meta = dict(META, cfg=META['cfg'] + '\x00\x1f\x7f\u2028"\\')
    weights = {k: v for k, v in WEIGHTS.items() if k != 'half'}
    paths = [tmp_path / f'{i}{suffix}' for i in range(4)]
    assert len({write_weights(path, weights, meta) for path in paths}) == 1
    assert len({path.read_bytes() for path in paths}) == 1
    assert len(split_content(read_content(paths[0]), paths[0])[0]) == 6


def test_a_slice_does_not_take_the_whole_along(tmp_path):
    big = torch.zeros(1000, 1000)
    write_weights(tmp_path / 'w.pth', {'a': big[:1]})
    assert (tmp_path / 'w.pth').stat().st_size < 20_000


def test_safetensors_carry_text(tmp_path):
    path = tmp_path / 'w.safetensors'
    write_weights(path, WEIGHTS, META)
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    assert metadata['format'] == 'pt'
    assert metadata['cfg'] == META['cfg']
    assert json.loads(metadata['dataset_meta'])['classes'] == ['road', 'sky']
    assert json.loads(metadata['source'])['sha256'] == '00'
    assert metadata['clouds_mmseg_version'] == __version__


def test_detectron2s_pickle(tmp_path):
    path = tmp_path / 'w.pkl'
    weights = {k: v for k, v in WEIGHTS.items() if k != 'half'}
    write_weights(path, weights, wrapper='model')
    with open(path, 'rb') as stream:
        content = pickle.load(stream)
    assert isinstance(content['model']['whole'], np.ndarray)
    found = read_state_dict(path)
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'w.pth'
    write_weights(path, WEIGHTS)
    before = path.read_bytes()

    def half(content, file):
        file.write(b'half')
        raise OSError('no space left')

    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(UserError, match=r'w\.pth cannot be written: no space'):
        write_weights(path, WEIGHTS)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r'\.pth, .*not as \.txt'):
        write_weights(tmp_path / 'w.txt', WEIGHTS)
    (tmp_path / 'd.pth').mkdir()
    with pytest.raises(UserError, match='is a folder'):
        write_weights(tmp_path / 'd.pth', WEIGHTS)


def test_metadata_of_other_programs(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / 'w.safetensors'
    save_file({'a': TABLE}, path, metadata=dict(source='{no json', meta='[1]'))
    meta = read_content(path)['meta']
    assert meta == dict(source='{no json', meta=[1])


def test_a_kill_leaves_nothing_that_the_next_does_not_use(tmp_path):
    # safetensors has a temporary file of its own.
    path = tmp_path / 'w.safetensors'
    child = os.fork()
    if not child:
        io.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write_weights(path, WEIGHTS, META)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not path.exists()
    write_weights(path, WEIGHTS, META)
    assert os.listdir(tmp_path) == ['w.safetensors']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.pkl'])
def test_a_full_disk_is_one_error(tmp_path, suffix):
    path = tmp_path / f'w{suffix}'
    large = {'large': torch.zeros(10_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match='cannot be written.*too large'):
            write_weights(path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert os.listdir(tmp_path) == []
