"""Models of diffusers and transformers in the pretrained folder."""

import shutil

import pytest

from clouds_mmseg.generate.diffusion import DiffusionBackend
from clouds_mmseg.generate.llm import PromptWriter
from clouds_mmseg.generate.model_files import local_folder
from clouds_mmseg.utils.errors import GenerationError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path))
    return tmp_path


def test_a_pipeline_is_found_by_its_id(folder, tiny_sd):
    shutil.copytree(tiny_sd, folder / 'owner' / 'tiny-sd')
    found = DiffusionBackend('owner/tiny-sd', size=32, steps=1, device='cpu')
    # A bank's recipe names the model as it was asked for.
    assert found.name == 'owner/tiny-sd'
    by_path = DiffusionBackend(str(tiny_sd), size=32, steps=1, device='cpu')
    assert by_path.name == 'tiny-sd'
    assert found.fingerprint == by_path.fingerprint


def test_a_language_model_is_found_in_a_copied_cache(folder, tiny_lm):
    snapshot = folder / 'models--owner--tiny-lm/snapshots/c0ffee'
    shutil.copytree(tiny_lm(), snapshot)
    assert local_folder('owner/tiny-lm', 'config.json') == snapshot
    writer = PromptWriter('owner/tiny-lm', device='cpu')
    assert writer.fingerprint


def test_an_absent_model_says_how_to_have_it(folder):
    with pytest.raises(GenerationError) as error:
        DiffusionBackend('owner/absent', size=32, steps=1, device='cpu')
    message = str(error.value)
    assert message.startswith('--model owner/absent: model_index.json is not')
    assert f'looked for: {folder}/owner/absent/model_index.json' in message
    assert 'hf download owner/absent --local-dir DIR/owner/absent' in message
    assert 'HF_HUB_OFFLINE is set' in message
