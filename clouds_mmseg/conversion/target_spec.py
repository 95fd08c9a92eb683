"""Target specs: keys and shapes that the result of a conversion must have.

What the check of a conversion compares with. The spec of our model comes
from a config (:func:`spec_from_config`) or is inferred from the weights
(:func:`spec_from_weights`): shapes tell the arguments of head and backbone,
and the module that these build, on torch's meta device, tells every key.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache

import open_clip
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models import ResNet, SwinTransformer
from mmseg.registry import MODELS
from torch import nn

from clouds_mmseg.conversion.layouts import OURS, STEPS, TEACHER
from clouds_mmseg.models.backbones.clip import probe_pyramid
from clouds_mmseg.models.backbones.clip_source import build_visual
from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.utils.config_file import find_config, read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import has_prefix, without_pretrained_init

_BACKBONE = 'backbone.'
_VISUAL = 'backbone.visual.'
_VOID = f'{OURS}cls_embed.void_embedding.weight'
_QUERY = f'{OURS}query_feat.weight'
# CLIP models that differ in image size or text tower only have equal visual
# towers; these, with which CLOUDS and FC-CLIP were published, go first.
_COMMON_CLIP_MODELS = (
    'convnext_large_d_320',
    'RN50',
    'RN101',
    'convnext_base_w_320',
    'convnext_xxlarge',
    'RN50x4',
    'RN50x16',
    'RN50x64',
)
_DUMMY_VISION = dict(image_size=32, patch_size=32, width=64, layers=1)
# Blocks of the four stages -> depth.
_RESNETS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}


def spec_from_weights(
    weights: Mapping[str, torch.Tensor], *, backbone: bool, renamed: bool
) -> tuple[dict[str, tuple], str]:
    """Infer the model that the weights belong to, without storage.

    Args:
        weights: Our keys -> values.
        backbone: Whether the source has a backbone.
        renamed: Whether a backbone other than CLIP was renamed or is to be;
            otherwise its spec is what the weights have.

    Returns:
        Key -> shape of the whole model, and a description of the model.

    Raises:
        UserError: There is no such model.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    spec, titles = {}, []
    if any(key.startswith(_VISUAL) for key in shapes):
        name = find_tower(strip_prefix(_VISUAL, shapes))
        spec.update(add_prefix(_VISUAL, tower_shapes(name)))
        titles.append(f'CLIPBackbone {name}')
    elif any(key.startswith(_BACKBONE) for key in shapes):
        body, name = strip_prefix(_BACKBONE, shapes), 'a backbone as it is'
        if renamed:
            body, name = _mmseg_backbone(body)
        spec.update(add_prefix(_BACKBONE, body))
        titles.append(name)
    elif backbone:
        raise UserError('no weight of the backbone has a name of ours.')
    if _QUERY in shapes:
        head, name = _head(strip_prefix(OURS, shapes))
        titles.append(name)
    else:
        # Any other head of MMSegmentation's: nothing was renamed.
        head = strip_prefix(OURS, shapes)
        titles.append('a head as it is')
    spec.update(add_prefix(OURS, head))
    if any(key.startswith(TEACHER) for key in shapes):
        spec.update(add_prefix(TEACHER, head), **{STEPS: ()})
        titles.append('and its moving average')
    # Auxiliary heads and necks are not renamed either.
    known = (_BACKBONE, OURS, 'teacher.')
    spec.update({k: s for k, s in shapes.items() if not k.startswith(known)})
    return spec, ', '.join(titles)


def spec_from_config(
    path: str, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, tuple], str, Config]:
    """Build the model of a config, without reading weight files.

    Args:
        path: A config.
        weights: Our keys -> values; they tell the width of the text
            embeddings, so that no text tower is needed.

    Returns:
        Key -> shape of the whole model, a description of the model, and the
        config.

    Raises:
        UserError: There is no such config.
    """
    cfg = read_file(find_config(path, '--config'))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = copy.deepcopy(cfg.model)
    dimensions = weights[_VOID].shape[1] if _VOID in weights else None
    _remove_text_files(model, dimensions)
    shapes = shapes_of(MODELS.build(without_pretrained_init(model)))
    return shapes, f'the model of {path}', cfg


def infer_head_arguments(
    shapes: Mapping[str, Sequence[int]], *, num_heads: int = 8
) -> dict:
    """Infer the arguments of a :class:`CLOUDSHead` from its weights.

    The number of groups of group normalisation does not show in the shapes:
    ``num_groups`` keeps its default, 32. The text embeddings are not weights
    either: ``classifier`` is left out.

    Args:
        shapes: Key in MMSegmentation's layout, below ``decode_head.`` ->
            shape.
        num_heads: Attention heads, which the shapes do not tell.

    Returns:
        Keyword arguments; without ``num_classes`` for a text classifier.

    Raises:
        UserError: A weight that every head has is missing.
    """

    def shape_of(key):
        if key not in shapes:
            raise UserError(
                f'{key} is missing: these are not the weights of a '
                f"Mask2Former head in MMSegmentation's layout."
            )
        return list(shapes[key])

    def count_layers(prefix):
        return len(
            {
                key.removeprefix(prefix).split('.')[0]
                for key in shapes
                if key.startswith(prefix)
            }
        )

    encoder = 'pixel_decoder.encoder.layers.'
    decoder = 'transformer_decoder.layers.'
    queries, channels = shape_of('query_feat.weight')
    samples = shape_of(f'{encoder}0.self_attn.attention_weights.bias')[0]
    arguments = dict(
        in_channels=[
            shape_of('pixel_decoder.lateral_convs.0.conv.weight')[1],
            *(
                shape_of(f'pixel_decoder.input_convs.{i}.conv.weight')[1]
                for i in (2, 1, 0)
            ),
        ],
        feat_channels=channels,
        out_channels=shape_of('pixel_decoder.mask_feature.weight')[0],
        num_queries=queries,
        num_heads=num_heads,
        num_encoder_layers=count_layers(encoder),
        encoder_ffn_channels=shape_of(f'{encoder}0.ffn.layers.0.0.bias')[0],
        num_decoder_layers=count_layers(decoder),
        decoder_ffn_channels=shape_of(f'{decoder}0.ffn.layers.0.0.bias')[0],
        # One weight per head, per point, on each of three levels.
        num_points=samples // (3 * num_heads),
    )
    if 'cls_embed.bias' in shapes:
        arguments['num_classes'] = shape_of('cls_embed.bias')[0] - 1
    return arguments


def find_tower(shapes: Mapping[str, Sequence[int]]) -> str:
    """Find the CLIP model of open_clip whose visual tower has such weights.

    Args:
        shapes: Key below ``visual.`` -> shape, of all layers that compute
            the four feature maps, without pooling and projection.

    Raises:
        UserError: There is none.
    """
    shapes = {key: tuple(shape) for key, shape in shapes.items()}
    others = [
        name
        for name in open_clip.list_models()
        if name not in _COMMON_CLIP_MODELS
    ]
    for name in (*_COMMON_CLIP_MODELS, *others):
        if _may_match(name, shapes) and (
            shapes.items() <= _whole_tower(name).items()
        ):
            expected = _without_counters(tower_shapes(name))
            if expected == _without_counters(shapes):
                return name
    raise UserError(
        f'open_clip {open_clip.__version__} has no CLIP tower with the '
        f'{len(shapes)} weights below backbone.visual. If the model is yours, '
        'give its config with --config.'
    )


def _may_match(name, shapes):
    """Rule out most of the other towers without building them."""
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
def tower_shapes(name: str) -> dict[str, tuple]:
    """Return keys and shapes of a visual tower as CLIPBackbone keeps it.

    Args:
        name: A model of open_clip.

    Returns:
        Of the layers that compute the four feature maps; cached, not to be
        modified.
    """
    unused = probe_pyramid(name).unused
    return {
        key: shape
        for key, shape in _whole_tower(name).items()
        if not has_prefix(key, unused)
    }


@lru_cache
def clip_shapes(name: str) -> dict[str, tuple]:
    """Return keys and shapes of a whole CLIP model, with its text tower.

    Args:
        name: A model of open_clip.

    Returns:
        Cached, not to be modified.
    """
    disabled = logging.root.manager.disable
    # open_clip warns that there are no weights; none are asked for.
    logging.disable(logging.WARNING)
    try:
        with torch.device('meta'):
            # The visual tower's shapes are known: a dummy stands for it.
            model = open_clip.create_model(
                name,
                device='meta',
                vision_cfg=dict(_DUMMY_VISION),
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


def _head(shapes):
    """Return the spec of the CLOUDSHead with such weights, and its title."""
    # Neither attention heads nor norm groups show in the shapes.
    arguments = infer_head_arguments(shapes, num_heads=1)
    classifier, title = None, f'{arguments.get("num_classes")} classes'
    if 'num_classes' not in arguments:
        void = shapes.get('cls_embed.void_embedding.weight')
        if void is None:
            raise UserError(
                f'{OURS}cls_embed is neither linear nor compares with text.'
            )
        classifier = dict(type='text', text_embeddings=torch.zeros(1, void[1]))
        arguments['num_classes'] = 1
        title = f'text of {void[1]} dimensions'
    with torch.device('meta'):
        head = CLOUDSHead(num_groups=1, classifier=classifier, **arguments)
    return shapes_of(head), f'CLOUDSHead ({title})'


def _mmseg_backbone(shapes):
    """Return the spec of mmseg's backbone with such weights, and its title."""
    blocks = tuple(
        len({k.split('.')[1] for k in shapes if k.startswith(f'layer{i}.')})
        for i in range(1, 5)
    )
    if blocks in _RESNETS and 'conv1.weight' in shapes:
        depth = _RESNETS[blocks]
        with torch.device('meta'):
            return shapes_of(ResNet(depth)), f'ResNet-{depth}'
    if 'patch_embed.projection.weight' in shapes:
        arguments = _swin_arguments(shapes)
        # Its constructor reads values, which the meta device lacks.
        swin = SwinTransformer(**arguments)
        name = f'Swin {arguments["embed_dims"]} {arguments["depths"]}'
        return shapes_of(swin), name
    raise UserError('the backbone is neither a ResNet nor a Swin Transformer.')


def _swin_arguments(shapes):
    """Infer the arguments of a SwinTransformer from its weights."""
    table = 'stages.{}.blocks.0.attn.w_msa.relative_position_bias_table'
    depths, heads = [], []
    for stage in range(4):
        prefix = f'stages.{stage}.blocks.'
        depths.append(
            len({k.split('.')[3] for k in shapes if k.startswith(prefix)})
        )
        if table.format(stage) not in shapes:
            raise UserError(
                f'backbone.{table.format(stage)} is missing: this is no '
                'Swin Transformer of four stages.'
            )
        heads.append(shapes[table.format(stage)][1])
    side = int(shapes[table.format(0)][0] ** 0.5)
    return dict(
        embed_dims=shapes['patch_embed.projection.weight'][0],
        depths=depths,
        num_heads=heads,
        window_size=(side + 1) // 2,
    )


def _remove_text_files(config, dimensions):
    """Remove from a model's config, in place, all that reads text towers."""
    if isinstance(config, (list, tuple)):
        for item in config:
            _remove_text_files(item, dimensions)
    if not isinstance(config, dict):
        return
    kind = config.get('type')
    if kind == 'text' and dimensions is not None:
        # Only its width shows in the weights.
        config.pop('num_synonyms', None)
        config['text_embeddings'] = None
    for value in config.values():
        _remove_text_files(value, dimensions)
    classifier = config.get('classifier')
    if isinstance(classifier, dict) and classifier.get('type') == 'text':
        if dimensions is not None:
            classifier['text_embeddings'] = torch.zeros(
                config['num_classes'], dimensions
            )


def shapes_of(module: nn.Module) -> dict[str, tuple]:
    """Return keys and shapes of a module's ``state_dict``."""
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def strip_prefix(prefix: str, values: Mapping) -> dict:
    """Return the entries below a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in values.items()
        if key.startswith(prefix)
    }


def add_prefix(prefix: str, values: Mapping) -> dict:
    """Return the entries with a prefix before their keys."""
    return {prefix + key: value for key, value in values.items()}
