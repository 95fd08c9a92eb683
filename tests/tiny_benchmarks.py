"""The benchmarks with images of 128x64, and models that fit them."""

import functools
from contextlib import contextmanager
from pathlib import Path

import cv2
import mmengine.config.utils
import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.cli.config import dataset_configs

HEIGHT, WIDTH = 64, 128
CROP = (64, 64)
# Layout -> (images, labels) below the folder of a data set.
LAYOUTS = dict(
    gta5=[('images/{}.png', 'labels/{}.png')],
    synthia=[('RGB/{}.png', 'GT/LABELS/{}.png')],
    cityscapes=[
        (
            f'leftImg8bit/{split}/a/a_{{}}_leftImg8bit.png',
            f'gtFine/{split}/a/a_{{}}_gtFine_labelTrainIds.png',
        )
        for split in ('train', 'val')
    ],
    urbansyn=[('rgb/rgb_{}.png', 'ss/rgb_{}_labelTrainIds.png')],
    bdd100k=[('images/10k/val/{}.jpg', 'labels/sem_seg/masks/val/{}.png')],
    mapillary=[('validation/images/{}.jpg', 'validation/labels/{}.png')],
    acdc=[
        (
            f'rgb_anon/{weather}/val/s/{{}}_rgb_anon.png',
            f'gt/{weather}/val/s/{{}}_gt_labelTrainIds.png',
        )
        for weather in ('fog', 'night', 'rain', 'snow')
    ],
)
FOLDERS = {name: name for name in LAYOUTS} | {
    'toycity/source': 'gta5',
    'toycity/source_val': 'gta5',
    'toycity/clear': 'cityscapes',
    'toycity/acdc': 'acdc',
}
# Ids that a mapping knows, where they are no train ids.
IDS = dict(gta5=(7, 23, 26), synthia=(3, 1, 8), mapillary=(13, 27, 55))


def write_benchmarks(root, count=2):
    """Write each data set in its published layout.

    Args:
        root (str | Path): What CLOUDS_DATA_ROOT will name.
        count (int): Images of each split.

    Returns:
        Path: ``root``.
    """
    rng = np.random.default_rng(0)
    for folder, name in FOLDERS.items():
        for image, label in LAYOUTS[name]:
            for number in range(count):
                pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
                ids = np.array(IDS.get(name, (0, 10, 13)))
                classes = ids[rng.integers(0, 3, (HEIGHT // 16, WIDTH // 16))]
                classes = classes.repeat(16, 0).repeat(16, 1)
                _save(Path(root, folder, image.format(number)), pixels)
                _save(
                    Path(root, folder, label.format(number)),
                    classes,
                    deep=name == 'synthia',
                )
    return Path(root)


def _save(path, pixels, deep=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if deep:
        # OpenCV's order is blue, green, red; SYNTHIA's class is in red.
        channels = np.zeros((*pixels.shape, 3), np.uint16)
        channels[..., 2] = pixels
        assert cv2.imwrite(str(path), channels)
    else:
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def reduce_data(cfg):
    """Scale every pipeline down; count no files and start no workers.

    Args:
        cfg (Config): Changed in place.
    """
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        # A pipeline may be that of several datasets.
        for leaf in [dataset, *dataset_configs(dataset)]:
            leaf.pop('expected', None)
            for step in leaf.get('pipeline') or ():
                if step.type == 'RandomResize':
                    step.scale = (WIDTH, HEIGHT)
                elif step.type == 'RandomCrop':
                    step.crop_size = CROP
                elif step.type == 'Resize':
                    step.scale = (4 * HEIGHT, HEIGHT)
                elif step.type == 'RandomChoiceResize':
                    step.update(scales=[HEIGHT, 80], max_size=2 * WIDTH)
    cfg.model.data_preprocessor.size = CROP


def shrink_model(model):
    """Make a model of the zoo narrow and shallow; its parts stay.

    Args:
        model (ConfigDict): ``model`` of a config, changed in place.
    """
    model.pretrained = None
    model.backbone.pop('init_cfg', None)
    kind = model.backbone.type
    if kind in ('ResNet', 'ResNetV1c'):
        model.backbone.update(base_channels=8, stem_channels=8)
        widths = [32, 64, 128, 256]
        if model.backbone.depth < 50:
            widths = [8, 16, 32, 64]
    elif kind == 'MixVisionTransformer':
        model.backbone.update(embed_dims=4, num_layers=[1, 1, 1, 2])
        widths = [4, 8, 20, 32]
    elif kind == 'SwinTransformer':
        model.backbone.update(
            embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]
        )
        widths = [8, 16, 32, 64]
    elif kind == 'MSCAN':
        model.backbone.update(embed_dims=[8, 16, 32, 64], depths=[1, 1, 2, 1])
        widths = [8, 16, 32, 64]
    elif kind == 'FrozenTIMMBackbone':
        model.backbone.update(model_name='test_convnext', pretrained=False)
        widths = [24, 32, 48, 64]
    else:
        raise ValueError(f'no small version of {kind} is known here')
    _shrink_head(model.decode_head, widths)
    if model.get('auxiliary_head'):
        _shrink_head(model.auxiliary_head, widths)


def _shrink_head(head, widths):
    if head.type == 'CLOUDSHead':
        head.update(
            in_channels=widths,
            feat_channels=32,
            out_channels=32,
            num_queries=8,
            num_encoder_layers=1,
            num_decoder_layers=2,
            encoder_ffn_channels=32,
            decoder_ffn_channels=32,
            loss=dict(num_points=64),
        )
        return
    index = head.in_index
    head.in_channels = (
        widths[index] if isinstance(index, int) else [widths[i] for i in index]
    )
    head.channels = 16
    if head.type == 'DepthwiseSeparableASPPHead':
        head.update(c1_in_channels=widths[0], c1_channels=8)
    if head.type == 'LightHamHead':
        head.update(
            channels=32,
            ham_channels=32,
            norm_cfg=dict(type='GN', num_groups=8),
        )


@contextmanager
def zoo_read_once():
    """Keep the zoo's index: mmengine reads all metafiles for each config."""
    utils = mmengine.config.utils
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield
