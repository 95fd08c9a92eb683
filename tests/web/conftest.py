"""A small model as a file, and the page that ``clouds demo`` serves of it."""

import json
from importlib.util import find_spec
from signal import SIGTERM

import open_clip
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from safetensors.torch import save_file
from tiny_run import CLASSES, PALETTE, read_config, write_config
from web_page import Page

from clouds_mmseg.predict.segmenter import Segmenter


@pytest.fixture(scope='session')
def small_checkpoint(tmp_path_factory):
    """A checkpoint of the tiny run before its first iteration."""
    folder = tmp_path_factory.mktemp('small')
    config = write_config(folder / 'tiny.py', folder)
    cfg = read_config(config, folder)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    meta = dict(
        cfg=cfg.pretty_text,
        dataset_meta=dict(classes=CLASSES, palette=PALETTE),
    )
    path = folder / 'iter_2.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='session')
def text_checkpoint(tmp_path_factory):
    """A small model that takes its classes as text; its CLIP is a folder."""
    folder = tmp_path_factory.mktemp('text')
    clip = dict(
        embed_dim=16,
        vision_cfg=dict(
            layers=[1, 1, 1, 1], width=8, head_width=32, image_size=64
        ),
        text_cfg=dict(
            context_length=16, vocab_size=49408, width=32, heads=1, layers=1
        ),
    )
    text = json.dumps(dict(model_cfg=clip, preprocess_cfg={}))
    (folder / 'open_clip_config.json').write_text(text)
    torch.manual_seed(0)
    weights = open_clip.CLIP(**clip).state_dict()
    save_file(weights, folder / 'open_clip_model.safetensors')
    model = dict(
        type='DGSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[128.0] * 3,
            std=[64.0] * 3,
            bgr_to_rgb=True,
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            stem_channels=8,
            base_channels=8,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(
            type='CLOUDSHead',
            in_channels=[8, 16, 32, 64],
            num_classes=len(CLASSES),
            feat_channels=32,
            out_channels=16,
            num_queries=7,
            num_heads=4,
            num_encoder_layers=1,
            encoder_ffn_channels=48,
            num_decoder_layers=1,
            decoder_ffn_channels=40,
            num_groups=8,
            classifier=dict(
                type='text',
                text_embeddings=dict(
                    classes=list(CLASSES),
                    model_name=f'local-dir:{folder}',
                    pretrained=None,
                    templates=['a photo of a {}.'],
                    cache_dir=str(folder / 'cache'),
                ),
            ),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    init_default_scope('mmseg')
    path = folder / 'iter_2.pth'
    meta = dict(
        cfg=Config(dict(model=model)).pretty_text,
        dataset_meta=dict(classes=CLASSES, palette=PALETTE),
    )
    weights = MODELS.build(model).state_dict()
    torch.save(dict(state_dict=weights, meta=meta), path)
    return path


@pytest.fixture(scope='session')
def small_segmenter(small_checkpoint):
    return Segmenter.from_pretrained(small_checkpoint, device='cpu')


@pytest.fixture(scope='session')
def page(small_checkpoint, text_checkpoint, tmp_path_factory, repo_root):
    """The page in a process of its own, as a user starts it."""
    if find_spec('gradio') is None:
        pytest.skip('needs gradio: pip install "clouds_mmseg[web]"')
    checkpoints = (small_checkpoint, text_checkpoint)
    served = Page(checkpoints, tmp_path_factory.mktemp('page'))
    yield served
    # Ended as by a service manager: nothing is left, neither where it was
    # told to write nor elsewhere.
    assert served.stop() == 128 + SIGTERM
    written = [
        path.relative_to(served.folder).as_posix()
        for path in served.folder.rglob('*')
        if path.is_file()
    ]
    assert sorted(written) == ['log', 'private.png', 'secret.png']
    # Gradio writes stub files beside the sources of some classes.
    assert not list((repo_root / 'clouds_mmseg').rglob('*.pyi'))
