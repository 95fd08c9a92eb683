"""Mask heads on one ViT: Mask2Former's, PMT's, and EoMT."""

import torch
from mmseg.registry import MODELS

from benchmark.measure import BenchmarkCase
from benchmark.setting import Setting, merge_options
from clouds_mmseg.utils.cityscapes import CLASSES

# Name -> arguments of tower and head.
_HEADS = {
    'CLOUDSHead': (dict(), dict(type='CLOUDSHead')),
    'PMTHead': (dict(output='tokens', norm=True), dict(type='PMTHead')),
    'EoMTHead': (
        dict(output='tokens', frozen=False, open_blocks=4),
        dict(type='EoMTHead'),
    ),
}


def build(setting: Setting) -> dict[str, torch.nn.Module]:
    """Build a segmentor of each head on the same tower, random, in eval mode.

    The masks of PMT and EoMT are annealed, as those of a trained model.

    Args:
        setting: ``tower`` is a ViT of timm; ``model`` is merged into each
            config.
    """
    models = {}
    for name, (tower, head) in _HEADS.items():
        config = dict(
            type='DGSegmentor',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(type='TIMMTower', model_name=setting.tower, **tower),
            decode_head=dict(head, num_classes=len(CLASSES)),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
        config = merge_options(config, setting.model)
        torch.manual_seed(setting.seed)
        model = MODELS.build(config).to(setting.device).eval()
        if hasattr(model.decode_head, 'attn_mask_probs'):
            model.decode_head.attn_mask_probs.zero_()
        models[name] = model
    return models


def head_cases(
    setting: Setting, models: dict[str, torch.nn.Module]
) -> dict[str, BenchmarkCase]:
    """Build the cases of the heads alone: features to labels.

    Without EoMT, whose last blocks are the tower's.
    """
    models = {k: m for k, m in models.items() if k != 'EoMTHead'}
    features = {k: _features(setting, m) for k, m in models.items()}
    return {
        name: BenchmarkCase(
            lambda maps, model=model: _labels(setting, model, maps),
            lambda name=name: [x.clone() for x in features[name]],
        )
        for name, model in models.items()
    }


def model_cases(
    setting: Setting, models: dict[str, torch.nn.Module]
) -> dict[str, BenchmarkCase]:
    """Build the cases of tower and head together: images to labels."""
    return {
        name: BenchmarkCase(
            lambda _, model=model: _labels(
                setting, model, _features(setting, model)
            )
        )
        for name, model in models.items()
    }


def parameter_rows(models: dict[str, torch.nn.Module]) -> list[dict]:
    """Count the parameters of the heads; EoMT's blocks are the tower's."""
    row = dict(name='parameters of the head')
    for name, model in models.items():
        count = sum(p.numel() for p in model.decode_head.parameters())
        row[name] = f'{count / 1e6:.2f} M'
    return [row]


@torch.no_grad()
def _features(setting, model):
    images = setting.images().float().sub_(110).div_(60)
    with setting.autocast:
        return model.extract_feat(images)


@torch.no_grad()
def _labels(setting, model, features):
    shape = setting.size[::-1]
    metas = [dict(img_shape=shape, pad_shape=shape)] * setting.batch
    with setting.autocast:
        return model.decode_head.predict_labels(features, metas)
