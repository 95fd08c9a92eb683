"""The file of a checkpoint that a user names."""

import pytest
import torch

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError, write_weights
from clouds_mmseg.weights.load import find_checkpoint
from clouds_mmseg.weights.locate import use_pretrained_dir


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / 'published'
    folder.mkdir()
    weights = dict(weight=torch.ones(2))
    write_weights(folder / 'model.safetensors', weights, {})
    (folder / 'README.md').write_text('a model')
    return folder


def test_files_and_folders(published, tmp_path):
    file = published / 'model.safetensors'
    assert find_checkpoint(file) == file
    assert find_checkpoint(str(published)) == file
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'iter_2.pth').write_bytes(b'x')
    with pytest.raises(UserError, match='one of its files: iter_2.pth'):
        find_checkpoint(work)
    # It has been moved since.
    (work / 'last_checkpoint').write_text('/elsewhere/iter_2.pth')
    assert find_checkpoint(work) == work / 'iter_2.pth'
    (work / 'model.safetensors').write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r'give .*safetensors or .*iter_2.pth'):
        find_checkpoint(work)


def test_what_is_not_there(tmp_path, monkeypatch):
    names = 'a.pth a/b.pth ./a ../a a/b/c a a--b/c a/b- -a/b'.split()
    for name in (tmp_path / 'nothing.pth', *names):
        with pytest.raises(MissingWeightsError, match='no such file or folde'):
            find_checkpoint(name)
    with pytest.raises(UserError, match='begins with https://'):
        find_checkpoint('petrel://bucket/model.pth')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    for name in ('owner/name', 'hf-hub:owner/name'):
        with pytest.raises(MissingWeightsError) as raised:
            find_checkpoint(name)
        text = str(raised.value)
        assert 'model.safetensors is not here' in text
        assert 'HF_HUB_OFFLINE is set' in text
        assert 'hf download owner/name' in text


def test_a_repository_of_the_hub(published, tmp_path, monkeypatch):
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', '')
    kept = tmp_path / 'pretrained' / 'owner' / 'name'
    kept.parent.mkdir(parents=True)
    published.rename(kept)
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path / 'pretrained'))
    use_pretrained_dir(None)
    for name in ('owner/name', 'hf-hub:owner/name', 'owner/name@v1'):
        assert find_checkpoint(name) == kept / 'model.safetensors'
