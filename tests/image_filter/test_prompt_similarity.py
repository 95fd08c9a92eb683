"""CLIP's similarity of image and prompt, with a tiny model of open_clip."""

import json

import numpy as np
import open_clip
import pytest
import torch
from filter_helpers import ByColour, scene, write_bank
from torchvision.transforms import functional as TF

from clouds_mmseg.image_filter import FilterRule, filter_bank, measures
from clouds_mmseg.image_filter.measures import (
    PromptSimilarity,
    find_similarity,
)
from clouds_mmseg.utils.image_set import read_entries
from clouds_mmseg.weights.io import MissingWeightsError

NAME = 'tiny-filter'
PROMPTS = ['a street at night', 'a road in fog']


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """A model of open_clip and the file of its weights."""
    folder = tmp_path_factory.mktemp('clip')
    vision = dict(layers=2, width=64, patch_size=16, image_size=32)
    text = dict(
        context_length=8, vocab_size=49408, width=16, heads=1, layers=1
    )
    config = dict(embed_dim=12, vision_cfg=vision, text_cfg=text)
    (folder / f'{NAME}.json').write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME).eval()
    torch.save(model.state_dict(), folder / 'weights.pt')
    return model, folder / 'weights.pt'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def test_equals_open_clip(clip):
    model, path = clip
    similarity = PromptSimilarity(NAME, str(path), PROMPTS)
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    tensor = TF.resize(tensor, [32, 32], antialias=True)
    tensor = TF.normalize(
        tensor, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    )
    tokens = open_clip.get_tokenizer(NAME)(PROMPTS)
    with torch.no_grad():
        one = model.encode_image(tensor[None], normalize=True)
        several = model.encode_text(tokens, normalize=True)
    expected = (several @ one.T)[:, 0].tolist()
    found = [similarity(image, prompt) for prompt in PROMPTS]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[0] != found[1]


def test_images_off_their_prompts(clip, tmp_path):
    images = [scene(seed)[0] for seed in range(4)]
    prompts = [PROMPTS[n % 2] for n in range(4)]
    root = write_bank(
        tmp_path / 'bank', images, backend='diffusers', prompt=prompts
    )
    checkpoint = tmp_path / 'model.pth'
    checkpoint.write_bytes(b'weights')
    options = dict(checkpoint=checkpoint, clip=(NAME, str(clip[1])), sheet=0)
    filter_bank(root, ByColour(), **options)
    values = [e['filter']['similarity'] for e in read_entries(root).values()]
    least = sorted(values)[2]
    rule = FilterRule(min_similarity=max(least, 0))
    summary = filter_bank(root, ByColour(), rule=rule, **options)
    assert summary.compared
    expected = sum(value < rule.min_similarity for value in values)
    assert summary.reasons.get('off topic', 0) == expected


def test_missing_weights_are_told(tmp_path, monkeypatch, pretrained_folder):
    logged = []
    monkeypatch.setattr(
        measures, 'print_log', lambda text, **_: logged.append(text)
    )
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    clip = ('ViT-B-32', 'laion2b_s34b_b79k')
    assert find_similarity(PROMPTS, clip, named=False, device='cpu') is None
    assert 'not looked for' in logged[0] and '--clip' in logged[0]
    with pytest.raises(MissingWeightsError):
        find_similarity(PROMPTS, clip, named=True, device='cpu')
