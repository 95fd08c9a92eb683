"""Which CLIP tower has weights of such shapes."""

import logging
from functools import lru_cache

import open_clip
import torch

from clouds_mmseg.checkpoints.strict import has_prefix
from clouds_mmseg.models.clip_probe import probe_pyramid
from clouds_mmseg.models.clip_towers import build_visual
from clouds_mmseg.utils.errors import UserError

# Towers that differ in image size or in the text tower have the same
# weights; these are the ones that CLOUDS and FC-CLIP were published with.
_USUAL = (
    'convnext_large_d_320',
    'RN50',
    'RN101',
    'convnext_base_w_320',
    'convnext_xxlarge',
    'RN50x4',
    'RN50x16',
    'RN50x64',
)
_TOY_VISION = dict(image_size=32, patch_size=32, width=64, layers=1)


def find_tower(shapes):
    """Name the tower that has such weights.

    Args:
        shapes (dict[str, tuple]): Names below ``visual.`` -> shape; all
            that make the maps, without what pools and projects them.

    Returns:
        str: A model of open_clip.

    Raises:
        UserError: There is none.
    """
    shapes = {key: tuple(shape) for key, shape in shapes.items()}
    others = [name for name in open_clip.list_models() if name not in _USUAL]
    for name in (*_USUAL, *others):
        if _may_be(name, shapes) and (
            shapes.items() <= _whole_tower(name).items()
        ):
            wanted = _without_counters(tower_shapes(name))
            if wanted == _without_counters(shapes):
                return name
    raise UserError(
        f'open_clip {open_clip.__version__} has no CLIP tower with the '
        f'{len(shapes)} weights below backbone.visual. If the model is yours, '
        'give its config with --config.'
    )


def _may_be(name, shapes):
    """Rule out, without building them, most towers that have other shapes."""
    if name.endswith('quickgelu'):
        return False
    if 'conv1.weight' not in shapes:
        return name.startswith('convnext')
    vision = open_clip.get_model_config(name)['vision_cfg']
    # The stem of a CLIP ResNet begins with half of its width.
    return name.startswith('RN') and (
        vision['width'] == 2 * shapes['conv1.weight'][0]
    )


def _without_counters(shapes):
    return {
        key: shape
        for key, shape in shapes.items()
        if not key.endswith('num_batches_tracked')
    }


@lru_cache
def _whole_tower(name):
    visual = build_visual(name, device='meta')
    return {k: tuple(v.shape) for k, v in visual.state_dict().items()}


@lru_cache
def tower_shapes(name):
    """Names and shapes of a visual tower as CLIPBackbone keeps it.

    Args:
        name (str): A model of open_clip.

    Returns:
        dict[str, tuple]: Only what makes the four maps. Not to be changed.
    """
    unused = probe_pyramid(name).unused
    return {
        key: shape
        for key, shape in _whole_tower(name).items()
        if not has_prefix(key, unused)
    }


@lru_cache
def clip_shapes(name):
    """Names and shapes of a whole CLIP model, with its text tower.

    Args:
        name (str): A model of open_clip.

    Returns:
        dict[str, tuple]: Not to be changed.
    """
    disabled = logging.root.manager.disable
    # open_clip warns that there are no weights; none are asked for.
    logging.disable(logging.WARNING)
    try:
        with torch.device('meta'):
            # The visual tower is known: a toy takes its place here.
            model = open_clip.create_model(
                name,
                device='meta',
                vision_cfg=dict(_TOY_VISION),
                pretrained_text=False,
            )
    finally:
        logging.disable(disabled)
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if not key.startswith('visual.')
    }
    for key, shape in _whole_tower(name).items():
        shapes[f'visual.{key}'] = shape
    return shapes
