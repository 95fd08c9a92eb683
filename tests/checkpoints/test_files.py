import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clouds_mmseg.checkpoints import WeightFileError, read_state_dict

# torch.jit still reads and writes the archives, and says it is old.
pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning')

WEIGHTS = {'a.weight': torch.arange(6.0).view(2, 3), 'b': torch.ones(4).half()}


def assert_weights(found):
    assert set(found) == set(WEIGHTS)
    for key, value in WEIGHTS.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


@pytest.mark.parametrize(
    'content',
    [
        WEIGHTS,
        OrderedDict(WEIGHTS),
        {'state_dict': WEIGHTS, 'epoch': 3},
        {'model': OrderedDict(WEIGHTS), 'optimizer': {}},
        {'model_state_dict': WEIGHTS},
        {'state_dict': {f'module.{k}': v for k, v in WEIGHTS.items()}},
    ],
)
@pytest.mark.parametrize('new_format', [True, False])
def test_reads_what_training_scripts_save(tmp_path, content, new_format):
    path = tmp_path / 'w.pth'
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert_weights(read_state_dict(path))
    assert_weights(read_state_dict(str(path)))


def test_reads_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / 'w.safetensors')
    assert_weights(read_state_dict(tmp_path / 'w.safetensors'))


def test_module_prefix_stays_where_not_all_keys_have_it(tmp_path):
    weights = {'module.a': torch.ones(1), 'b': torch.ones(1)}
    torch.save(weights, tmp_path / 'w.pth')
    assert set(read_state_dict(tmp_path / 'w.pth')) == {'module.a', 'b'}


@pytest.fixture
def archive(tmp_path):
    model = nn.Linear(3, 2)
    model.register_buffer('input_resolution', torch.tensor(224))
    path = tmp_path / 'archive.pt'
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3)), path)
    return path, model


def test_reads_torchscript_as_openai_published_it(archive):
    path, model = archive
    found = read_state_dict(path)
    assert set(found) == {'weight', 'bias'}
    assert torch.equal(found['weight'], model.weight)


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def test_truncated_files(tmp_path, archive):
    big = {'w': torch.randn(50_000)}
    torch.save(big, tmp_path / 'zip.pth')
    torch.save(big, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    save_file(big, tmp_path / 'w.safetensors')
    paths = [tmp_path / n for n in ('zip.pth', 'old.pth', 'w.safetensors')]
    for path in [*paths, archive[0]]:
        cut(path)
        with pytest.raises(WeightFileError, match='truncated') as caught:
            read_state_dict(path)
        assert str(path) in str(caught.value)


def test_damaged_torchscript(archive):
    path, _ = archive
    data = bytearray(path.read_bytes())
    # The directory at the end stays, so that it still looks like a zip.
    data[: len(data) // 2] = bytes(len(data) // 2)
    path.write_bytes(bytes(data))
    with pytest.raises(WeightFileError, match=str(path)):
        read_state_dict(path)


@pytest.mark.parametrize(
    ('name', 'data', 'reason'),
    [
        ('w.pth', b'', 'is empty'),
        ('w.pth', b'\n<!DOCTYPE html><html>login</html>', 'web page'),
        ('w.safetensors', b'<html>404</html>', 'web page'),
        ('w.pth', b'version https://git-lfs.github.com/spec/v1\n', 'LFS'),
        ('w.pth', b'just some text that is no pickle', 'cannot be read'),
        ('w.pth', b'# A document', 'neither an archive nor a pickle'),
        ('w.pkl', b'\xff\xd8\xff\xe0\0\x10JFIF', 'neither an archive nor'),
        ('w.safetensors', b'1234567890' * 9, 'safetensors'),
    ],
)
def test_what_downloads_leave_behind(tmp_path, name, data, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(WeightFileError, match=reason) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)


class Evil:
    def __reduce__(self):
        return (eval, ('1 / 0',))


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('raw', [True, False])
def test_refuses_to_run_code(tmp_path, raw):
    path = tmp_path / 'w.pth'
    content = {'state_dict': WEIGHTS, 'x': Evil()}
    if raw:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(WeightFileError, match='needs code to be run'):
        read_state_dict(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(WeightFileError, match='gone.pth: no such file'):
        read_state_dict(tmp_path / 'gone.pth')
    with pytest.raises(WeightFileError, match='a folder'):
        read_state_dict(tmp_path)


def test_files_without_weights(tmp_path):
    path = tmp_path / 'w.pth'
    torch.save([1, 2], path)
    with pytest.raises(WeightFileError, match='holds a list'):
        read_state_dict(path)
    torch.save({'epoch': 3, 'lr': 0.1}, path)
    with pytest.raises(WeightFileError, match=r'epoch \(int\)'):
        read_state_dict(path)
    torch.save({}, path)
    with pytest.raises(WeightFileError, match='nothing'):
        read_state_dict(path)
    np.save(tmp_path / 'w.npy', np.zeros(3))
    with pytest.raises(WeightFileError):
        read_state_dict(tmp_path / 'w.npy')
