"""Heads, features and labels that the tests of the head share."""

import copy
import json

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from safetensors import safe_open

from clouds_mmseg.models import CLOUDSHead

IN_CHANNELS = [8, 16, 24, 32]
TINY = dict(
    in_channels=IN_CHANNELS,
    num_classes=5,
    feat_channels=32,
    out_channels=16,
    num_queries=7,
    num_heads=4,
    num_encoder_layers=2,
    encoder_ffn_channels=48,
    num_decoder_layers=3,
    decoder_ffn_channels=40,
    num_groups=8,
    num_points=3,
    loss=dict(num_points=64),
)
SYNONYMS = [1, 2, 3, 1, 1]


def perturb(module, seed=0):
    """Move every parameter, so that those that begin as zeros count too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return module


@pytest.fixture
def tiny():
    """Arguments of the tiny head."""
    return dict(TINY)


@pytest.fixture(scope='session')
def built_head():
    torch.manual_seed(0)
    return perturb(CLOUDSHead(**TINY)).eval()


@pytest.fixture
def head(built_head):
    """A tiny linear head that the test may change."""
    return copy.deepcopy(built_head)


@pytest.fixture(scope='session')
def built_text_head():
    torch.manual_seed(1)
    classifier = dict(
        type='text', text_embeddings=torch.randn(8, 12), num_synonyms=SYNONYMS
    )
    return perturb(CLOUDSHead(**TINY, classifier=classifier)).eval()


@pytest.fixture
def text_head(built_text_head):
    """A tiny text head that the test may change."""
    return copy.deepcopy(built_text_head)


@pytest.fixture(scope='session')
def make_feats():
    """Random features of an image of some size, sides rounded up."""

    def make(size=(48, 64), batch=2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.randn(
                (batch, c, *(-(-side // s) for side in size)),
                generator=generator,
            )
            for c, s in zip(IN_CHANNELS, (4, 8, 16, 32), strict=True)
        ]

    return make


@pytest.fixture(scope='session')
def make_samples():
    """Data samples of label maps (B, H, W)."""

    def make(labels):
        return [
            SegDataSample(gt_sem_seg=PixelData(data=label[None]))
            for label in labels
        ]

    return make


@pytest.fixture(scope='session')
def make_labels():
    """Label maps of rectangles, with ids below 5 and a border of 255."""

    def make(batch=2, size=(48, 64), classes=5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randint(
            0, classes, (batch, 1, 3, 4), generator=generator
        )
        labels = torch.nn.functional.interpolate(
            coarse.float(), size=size, mode='nearest'
        )[:, 0].long()
        labels[:, :2] = 255
        return labels

    return make


@pytest.fixture(scope='session')
def load_reference(reference_dir):
    """Config and tensors of a recorded file."""

    def load(name):
        with safe_open(reference_dir / name, 'pt') as file:
            config = json.loads(file.metadata()['config'])
            return config, {k: file.get_tensor(k) for k in file.keys()}

    return load
