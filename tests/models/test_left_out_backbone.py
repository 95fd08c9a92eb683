"""Files that were written without their frozen backbone."""

import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import init_model
from mmseg.registry import MODELS
from torch import nn

from clouds_mmseg import Segmenter
from clouds_mmseg.conversion.publish import publish
from clouds_mmseg.models import CLIPBackbone
from clouds_mmseg.models.backbones.clip_source import build_visual
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.frozen_backbone import META_KEY
from clouds_mmseg.weights.io import (
    MissingWeightsError,
    read_content,
    read_metadata,
)
from clouds_mmseg.weights.load import read_checkpoint

CLASSES = ['ground', 'sky', 'box']
HEAD = dict(
    type='FCNHead',
    in_channels=512,
    in_index=3,
    channels=8,
    num_convs=1,
    num_classes=3,
    norm_cfg=dict(type='BN'),
)


WIDTHS = {None: 512, 'tiny-vit': 64, 'tiny-convnext': 64}


def write_checkpoint(path, tower, change=None, **backbone):
    """Write an untrained model on a tower, as a training saves it."""
    model = dict(
        type='DGSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3
        ),
        backbone=dict(
            **dict(
                dict(
                    type='CLIPBackbone',
                    model_name='tiny-rn',
                    pretrained=str(tower),
                ),
                **backbone,
            )
        ),
        decode_head=dict(HEAD, in_channels=WIDTHS[backbone.get('model_name')]),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(1)
    init_default_scope('mmseg')
    built = MODELS.build(model)
    if change is not None:
        change(built)
    meta = dict(
        cfg=Config(dict(model=model)).pretty_text,
        dataset_meta=dict(classes=CLASSES, palette=[[9, 9, 9]] * 3),
    )
    torch.save(dict(meta=meta, state_dict=built.state_dict()), path)
    return path


@MODELS.register_module()
class AdaptedCLIPBackbone(CLIPBackbone):
    """A frozen tower with a weight that is trained."""

    def __init__(self, *args, load_pretrained=True, **kwargs):
        super().__init__(*args, load_pretrained=load_pretrained, **kwargs)
        self.added = nn.Parameter(torch.rand(3))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A tower, a checkpoint on it, and the same without the tower."""
    folder = tmp_path_factory.mktemp('home')
    torch.manual_seed(0)
    tower = folder / 'clip.pt'
    torch.save(build_visual('tiny-rn').state_dict(), tower)
    whole = write_checkpoint(folder / 'whole.pth', tower)
    light = folder / 'light.safetensors'
    publish(whole, light, backbone=False)
    return tower, whole, light, tower.read_bytes()


@pytest.fixture
def tower(made):
    """File of the tower; it may be changed."""
    yield made[0]
    made[0].write_bytes(made[3])


@pytest.fixture
def files(made):
    return made[1:3]


@pytest.fixture
def image():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_predictions_are_those_of_the_whole_file(files, tower, image):
    whole, light = files
    assert not any(
        key.startswith('backbone.')
        for key in read_content(light)['state_dict']
    )
    assert light.stat().st_size < whole.stat().st_size / 3
    described = read_metadata(light)[META_KEY]
    assert described['file'] == dict(name='clip.pt', sha256=sha256_of(tower))
    results = [
        Segmenter.from_pretrained(path, device='cpu')(image, scores=True)
        for path in files
    ]
    assert np.array_equal(results[0].scores, results[1].scores)
    assert np.array_equal(results[0].labels, results[1].labels)


def test_all_weights_are_had_again(files, tmp_path):
    whole, light = files
    state = torch.get_rng_state()
    expected = read_content(whole)['state_dict']
    for found in (
        read_checkpoint(str(light))['state_dict'],
        read_content(publish(light, tmp_path / 'a.pth').target)['state_dict'],
    ):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[k], v) for k, v in expected.items())
    # Training from it draws the same numbers.
    assert torch.equal(state, torch.get_rng_state())
    meta = read_content(tmp_path / 'a.pth')['meta']
    assert META_KEY not in meta


def test_what_is_trained_in_a_backbone_stays(tower, tmp_path):
    path = write_checkpoint(
        tmp_path / 'a.pth', tower, type='AdaptedCLIPBackbone'
    )
    light = publish(path, tmp_path / 'b.safetensors', backbone=False).target
    kept = read_content(light)['state_dict']
    assert [k for k in kept if k.startswith('backbone.')] == ['backbone.added']
    expected = read_content(path)['state_dict']
    found = read_checkpoint(str(light))['state_dict']
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


def move(model):
    """Change every trained parameter."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize(
    ('name', 'adapter'),
    [
        ('tiny-vit', dict(type='SoMA', rank=4)),
        ('tiny-vit', dict(type='Rein', rank=4, link=False)),
        ('tiny-convnext', dict(type='LoRA', rank=4)),
        ('tiny-convnext', dict(type='SoMA', rank=4, first_block=1)),
    ],
    ids=lambda x: x if isinstance(x, str) else x['type'],
)
def test_adapters_stay(name, adapter, tmp_path):
    torch.manual_seed(0)
    tower = tmp_path / 'clip.pt'
    torch.save(build_visual(name).state_dict(), tower)
    options = dict(model_name=name, adapter=adapter)
    path = write_checkpoint(tmp_path / 'a.pth', tower, move, **options)
    light = publish(path, tmp_path / 'b.safetensors', backbone=False).target
    kept = read_content(light)['state_dict']
    kept = [k for k in kept if k.startswith('backbone.')]
    parts = ('lora_', 'initial_', 'rein', '.bias', '_bias')
    assert kept and all(any(p in key for p in parts) for key in kept)
    expected = read_content(path)['state_dict']
    found = read_checkpoint(str(light))['state_dict']
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)
    assert publish(light, tmp_path / 'c.pth').target.is_file()
    # A weight that SoMA decomposed is another.
    weights = torch.load(tower)
    key = next(k for k in weights if k.endswith(('c_fc.weight', 'fc1.weight')))
    weights[key] += 1e-2
    torch.save(weights, tower)
    with pytest.raises(UserError, match='other weights than the one it was'):
        read_checkpoint(str(light))
    with pytest.raises(UserError, match='not the one that its config names'):
        publish(path, tmp_path / 'd.pth', backbone=False)


def test_a_missing_tower_is_an_error(files, tower, tmp_path, monkeypatch):
    _, light = files
    sha256 = sha256_of(tower)
    there = tmp_path / 'there'
    there.mkdir()
    shutil.move(tower, there / 'clip.pt')
    for read in (Segmenter.from_pretrained, read_checkpoint):
        with pytest.raises(MissingWeightsError) as caught:
            read(str(light))
        for word in (str(light), 'clip.pt', sha256, 'CLOUDS_PRETRAINED_DIR'):
            assert word in str(caught.value)
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(there))
    assert Segmenter.from_pretrained(light).classes == tuple(CLASSES)


def test_another_tower_is_an_error(files, tower):
    _, light = files
    weights = torch.load(tower)
    weights['conv1.weight'][0, 0, 0, 0] += 1e-3
    torch.save(weights, tower)
    with pytest.raises(UserError, match=r'other weights than the one it was'):
        read_checkpoint(str(light))


def test_only_a_frozen_pretrained_tower_is_left_out(tower, tmp_path):
    out = tmp_path / 'out.safetensors'
    for backbone, message in (
        (dict(frozen=False), 'was trained'),
        (dict(pretrained=None), 'names no pretrained weights'),
    ):
        path = write_checkpoint(tmp_path / 'a.pth', tower, **backbone)
        with pytest.raises(UserError, match=message):
            publish(path, out, backbone=False)
    path = write_checkpoint(tmp_path / 'a.pth', tower)
    content = torch.load(path)
    content['state_dict']['backbone.visual.conv1.weight'] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match='visual.conv1.weight'):
        publish(path, out, backbone=False)
    del content['meta']
    torch.save(content, path)
    with pytest.raises(UserError, match='--config'):
        publish(path, out, backbone=False)
    assert not out.exists()


def test_a_config_in_a_file_builds_registered_classes_only(files, tmp_path):
    content = read_content(files[1])
    meta = {k: v for k, v in content['meta'].items() if 'sha256' not in k}
    meta[META_KEY]['config'] = dict(type='os.system', command='touch x')
    torch.save(dict(content, meta=meta), tmp_path / 'bad.pth')
    with pytest.raises(UserError, match="'os.system', which would import"):
        read_checkpoint(str(tmp_path / 'bad.pth'))
    meta[META_KEY] = dict(config='CLIPBackbone')
    torch.save(dict(content, meta=meta), tmp_path / 'bad.pth')
    with pytest.raises(UserError, match='does not say which one'):
        read_checkpoint(str(tmp_path / 'bad.pth'))


def test_a_part_of_a_backbone_is_no_backbone(files, tower, tmp_path):
    """MMSegmentation's own loading does not tell what is missing."""
    whole, _ = files
    content = torch.load(whole)
    weights = content['state_dict']
    kept = [k for k in weights if not k.startswith('backbone.')]
    kept.append('backbone.visual.conv1.weight')
    content['state_dict'] = {key: weights[key] for key in kept}
    torch.save(content, tmp_path / 'part.pth')
    tower.unlink()
    cfg = Config.fromstring(content['meta']['cfg'], '.py')
    model = init_model(cfg, str(tmp_path / 'part.pth'), device='cpu')
    with pytest.raises(MissingWeightsError, match=r'clip\.pt'):
        model(torch.zeros(1, 3, 64, 64))
    model = init_model(cfg, str(whole), device='cpu')
    assert model(torch.zeros(1, 3, 64, 64)).shape[1] == 3
