"""Released checkpoints of Rein, SoMA and tqdm: completely or not at all."""

import json

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from safetensors import safe_open

from clouds_mmseg.conversion import tower_checkpoints
from clouds_mmseg.conversion.convert_file import convert_file, report_lines
from clouds_mmseg.conversion.layouts import detect
from clouds_mmseg.conversion.target_spec import strip_prefix
from clouds_mmseg.conversion.tower_checkpoints import (
    convert_tower_checkpoint,
    rename_tqdm,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import (
    CheckpointMismatchError,
    load_strictly,
    without_pretrained_init,
)

REIN = 'clouds_mmseg::rein/gta2cs_dinov2l.py'
SOMA = 'clouds_mmseg::soma/gta2cs_dinov2l.py'


@pytest.fixture(scope='module', autouse=True)
def _build_once():
    """Build each of the large models once: it takes seconds."""
    built, build = {}, tower_checkpoints.build_spec

    def build_once(cfg):
        if cfg.filename not in built:
            built[cfg.filename] = build(cfg)
        return built[cfg.filename]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tower_checkpoints, 'build_spec', build_once)
        yield


@pytest.fixture(scope='module')
def manifest(reference_dir):
    """Read a list of keys as weights without storage."""

    def read(name):
        path = reference_dir / f'towers/{name}_keys.json'
        return {
            key: torch.empty(shape, device='meta')
            for key, shape in json.loads(path.read_text()).items()
        }

    return read


@pytest.fixture(scope='module')
def recorded(reference_dir):
    def read(name):
        path = reference_dir / f'towers/{name}.safetensors'
        with safe_open(path, 'pt') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            return json.loads(file.metadata()['config']), tensors

    return read


def convert(weights, **options):
    layout = detect(weights)
    return convert_tower_checkpoint(weights, layout, 'the file', **options)


@pytest.fixture(scope='module')
def dinov2():
    with torch.device('meta'):
        return timm.create_model('vit_large_patch14_dinov2').state_dict()


def test_whole_checkpoints_find_their_config(manifest):
    """The position table tells the size of the images."""
    result, model, cfg = convert(manifest('soma_dinov2_large_full'))
    assert model == 'the model of clouds_mmseg::soma/gta2cs_dinov2l'
    assert set(result.weights) == set(result.spec)
    # Nothing was taken out of the weights.
    zeros = [k for k in result.created if k.endswith('.initial_A')]
    assert len(zeros) == 16 * 4
    assert not any(result.weights[k].any() for k in zeros)
    assert result.unused == {
        'backbone.model.mask_token': 'of the pretraining of DINOv2',
        'backbone.model.norm.weight': 'the maps are taken before the final '
        'norm',
        'backbone.model.norm.bias': 'the maps are taken before the final norm',
    }


def test_adapter_files_need_config_and_tower(manifest, dinov2):
    for name, config in (('rein', REIN), ('soma', SOMA)):
        weights = manifest(f'{name}_dinov2_large')
        with pytest.raises(UserError, match='--config clouds_mmseg::' + name):
            convert(weights, tower=dinov2)
        with pytest.raises(UserError, match='--tower, dinov2_vitl14'):
            convert(weights, config=config)
    result, _, _ = convert(weights, config=SOMA, tower=dinov2)
    # Every bias is the file's, everything else of the tower the pretrained.
    created = result.created.items()
    tower = {k for k, why in created if why.startswith('the frozen')}
    assert not any(k.endswith('.bias') for k in tower if 'norm.' not in k)
    assert 'backbone.model.blocks.3.attn.qkv.weight' in tower
    assert len(tower) == 3 + 24 * 8


def test_a_key_too_many_or_too_few_is_refused(manifest, dinov2):
    for name, config, gone in (
        ('rein_dinov2_large', REIN, 'backbone.reins.scale'),
        (
            'soma_dinov2_large',
            SOMA,
            'backbone.model.blocks.9.mlp.fc1.lora_B.weight',
        ),
        ('tqdm_eva02', None, 'reg_E0.blocks.3.mlp.ffn_ln.bias'),
    ):
        weights = manifest(name)
        fill = None if config is None else dinov2
        weights['decode_head.more'] = weights.pop(gone)
        with pytest.raises(CheckpointMismatchError) as error:
            convert(weights, config=config, tower=fill)
        assert len(error.value.missing) == 1, name
        assert list(error.value.unexpected) == ['decode_head.more']


def test_every_key_of_the_published_models_has_its_place(manifest, dinov2):
    """In both directions: all of the file, and all of the model."""
    for name, config in (
        ('rein_dinov2_large', REIN),
        ('soma_dinov2_large', SOMA),
        ('tqdm_eva02', None),
    ):
        weights = manifest(name)
        fill = None if config is None else dinov2
        result, _, _ = convert(weights, config=config, tower=fill)
        accounted = {old for old, _ in result.renamed} | set(result.unused)
        assert accounted == set(weights), name
        assert {
            k: tuple(v.shape) for k, v in result.weights.items()
        } == result.spec
        why = set(result.unused.values())
        if name != 'tqdm_eva02':
            assert len(result.unused) <= 3
            continue
        assert len(result.renamed) == len(result.spec)
        assert len(why) == 2 and any('rotary' in reason for reason in why)


def test_one_of_query_key_and_value_is_missing(manifest, dinov2):
    weights = manifest('soma_dinov2_large')
    del weights['backbone.model.blocks.9.attn.k.lora_A.weight']
    with pytest.raises(UserError, match=r"attn\.qkv.*\['k'\] not"):
        convert(weights, config=SOMA, tower=dinov2)


def test_another_tower_is_refused(manifest, dinov2):
    # All else of the release with registers has the same names and shapes.
    registers = dict(dinov2, register_tokens=torch.zeros(1, 4, 1024))
    with pytest.raises(CheckpointMismatchError) as error:
        convert(manifest('rein_dinov2_large'), config=REIN, tower=registers)
    assert list(error.value.unexpected) == ['register_tokens']
    with torch.device('meta'):
        other = timm.create_model('vit_base_patch14_dinov2').state_dict()
    with pytest.raises(CheckpointMismatchError, match='the tower vit_large'):
        convert(manifest('rein_dinov2_large'), config=REIN, tower=dict(other))
    whole = manifest('soma_dinov2_large_full')
    with pytest.raises(UserError, match='has its tower'):
        convert(whole, config=SOMA, tower=other)


def test_configs_that_contradict_the_checkpoint(
    manifest, dinov2, tmp_path, repo_root
):
    weights = manifest('rein_dinov2_large')
    for change, message in (
        ("resize='timm'", "resize='timm', and Rein resizes .*'bicubic'"),
        ('norm=True', 'norm=True, and Rein takes the maps before'),
        ('adapter=None', 'adapter is None, .* Rein, which has Rein'),
        ("adapter=dict(_delete_=True, type='LoRA')", 'adapter is LoRA'),
    ):
        config = tmp_path / 'changed.py'
        base = repo_root / 'configs/rein/gta2cs_dinov2l.py'
        config.write_text(
            f'_base_ = {str(base)!r}\nmodel = dict(backbone=dict({change}))\n'
        )
        with pytest.raises(UserError, match=message):
            convert(weights, config=str(config), tower=dinov2)


def test_a_position_table_of_another_size_is_refused(manifest):
    weights = manifest('soma_dinov2_large_full')
    key = 'backbone.model.pos_embed'
    weights[key] = torch.empty(1, 2026, 1024, device='meta')
    with pytest.raises(UserError, match='--config clouds_mmseg::soma'):
        convert(weights)
    with pytest.raises(CheckpointMismatchError) as error:
        convert(weights, config=SOMA)
    shapes = ((1, 2026, 1024), (1, 1025, 1024))
    assert error.value.shape_mismatches == {key: shapes}


def test_rotary_positions_are_compared(recorded):
    _, tensors = recorded('tqdm_tiny')
    state = strip_prefix('state.', tensors)
    assert detect(state).kind == 'tqdm'
    assert len(rename_tqdm(state, 'x').unused) > 16
    key = 'backbone.blocks.1.attn.rope.freqs_sin'
    state[key] = state[key] + 1e-3
    with pytest.raises(UserError, match='other rotary positions'):
        rename_tqdm(state, 'x')


def test_detection_is_of_the_released_files_alone(manifest):
    for name in ('rein_dinov2_large', 'soma_dinov2_large', 'tqdm_eva02'):
        weights = manifest(name)
        kind = name.partition('_')[0]
        assert detect(weights).kind == kind
        assert detect(weights, kind).kind == kind
        with pytest.raises(UserError, match=f'--from {kind}'):
            detect(weights, 'mmseg')
    # Ours have the tower, under timm's names.
    ours = ['backbone.reins.scale', 'backbone.model.cls_token']
    assert detect([*ours, 'decode_head.x']).kind == 'mmseg'


def tiny_config(path, config, adapter, **head):
    """Write a config of the ViT of the recorded files."""
    tower = dict(
        type='TIMMTower',
        model_name='vit_small_patch14_dinov2',
        embed_dim=config['embed_dim'],
        depth=config['depth'],
        num_heads=config['heads'],
        mlp_ratio=config['mlp_ratio'],
        patch_size=config['patch'],
        img_size=config['table_image_size'],
        blocks=list(config['out_indices']),
        resize='bicubic',
        adapter=adapter,
    )
    head = dict(
        type='CLOUDSHead',
        num_classes=3,
        feat_channels=16,
        out_channels=16,
        num_heads=2,
        num_groups=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        encoder_ffn_channels=8,
        decoder_ffn_channels=8,
        **head,
    )
    model = dict(type='DGSegmentor', backbone=tower, decode_head=head)
    path.write_text(f"default_scope = 'mmseg'\nmodel = {model!r}\n")
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = without_pretrained_init(Config.fromfile(path).model)
        backbone = MODELS.build(model['backbone'])
        head = model['decode_head'] | dict(in_channels=backbone.channels)
        return backbone.eval(), MODELS.build(head)


def check_converted(tmp_path, backbone, head, weights, tower, tensors):
    """Convert files with the tool's function, load, compare the features."""
    head = {f'decode_head.{k}': v for k, v in head.state_dict().items()}
    source, fill, target = (
        tmp_path / name for name in ('released.pth', 'fill.pth', 'ours.pth')
    )
    torch.save(
        dict(state_dict={**weights, **head}, ema_state_dict=dict(head)), source
    )
    torch.save(tower, fill)
    outcome = convert_file(
        source,
        target,
        config=str(tmp_path / 'tiny.py'),
        tower=str(fill) if tower else None,
    )
    lines = '\n'.join(report_lines(outcome))
    assert 'ema_state_dict' in lines and '--protocol' in lines
    ours = torch.load(target, weights_only=True)['state_dict']
    for key, value in head.items():
        assert torch.equal(ours[key], value), key
    load_strictly(backbone, strip_prefix('backbone.', ours), source='ours')
    with torch.no_grad():
        maps = backbone(tensors['same.image'])
    for index, found in enumerate(maps):
        expected = tensors[f'same.feat.{index}']
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ('svd', 'whole'), [('random', True), ('pretrained', False)]
)
def test_soma_computes_what_the_original_does(recorded, tmp_path, svd, whole):
    config, tensors = recorded('soma_vit_tiny')
    adapter = dict(
        type='SoMA',
        svd=svd,
        rank=config['r'],
        alpha=config['alpha'],
        first_block=config['start_block'],
    )
    parts = tiny_config(tmp_path / 'tiny.py', config, adapter, num_queries=4)
    state = {f'backbone.{k}': v for k, v in _state(tensors).items()}
    if whole:
        check_converted(tmp_path, *parts, state, None, tensors)
        return
    # As the script cuts it: every bias of the backbone is in it.
    adapter = {
        k: v
        for k, v in state.items()
        if 'lora_' in k or k.endswith('.bias') or k.endswith('mask_token')
    }
    tower = strip_prefix('backbone.model.', state)
    tower = {k: v for k, v in tower.items() if 'lora_' not in k}
    # They differ from the pretrained ones.
    tower = {k: v + 1 if k.endswith('.bias') else v for k, v in tower.items()}
    check_converted(tmp_path, *parts, adapter, tower, tensors)


def _state(tensors):
    return strip_prefix('state.', tensors)


def test_rein_computes_what_the_original_does(recorded, tmp_path):
    config, tensors = recorded('rein_vit_tiny')
    adapter = dict(
        type='Rein',
        num_tokens=config['token_length'],
        rank=config['rank'],
        query_channels=config['query_dims'],
    )
    parts = tiny_config(
        tmp_path / 'tiny.py',
        config,
        adapter,
        num_queries=config['token_length'],
        queries='backbone',
    )
    state = _state(tensors)
    reins = {
        f'backbone.{k}': v for k, v in state.items() if k.startswith('reins.')
    }
    tower = {k: v for k, v in state.items() if not k.startswith('reins.')}
    check_converted(tmp_path, *parts, reins, tower, tensors)
