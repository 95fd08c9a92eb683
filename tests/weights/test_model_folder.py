"""Location of folders of models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.model_folder import (
    check_memory,
    find_model_folder,
    free_memory,
    hash_folder,
)

INDEX = 'model.safetensors.index.json'
SHARDS = [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]


def write(folder, weights=('model.safetensors',)):
    folder.mkdir(parents=True)
    for name in ('config.json', 'preprocessor_config.json'):
        (folder / name).write_text('{}')
    for name in weights:
        save_file({'a': torch.ones(2)}, folder / name)
    return folder


def find(name, **options):
    return find_model_folder(name, 'weights of Refiner', **options)


def test_a_path_or_an_id_in_the_pretrained_folder(pretrained_folder):
    folder = write(pretrained_folder / 'owner' / 'model')
    assert find(folder) == folder
    assert find('owner/model') == folder
    assert find('owner/model@main') == folder
    with pytest.raises(UserError, match='is a file. Give the folder'):
        find(folder / 'config.json')
    with pytest.raises(UserError, match='must be the folder.* got None'):
        find(None)
    with pytest.raises(UserError, match='a/b/c: there is no such folder'):
        find('a/b/c')


def test_a_folder_with_shards(pretrained_folder):
    folder = write(pretrained_folder / 'model', SHARDS[:1])
    with pytest.raises(UserError, match=f'lacks model.safetensors or {INDEX}'):
        find(folder)
    names = dict(zip('ab', SHARDS, strict=True))
    (folder / INDEX).write_text(json.dumps(dict(weight_map=names)))
    with pytest.raises(UserError, match=f'lacks {SHARDS[1]}'):
        find(folder)
    save_file({'b': torch.ones(2)}, folder / SHARDS[1])
    assert find(folder) == folder
    (folder / 'preprocessor_config.json').unlink()
    with pytest.raises(UserError, match='lacks preprocessor_config.json or'):
        find(folder)


def test_missing_ones_say_where_they_are(pretrained_folder, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(pretrained_folder / 'cache'))
    with pytest.raises(MissingWeightsError) as caught:
        find('facebook/none')
    said = str(caught.value)
    assert 'weights of Refiner=facebook/none: config.json is not here' in said
    assert 'hf download facebook/none' in said
    with pytest.raises(MissingWeightsError) as caught:
        find('facebook/none', fetch=False)
    assert caught.value.fetchable


def test_a_gated_model_says_how_to_get_access(pretrained_folder, monkeypatch):
    from httpx import Request, Response
    from huggingface_hub.errors import GatedRepoError

    from clouds_mmseg.weights import locate

    def refuse(*args):
        response = Response(403, request=Request('GET', 'https://hub'))
        raise GatedRepoError('Access is restricted', response=response)

    monkeypatch.setenv('HF_HUB_OFFLINE', '0')
    monkeypatch.setattr(locate, '_fetch_from_hub', refuse)
    with pytest.raises(MissingWeightsError) as caught:
        find('facebook/none')
    said = str(caught.value)
    assert 'ask for access at https://huggingface.co/facebook/none' in said
    assert '`hf auth login`' in said


def test_the_hash_is_that_of_the_content(tmp_path):
    first, second = write(tmp_path / 'a'), write(tmp_path / 'b')
    assert hash_folder(first) == hash_folder(second)
    (second / 'README.md').write_text('another text')
    assert hash_folder(first) == hash_folder(second)
    (second / 'config.json').write_text('{"a": 1}')
    assert hash_folder(first) != hash_folder(second)


def test_the_memory_is_that_of_the_container(tmp_path, monkeypatch):
    from clouds_mmseg.weights import model_folder

    machine = free_memory()
    monkeypatch.setattr(model_folder, '_GROUP', tmp_path)
    for name, text in (
        ('memory.max', '5000'),
        ('memory.current', '3000'),
        ('memory.stat', 'anon 2000\nfile 700\n'),
    ):
        (tmp_path / name).write_text(text)
    assert free_memory() == free_memory(torch.device('cpu')) == 2700
    (tmp_path / 'memory.max').write_text('max')
    assert free_memory() == pytest.approx(machine, rel=0.5)
    assert free_memory(torch.device('mps')) is None


def test_memory_is_compared():
    cpu = torch.device('cpu')
    assert free_memory(cpu) > 1 << 20
    check_memory(1, 'weights of Refiner', cpu)
    with pytest.raises(UserError, match=r'take 1024\.0 GiB, and cpu has'):
        check_memory(1 << 40, 'weights of Refiner', cpu)
