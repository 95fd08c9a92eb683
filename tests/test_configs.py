"""Every config loads, and its model takes a training and a test step.

Backbones are exchanged for tiny ones and sizes are reduced; all the rest is
what the config says.
"""

import re
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import METRICS, MODELS, TRANSFORMS
from mmseg.structures import SegDataSample

import clouds_mmseg  # noqa: F401
from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.utils.errors import DataError

CONFIG_DIR = Path(__file__).resolve().parents[1] / 'configs'
CONFIGS = sorted(
    path.relative_to(CONFIG_DIR).as_posix()
    for path in CONFIG_DIR.rglob('*.py')
    if '_base_' not in path.parts
    # Other networks: tests/test_baselines.py.
    and path.parent.name != 'baselines'
    and path.stem != 'deeplabv3plus'
)
SIZE = (64, 96)
# Heads without pixel decoder.
PLAIN = ('PMTHead', 'EoMTHead')
# A CLIP model as open_clip describes it.
TINY_TEXT = dict(
    embed_dim=24,
    vision_cfg=dict(image_size=32, patch_size=16, width=64, layers=1),
    text_cfg=dict(
        context_length=77, vocab_size=49408, width=16, heads=2, layers=1
    ),
    custom_text=True,
)


def shrink(cfg):
    """Replace the backbone by a random tiny one and shrink the head."""
    head = cfg.model.decode_head
    if cfg.model.backbone.type in ('TIMMTower', 'TIMMCLIPTower'):
        shrink_tower(cfg.model.backbone)
    else:
        cfg.model.backbone = dict(
            type='FrozenTIMMBackbone',
            model_name='test_resnet',
            weights=None,
            frozen=cfg.model.backbone.get('frozen', False),
        )
    if cfg.model.decode_head.type in PLAIN:
        # Small, with the rotary positions and registers of DINOv3.
        cfg.model.backbone.update(
            model_name='vit_tiny_patch16_dinov3_qkvb',
            embed_dim=64,
            depth=6,
            num_heads=2,
        )
        cfg.model.decode_head.update(num_queries=8)
        if cfg.model.decode_head.type == 'PMTHead':
            cfg.model.decode_head.update(num_blocks=2, ffn_channels=32)
        cfg.model.decode_head.loss = dict(num_points=64)
        cfg.model.data_preprocessor.size = SIZE
        return
    cfg.model.decode_head.update(
        feat_channels=32,
        out_channels=32,
        num_queries=19 if head.type == 'TextQueryHead' else 8,
        num_encoder_layers=1,
        num_decoder_layers=2,
        encoder_ffn_channels=32,
        decoder_ffn_channels=32,
    )
    cfg.model.decode_head.loss = dict(num_points=64)
    if head.type == 'TextQueryHead':
        open_clip.factory._MODEL_CONFIGS.setdefault('tiny-text', TINY_TEXT)
        head.text.update(
            model_name='tiny-text',
            pretrained=None,
            decoder=dict(width=16, num_heads=2, num_layers=1),
        )
    classifier = cfg.model.decode_head.get('classifier', {})
    if 'text_embeddings' in classifier:
        # Those of the config need the weights of a text tower.
        counts = [len(c) for c in classifier.text_embeddings.classes]
        classifier.text_embeddings = torch.randn(sum(counts), 8)
        classifier.num_synonyms = counts
    cfg.model.data_preprocessor.size = SIZE


def shrink_tower(backbone):
    """Make a tower small and random; the adapter stays of its kind."""
    # With the arguments of the config that the larger one has.
    pyramid = re.search('hiera|convnext', backbone.model_name)
    backbone.update(
        model_name='test_convnext' if pyramid else 'test_vit',
        pretrained=False,
    )
    if backbone.type == 'TIMMCLIPTower':
        backbone.num_classes = TINY_TEXT['embed_dim']
    adapter = backbone.get('adapter')
    if adapter:
        adapter.update(rank=4)
        if adapter.type == 'Rein':
            adapter.update(num_tokens=8, query_channels=32)
        else:
            # Of 6 blocks as many as of 24.
            adapter.first_block = adapter.get('first_block', 0) // 4


def random_batch(num_classes, domain):
    """Two random images in the form the data loader hands over."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(
                img_shape=SIZE, ori_shape=SIZE, domain=domain, img_path='x.png'
            )
        )
        label = torch.randint(0, num_classes, (1, *SIZE), generator=generator)
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    images = [
        torch.randint(
            0, 256, (3, *SIZE), dtype=torch.uint8, generator=generator
        )
        for _ in range(2)
    ]
    return dict(inputs=images, data_samples=samples)


def self_training_batch(num_classes, domain):
    """A labelled and a generated image, as student and teacher see them."""
    batch = random_batch(num_classes, domain)
    generated = batch['data_samples'][1]
    del generated.gt_sem_seg
    generated.set_metainfo(dict(domain='generated'))
    generated.clean_img = PixelData(data=batch['inputs'][1].clone())
    return batch


def pipelines(cfg):
    """The pipelines of a config's loaders."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = cfg[name].dataset
        for leaf in [dataset, *dataset_configs(dataset)]:
            yield leaf.get('pipeline') or []


@pytest.fixture(scope='module')
def stepped():
    """Models and optimizers that have taken their steps."""
    return set()


@pytest.mark.parametrize('name', CONFIGS)
def test_config(name, tmp_path, monkeypatch, stepped):
    # No data of a checkout may help.
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIG_DIR / name)
    # What a runner does with it.
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        check_transforms(cfg)
        evaluator = METRICS.build(cfg.test_evaluator)
        torch.manual_seed(0)
        shrink(cfg)
        # Many differ in their data alone, and would compute the same again.
        content = repr([cfg.model, cfg.optim_wrapper])
        if content not in stepped:
            check_steps(cfg, (evaluator.domains or ['any'])[0])
        stepped.add(content)


def check_transforms(cfg):
    for pipeline in pipelines(cfg):
        for transform in pipeline:
            if transform.type == 'DiffusionAugment':
                # It reads its bank, and there is none here.
                with pytest.raises(DataError, match='clouds generate '):
                    TRANSFORMS.build(transform)
            else:
                TRANSFORMS.build(transform)


def check_steps(cfg, domain):
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert all(group['fused'] for group in optim_wrapper.param_groups)
    num_classes = cfg.model.decode_head.num_classes

    before = {k: v.clone() for k, v in model.state_dict().items()}
    losses = model.train_step(random_batch(num_classes, 'x'), optim_wrapper)
    assert torch.isfinite(losses['loss'])
    moved = {
        key.split('.')[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    backbone = cfg.model.backbone
    frozen = backbone.frozen and not backbone.get('adapter')
    assert moved == (
        {'decode_head'} if frozen else {'backbone', 'decode_head'}
    )

    if hasattr(model, 'teacher'):
        model.update_teacher()
        batch = self_training_batch(num_classes, 'x')
        losses = model.train_step(batch, optim_wrapper)
        assert torch.isfinite(losses['loss'])
        assert model.statistics.pop()['images'] == 1

    model.eval()
    results = model.test_step(random_batch(num_classes, domain))
    for result in results:
        assert result.pred_sem_seg.data.shape == (1, *SIZE)
        assert result.seg_logits.data.shape == (num_classes, *SIZE)


TOWERS = sorted(
    path.stem
    for path in (CONFIG_DIR / '_base_/models').glob('*.py')
    if "_base_ = './tower.py'" in path.read_text()
)


@pytest.mark.parametrize('name', TOWERS)
def test_towers_of_the_configs(name):
    """The real towers, on the meta device: they exist and have four maps."""
    cfg = Config.fromfile(CONFIG_DIR / f'_base_/models/{name}.py')
    backbone = dict(cfg.model.backbone, pretrained=False)
    with (
        torch.device('meta'),
        DefaultScope.overwrite_default_scope('mmseg'),
    ):
        tower = MODELS.build(backbone)
        maps = tower.maps(torch.zeros(1, 3, 64, 96))
    assert tower.expects is not None and tower.frozen
    for x, channels, stride in zip(
        maps, tower.channels, (4, 8, 16, 32), strict=True
    ):
        assert x.shape == (1, channels, 64 // stride, 96 // stride)
    # The weights have an address.
    assert timm.models.get_pretrained_cfg(backbone['model_name']).has_weights


@pytest.mark.parametrize(
    ('name', 'trained'),
    # Counted in the original models; SoMA's also has a mask token, unused.
    [('rein', 2_990_081), ('soma', 4_867_072 - 1024)],
)
def test_parameters_that_are_trained_of_dinov2(name, trained):
    cfg = Config.fromfile(CONFIG_DIR / f'{name}/gta2cs_dinov2l.py')
    backbone = dict(cfg.model.backbone, load_pretrained=False)
    with (
        torch.device('meta'),
        DefaultScope.overwrite_default_scope('mmseg'),
    ):
        tower = MODELS.build(backbone)
    parameters = [p for p in tower.parameters() if p.requires_grad]
    assert sum(p.numel() for p in parameters) == trained


def test_there_are_configs():
    assert len(TOWERS) >= 9
    for folder, tower in (
        ('rein', 'dinov2l'),
        ('soma', 'dinov2l'),
        ('pmt', 'dinov3l'),
        ('eomt', 'dinov3l'),
    ):
        for benchmark in ('gta2cs', 'syn2cs', 'cs2acdc'):
            assert f'{folder}/{benchmark}_{tower}.py' in CONFIGS
            assert f'tqdm/{benchmark}_eva02l.py' in CONFIGS
    for folder in ('warmup', 'clouds'):
        for benchmark in ('gta2cs', 'syn2cs', 'cs2acdc'):
            for backbone in ('', '_r50', '_r101'):
                assert f'{folder}/{benchmark}{backbone}.py' in CONFIGS
