"""open_clip, timm, SAM and packaged weights in the pretrained folder."""

import shutil
import socket

import pytest
import timm
import torch
from safetensors.torch import save_file

from clouds_mmseg.models import FrozenTIMMBackbone
from clouds_mmseg.models.backbones.clip_source import find_clip
from clouds_mmseg.models.backbones.timm import (
    read_packaged_weights,
    read_timm_weights,
)
from clouds_mmseg.refine.sam_model import PUBLISHED, find_weights
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError


def locate_weights(model_name, pretrained):
    return find_clip(model_name, pretrained).weights


LAION = 'laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup'
TAG = ('convnext_large_d_320', 'laion2b_s29b_b131k_ft_soup')


@pytest.fixture
def contacts(monkeypatch):
    """The addresses that something tried to reach; none is reached."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError('no network in this test')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    return tried


@pytest.fixture
def folder(tmp_path, monkeypatch, contacts):
    path = tmp_path / 'weights'
    path.mkdir()
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(path))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    return path


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'weights')
    return path


def test_clip_weights_come_from_the_folder(folder, contacts):
    # OpenAI's archive under its own name, and a repository of the hub.
    archive = write(folder / 'RN50.pt')
    assert locate_weights('RN50', 'openai') == archive
    name = 'open_clip_model.safetensors'
    hub = write(folder / 'timm/resnet50_clip.openai' / name)
    assert locate_weights('RN50', 'openai') == hub
    snapshots = folder / f'models--{LAION.replace("/", "--")}' / 'snapshots'
    cached = write(snapshots / 'abc' / 'open_clip_pytorch_model.bin')
    assert locate_weights(*TAG) == cached
    assert not contacts


def test_a_tag_whose_repository_names_its_file(folder):
    path = write(folder / 'ViTamin-S/pytorch_model.bin')
    assert locate_weights('ViTamin-S', 'datacomp1b') == path


def test_what_is_not_here_is_not_asked_for(folder, contacts, tmp_path):
    for find, named in (
        (lambda: locate_weights(*TAG), f'hf download {LAION} --local-dir'),
        # An address alone: open_clip would fetch it whatever is set.
        (
            lambda: locate_weights('RN50', 'yfcc15m'),
            'rn50-quickgelu-yfcc15m-455df137.pt',
        ),
        (
            lambda: FrozenTIMMBackbone('test_resnet', pretrained=True),
            'huggingface.co/timm/test_resnet',
        ),
        (lambda: find_weights(PUBLISHED['vit_h'], 'vit_h'), '4b8939.pth'),
        (lambda: find_weights('weights/x.pt', 'vit_t'), PUBLISHED['vit_t']),
    ):
        with pytest.raises(MissingWeightsError) as error:
            find()
        message = str(error.value)
        assert named in message
        assert f'looked for: {folder}/' in message
    assert not contacts
    assert 'a path is not fetched' in message
    assert f'looked for: {torch.hub.os.getcwd()}/weights/x.pt' in message


def test_timm_weights_come_from_the_folder(folder, contacts):
    name = timm.models.get_pretrained_cfg('test_resnet').hf_hub_id
    torch.manual_seed(1)
    model = timm.create_model('test_resnet')
    path = write(folder / name / 'model.safetensors')
    save_file(model.state_dict(), path)
    backbone = FrozenTIMMBackbone('test_resnet', pretrained=True).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = model.eval().forward_intermediates(
        image, intermediates_only=True
    )[-4:]
    with torch.no_grad():
        for found, want in zip(backbone(image), expected, strict=True):
            assert torch.equal(found, want)
    save_file({'a': torch.zeros(2)}, path)
    with pytest.raises(UserError, match=f'(?s){path} cannot be loaded as'):
        FrozenTIMMBackbone('test_resnet', pretrained=True)
    assert not contacts


def test_timm_models_without_weights_are_refused():
    def has_weights(name):
        config = timm.models.get_pretrained_cfg(name)
        return config and (config.hf_hub_id or config.url)

    name = next(n for n in timm.list_models('resnet*') if not has_weights(n))
    with pytest.raises(UserError, match=f'timm has no weights for {name}'):
        read_timm_weights(name)


def test_sam_weights_come_from_the_folder(folder, contacts, tmp_path):
    mobile = write(folder / 'mobile_sam.pt')
    assert find_weights(PUBLISHED['vit_t'], 'vit_t') == mobile
    assert find_weights('weights/mobile_sam.pt', 'vit_t') == mobile
    own = write(tmp_path / 'mobile_sam.pt')
    assert find_weights(own, 'vit_t') == own
    assert not contacts


def test_packaged_weights_come_from_the_folder(folder):
    model = timm.create_model('tf_efficientnet_lite0')
    model.conv_stem.weight.data.fill_(3)
    path = folder / 'efficientnet-lite0-57934424.pth'
    torch.save(model.state_dict(), path)
    found = read_packaged_weights('efficientnet_lite0', model.state_dict())
    assert (found['conv_stem.weight'] == 3).all()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match='CLOUDS_PRETRAINED_DIR'):
        read_packaged_weights('efficientnet_lite0', model.state_dict())


def test_timm_models_of_a_folder_or_a_repository(folder, contacts, tmp_path):
    torch.manual_seed(1)
    model = timm.create_model('test_resnet', num_classes=7)
    saved = tmp_path / 'saved'
    timm.models.save_for_hf(
        model, saved, model_config=dict(num_classes=7), safe_serialization=True
    )
    shutil.copytree(saved, folder / 'o' / 'tiny')
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().forward_intermediates(
            image, intermediates_only=True
        )[-4:]
    for name in (f'local-dir:{saved}', 'hf-hub:o/tiny', 'hf_hub:o/tiny'):
        backbone = FrozenTIMMBackbone(name, pretrained=True).eval()
        with torch.no_grad():
            for found, want in zip(backbone(image), expected, strict=True):
                assert torch.equal(found, want)
    with pytest.raises(MissingWeightsError, match='config.json is not here'):
        FrozenTIMMBackbone('hf-hub:o/other', pretrained=True)
    (saved / 'model.safetensors').unlink()
    with pytest.raises(UserError, match='holds neither model.safetensors'):
        FrozenTIMMBackbone(f'local-dir:{saved}', pretrained=True)
    with pytest.raises(UserError, match='holds no config.json'):
        FrozenTIMMBackbone(f'local-dir:{tmp_path}')
    assert not contacts
