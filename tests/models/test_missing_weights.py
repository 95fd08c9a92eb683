"""What a config needs and the machine lacks, said without network."""

import socket

import pytest
from mmengine.config import Config

import clouds_mmseg  # noqa: F401
from clouds_mmseg.weights.locate import missing_weights

LAION = 'laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty pretrained folder; a network that must not be asked."""

    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked')

    path = tmp_path / 'weights'
    path.mkdir()
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setattr('torch.hub._hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setattr(
        'huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hf')
    )
    return path


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'weights')


def config(repo_root, name):
    return Config.fromfile(repo_root / 'configs' / name)


@pytest.mark.parametrize(
    ('name', 'file'),
    [
        ('clouds/gta2cs.py', f'{LAION}/open_clip_model.safetensors'),
        ('clouds/gta2cs_r50.py', 'RN50.pt'),
        ('custom/my_dataset_text.py', 'RN50.pt'),
        ('baselines/deeplabv3plus_r50_gta2cs.py',
         'resnet50_v1c-2cccc1ad.pth'),
        ('baselines/upernet_convnextb_gta2cs.py',
         'timm/convnext_base.fb_in1k/model.safetensors'),
        ('baselines/segformer_mitb5_gta2cs.py',
         'mit_b5_20220624-658746d9.pth'),
    ],
)  # fmt: skip
def test_each_kind_of_config_names_its_file(repo_root, folder, name, file):
    model = config(repo_root, name).model
    found = missing_weights(model)
    # my_dataset_text's backbone is another one, which is packaged.
    (message,) = found
    assert message.startswith('model')
    assert file.rpartition('/')[2] in message
    assert 'no server was asked for it' in message
    assert f'looked for: {folder}/' in message
    write(folder / file)
    assert missing_weights(model) == []


def test_hooks_and_banks_are_looked_into(repo_root, folder):
    cfg = config(repo_root, 'clouds/gta2cs.py')
    (message,) = missing_weights(cfg.custom_hooks, 'custom_hooks')
    assert message.startswith('custom_hooks[5].refiner: SAMRefiner')
    assert 'mobile_sam.pt' in message
    write(folder / 'mobile_sam.pt')
    assert missing_weights(cfg.custom_hooks, 'custom_hooks') == []
    (message,) = missing_weights(cfg.banks, 'banks')
    assert message.startswith('banks[0]: model=stabilityai/stable-diffusion')
    write(folder / 'stable-diffusion-2/model_index.json')
    assert missing_weights(cfg.banks, 'banks') == []


def test_what_needs_no_file_is_not_missing(folder):
    for cfg in (
        dict(type='CLIPBackbone', model_name='RN50', pretrained=None),
        dict(type='FrozenTIMMBackbone', model_name='test_resnet'),
        dict(type='SuperpixelRefiner'),
        dict(type='mmseg.ResNetV1c', depth=18),
    ):
        assert missing_weights(cfg) == []


def test_the_caches_count(folder, tmp_path):
    cfg = dict(type='CLIPBackbone', model_name='RN50', pretrained='openai')
    assert len(missing_weights(cfg)) == 1
    snapshot = tmp_path / 'hf/models--timm--resnet50_clip.openai'
    write(snapshot / 'snapshots/c0ffee/open_clip_model.safetensors')
    (snapshot / 'refs').mkdir()
    (snapshot / 'refs/main').write_text('c0ffee')
    assert missing_weights(cfg) == []


def test_other_mistakes_are_told_with_it(folder):
    cfg = dict(
        a=dict(type='CLIPBackbone', model_name='RN50', pretrained='opneai'),
        b=dict(type='FrozenTIMMBackbone', model_name='x', weights='no.pth'),
        c=dict(init_cfg=dict(type='Pretrained', checkpoint='no/file.pth')),
    )
    tag, weights, checkpoint = missing_weights(cfg, 'm')
    assert tag.startswith("m.a: pretrained='opneai' is neither")
    assert weights.startswith("m.b: weights='no.pth': there is no such file")
    assert checkpoint == (
        'm.c.init_cfg: checkpoint=no/file.pth: there is no such file'
    )
