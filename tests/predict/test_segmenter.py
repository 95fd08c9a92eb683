"""A trained model as a function of images."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from PIL import Image
from tiny_run import CLASSES, PALETTE

from clouds_mmseg import Segmenter
from clouds_mmseg.conversion.publish import publish
from clouds_mmseg.predict.loading import find_device, load_model
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import read_image


@pytest.fixture(scope='module')
def segmenter(tiny_checkpoint):
    return Segmenter.from_pretrained(tiny_checkpoint, device='cpu')


@pytest.fixture(scope='module')
def paths(tiny_data):
    return sorted((tiny_data / 'day_val' / 'images').glob('*.png'))


def test_the_checkpoint_is_enough(segmenter, paths, tiny_checkpoint):
    assert segmenter.classes == CLASSES
    assert segmenter.palette.tolist() == PALETTE
    found = segmenter(paths[0])
    meta = torch.load(tiny_checkpoint, weights_only=False)['meta']
    cfg = Config.fromstring(meta['cfg'], '.py')
    cfg.test_pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='PackSegInputs'),
    ]
    model = init_model(cfg, str(tiny_checkpoint), device='cpu')
    expected = inference_model(model, str(paths[0])).pred_sem_seg.data[0]
    assert found.labels.dtype == np.uint8
    assert np.array_equal(found.labels, expected.numpy())
    assert found.path == paths[0] and found.confidence is None


def test_images_are_resized_as_the_config_in_the_checkpoint_says(
    segmenter, paths, tiny_checkpoint, tmp_path
):
    content = torch.load(tiny_checkpoint, weights_only=False)
    cfg = Config.fromstring(content['meta']['cfg'], '.py')
    # As in the configs of the benchmarks.
    step = dict(
        type='Resize', scale=(192, 48), keep_ratio=True, backend='pillow'
    )
    cfg.test_dataloader.dataset.datasets[0].pipeline.insert(1, step)
    content['meta']['cfg'] = cfg.pretty_text
    torch.save(content, tmp_path / 'resized.pth')
    found = Segmenter.from_pretrained(tmp_path / 'resized.pth', device='cpu')
    image = Image.open(paths[0]).convert('RGB')
    enlarged = image.resize((48, 48), Image.Resampling.BILINEAR)
    labels = found(image).labels
    assert labels.shape == (32, 32) == image.size
    expected = Segmenter(segmenter.model, CLASSES, PALETTE, resize=[step])
    assert np.array_equal(labels, expected(image).labels)
    half = segmenter(enlarged).labels
    assert np.mean(half[::3, ::3] == labels[::2, ::2]) > 0.8


def test_files_images_and_arrays_are_the_same(segmenter, paths):
    array = read_image(paths[1])
    results = segmenter([paths[1], Image.open(paths[1]), array])
    for result in results:
        assert np.array_equal(result.image, array)
        assert np.array_equal(result.labels, results[0].labels)
    batch = segmenter([str(p) for p in paths], batch_size=3)
    for one, path in zip(batch, paths, strict=True):
        assert np.array_equal(one.labels, segmenter(path).labels)


def test_scores_and_confidence(segmenter, paths):
    found = segmenter(paths[0], scores=True, confidence=True)
    assert found.scores.shape == (3, *found.labels.shape)
    assert np.array_equal(found.scores.argmax(0), found.labels)
    # The head predicts logits; these are probabilities.
    assert np.allclose(found.scores.sum(0), 1, atol=1e-5)
    assert np.allclose(found.confidence, found.scores.max(0), atol=1e-5)


def test_a_mirrored_image_is_averaged(tiny_checkpoint, paths):
    flipped = Segmenter.from_pretrained(tiny_checkpoint, flip=True)
    plain = Segmenter.from_pretrained(tiny_checkpoint)
    array = read_image(paths[0])
    both = [
        plain(array, scores=True).scores,
        plain(array[:, ::-1], scores=True).scores[..., ::-1],
    ]
    found = flipped(array, scores=True).scores
    assert np.allclose(found, sum(both) / 2, atol=1e-5)
    scaled = Segmenter.from_pretrained(tiny_checkpoint, scales=[1, 2])
    assert scaled(array).labels.shape == array.shape[:2]


def test_large_images_are_predicted_in_windows(tiny_checkpoint, paths):
    array = np.tile(read_image(paths[0]), (4, 5, 1))
    sizes = []
    segmenter = Segmenter.from_pretrained(
        tiny_checkpoint, max_pixels=64 * 64, window=64
    )
    segmenter.model.backbone.register_forward_pre_hook(
        lambda module, args: sizes.append(args[0].shape[-2:])
    )
    assert segmenter(array).labels.shape == array.shape[:2]
    assert set(sizes) == {(64, 64)} and len(sizes) > 4
    # The next image is predicted whole again.
    sizes.clear()
    segmenter(array[:32, :32])
    assert sizes == [(32, 32)]


def test_results_are_drawn_and_saved(segmenter, paths, tmp_path):
    found = segmenter(paths[0], confidence=True)
    best = found.classes[np.bincount(found.labels.flat).argmax()]
    assert repr(found).startswith(f'Prediction(32x32: {best} ')
    for kind in ('labels', 'color', 'overlay', 'confidence'):
        found.save(tmp_path / 'a' / f'{kind}.png', kind)
    labels = np.asarray(Image.open(tmp_path / 'a/labels.png'))
    assert np.array_equal(labels, found.labels)
    color = np.asarray(Image.open(tmp_path / 'a/color.png'))
    assert np.array_equal(color, np.array(PALETTE)[found.labels])
    overlay = np.asarray(found.overlay(0.0))
    assert np.array_equal(overlay, found.image)
    with pytest.raises(UserError, match='opacity must lie'):
        found.overlay(2)
    with pytest.raises(UserError, match='confidence=True'):
        segmenter(paths[0]).save(tmp_path / 'x.png', 'confidence')
    with pytest.raises(UserError, match='none of labels'):
        found.save(tmp_path / 'x.png', 'label')


def _with_cfg(checkpoint, target, cfg, **meta):
    content = torch.load(checkpoint, weights_only=False)
    content['meta'] = dict(content['meta'], cfg=cfg, **meta)
    torch.save(content, target)
    return target


def test_a_checkpoint_builds_registered_classes_only(
    tiny_checkpoint, tmp_path
):
    cfg = "model = dict(type='subprocess.getoutput', cmd='touch hacked')"
    bad = _with_cfg(tiny_checkpoint, tmp_path / 'bad.pth', cfg)
    with pytest.raises(UserError, match="'subprocess.getoutput', which would"):
        Segmenter.from_pretrained(bad)


def test_mistakes_are_told(tiny_checkpoint, tmp_path, segmenter):
    with pytest.raises(UserError, match='no such file'):
        Segmenter.from_pretrained(tmp_path / 'nothing.pth')
    empty = _with_cfg(tiny_checkpoint, tmp_path / 'empty.pth', None)
    with pytest.raises(UserError, match='holds no config; give the one'):
        Segmenter.from_pretrained(empty)
    meta = torch.load(tiny_checkpoint, weights_only=False)['meta']
    fewer = _with_cfg(
        tiny_checkpoint,
        tmp_path / 'fewer.pth',
        meta['cfg'],
        dataset_meta=dict(classes=['a', 'b']),
    )
    with pytest.raises(UserError, match='names 2 classes, but its head has 3'):
        Segmenter.from_pretrained(fewer)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match='device cuda:0 is not there'):
            Segmenter.from_pretrained(tiny_checkpoint, device='cuda:0')
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3))):
        with pytest.raises(UserError, match='an array'):
            segmenter(wrong.astype(np.uint8) if not wrong.size else wrong)
    for options in (dict(scales=[]), dict(scales=[99]), dict(window=100)):
        with pytest.raises(UserError, match='must be'):
            Segmenter.from_pretrained(tiny_checkpoint, **options)


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    assert find_device(None) == torch.device('cuda:0')
    for name, value in (('RANK', 3), ('WORLD_SIZE', 4), ('LOCAL_RANK', 3)):
        monkeypatch.setenv(name, str(value))
    assert find_device(None) == torch.device('cuda:1')
    assert find_device('cpu') == torch.device('cpu')
    with pytest.raises(UserError, match='cuda:0 to cuda:1'):
        find_device('cuda:2')
    with pytest.raises(UserError, match="there is no device 'gpu'"):
        find_device('gpu')


def test_a_work_dir_and_a_published_folder(tiny_checkpoint, paths, tmp_path):
    work = Segmenter.from_pretrained(tiny_checkpoint.parent, device='cpu')
    publish(tiny_checkpoint, tmp_path / 'model.safetensors')
    folder = Segmenter.from_pretrained(tmp_path, device='cpu')
    labels = [each(paths[0]).labels for each in (work, folder)]
    assert np.array_equal(*labels)
    assert folder.palette.tolist() == PALETTE


def test_a_checkpoint_of_another_project(tiny_checkpoint, tmp_path):
    weights = {
        'sem_seg_head.predictor.query_feat.weight': torch.ones(2, 2),
        'sem_seg_head.predictor.class_embed.weight': torch.ones(2, 2),
    }
    torch.save(dict(model=weights), tmp_path / 'model_final.pth')
    with pytest.raises(UserError, match=r'Mask2Former; convert it first'):
        Segmenter.from_pretrained(tmp_path / 'model_final.pth')


def test_a_lora_is_merged_into_its_tower(tmp_path):
    cfg = Config(
        dict(
            model=dict(
                type='DGSegmentor',
                data_preprocessor=dict(type='SegDataPreProcessor'),
                backbone=dict(
                    type='TIMMTower',
                    model_name='test_vit',
                    adapter=dict(type='LoRA', rank=2),
                ),
                decode_head=dict(
                    type='CLOUDSHead',
                    num_classes=3,
                    feat_channels=32,
                    out_channels=32,
                    num_queries=4,
                    num_encoder_layers=1,
                    num_decoder_layers=1,
                    encoder_ffn_channels=8,
                    decoder_ffn_channels=8,
                ),
            )
        )
    )
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    for name, value in model.named_parameters():
        if 'lora_' in name:
            value.data.normal_(std=0.1)
    path = tmp_path / 'lora.pth'
    meta = dict(
        cfg=cfg.pretty_text,
        dataset_meta=dict(classes=CLASSES, palette=PALETTE),
    )
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    merged = load_model(path).model.eval()
    assert not any('lora_' in key for key in merged.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = model.backbone(image), merged.backbone(image)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
