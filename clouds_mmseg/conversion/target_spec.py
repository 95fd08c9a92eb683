"""Names and shapes that a conversion has to produce."""

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import open_clip
import torch
from mmengine.registry import init_default_scope
from mmseg.models import ResNet, SwinTransformer
from mmseg.registry import MODELS

from clouds_mmseg.conversion.layouts import OURS, STEPS, TEACHER
from clouds_mmseg.models.backbones.clip import build_visual, probe_pyramid
from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import has_prefix, weights_come_later


def head_arguments(
    shapes: Mapping[str, Sequence[int]], *, num_heads: int = 8
) -> dict:
    """Find the arguments with which a :class:`CLOUDSHead` has such weights.

    Group normalisation leaves no trace of its groups in the weights:
    ``num_groups`` keeps its default, 32. What a text classifier compares
    with is no weight either: ``classifier`` is left out.

    Args:
        shapes (Mapping): Name of a weight in MMSegmentation's layout ->
            shape.
        num_heads (int): Attention heads, which the shapes do not tell.

    Returns:
        dict: Keyword arguments; without ``num_classes`` for a text
        classifier.

    Raises:
        UserError: If a weight that every head has is missing.
    """

    def sides(key):
        if key not in shapes:
            raise UserError(
                f'{key} is missing: these are not the weights of a '
                f"Mask2Former head in MMSegmentation's layout."
            )
        return list(shapes[key])

    def layers(prefix):
        return len(
            {
                key.removeprefix(prefix).split('.')[0]
                for key in shapes
                if key.startswith(prefix)
            }
        )

    encoder = 'pixel_decoder.encoder.layers.'
    decoder = 'transformer_decoder.layers.'
    queries, channels = sides('query_feat.weight')
    places = sides(f'{encoder}0.self_attn.attention_weights.bias')[0]
    arguments = dict(
        in_channels=[
            sides('pixel_decoder.lateral_convs.0.conv.weight')[1],
            *(
                sides(f'pixel_decoder.input_convs.{i}.conv.weight')[1]
                for i in (2, 1, 0)
            ),
        ],
        feat_channels=channels,
        out_channels=sides('pixel_decoder.mask_feature.weight')[0],
        num_queries=queries,
        num_heads=num_heads,
        num_encoder_layers=layers(encoder),
        encoder_ffn_channels=sides(f'{encoder}0.ffn.layers.0.0.bias')[0],
        num_decoder_layers=layers(decoder),
        decoder_ffn_channels=sides(f'{decoder}0.ffn.layers.0.0.bias')[0],
        # Of three maps.
        num_points=places // (3 * num_heads),
    )
    if 'cls_embed.bias' in shapes:
        arguments['num_classes'] = sides('cls_embed.bias')[0] - 1
    return arguments


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


_BACKBONE = 'backbone.'
_VISUAL = 'backbone.visual.'
_VOID = f'{OURS}cls_embed.void_embedding.weight'
_QUERY = f'{OURS}query_feat.weight'
# Blocks of the four stages -> depth.
_RESNETS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}


def deduce(weights, *, backbone, renamed):
    """Build the model whose weights these seem to be, without storage.

    Args:
        weights (dict[str, Tensor]): Under our names.
        backbone (bool): Whether the source has a backbone.
        renamed (bool): Whether a backbone other than CLIP was renamed or is
            to be; otherwise it is taken as it is.

    Returns:
        tuple[dict[str, tuple], str]: Name -> shape of the whole model, and
        the model in words.

    Raises:
        UserError: There is no such model.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    wanted, words = {}, []
    if any(key.startswith(_VISUAL) for key in shapes):
        name = find_tower(under(_VISUAL, shapes))
        wanted.update(prefixed(_VISUAL, tower_shapes(name)))
        words.append(f'CLIPBackbone {name}')
    elif any(key.startswith(_BACKBONE) for key in shapes):
        plain, name = under(_BACKBONE, shapes), 'a backbone as it is'
        if renamed:
            plain, name = _plain_backbone(plain)
        wanted.update(prefixed(_BACKBONE, plain))
        words.append(name)
    elif backbone:
        raise UserError('no weight of the backbone has a name of ours.')
    if _QUERY in shapes:
        head, name = _head(under(OURS, shapes))
        words.append(name)
    else:
        # Any other head of MMSegmentation's: nothing was renamed.
        head = under(OURS, shapes)
        words.append('a head as it is')
    wanted.update(prefixed(OURS, head))
    if any(key.startswith(TEACHER) for key in shapes):
        wanted.update(prefixed(TEACHER, head), **{STEPS: ()})
        words.append('and its moving average')
    # Auxiliary heads and necks are not renamed either.
    known = (_BACKBONE, OURS, 'teacher.')
    wanted.update({k: s for k, s in shapes.items() if not k.startswith(known)})
    return wanted, ', '.join(words)


def _head(shapes):
    """Shapes of the CLOUDSHead that has such weights."""
    # Neither heads of an attention nor groups show in the shapes.
    arguments = head_arguments(shapes, num_heads=1)
    classifier, words = None, f'{arguments.get("num_classes")} classes'
    if 'num_classes' not in arguments:
        void = shapes.get('cls_embed.void_embedding.weight')
        if void is None:
            raise UserError(
                f'{OURS}cls_embed is neither linear nor compares with text.'
            )
        classifier = dict(type='text', text_embeddings=torch.zeros(1, void[1]))
        arguments['num_classes'] = 1
        words = f'text of {void[1]} dimensions'
    with torch.device('meta'):
        head = CLOUDSHead(num_groups=1, classifier=classifier, **arguments)
    return shapes_of(head), f'CLOUDSHead ({words})'


def _plain_backbone(shapes):
    """Shapes of MMSegmentation's backbone that has such weights."""
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
        # It asks for values, which the meta device does not have.
        swin = SwinTransformer(**arguments)
        name = f'Swin {arguments["embed_dims"]} {arguments["depths"]}'
        return shapes_of(swin), name
    raise UserError('the backbone is neither a ResNet nor a Swin Transformer.')


def _swin_arguments(shapes):
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


def of_config(path, weights):
    """Build the model of a config with random weights.

    Args:
        path (str): A config.
        weights (dict[str, Tensor]): Under our names; they tell how many
            dimensions text embeddings have, so that no text tower is needed.

    Returns:
        tuple[dict[str, tuple], str, Config]: Name -> shape of the whole
        model, the model in words, and the config.

    Raises:
        UserError: There is no such config.
    """
    if not Path(path).is_file():
        raise UserError(f'--config {path}: there is no such file')
    cfg = read_file(path)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = copy.deepcopy(cfg.model)
    dimensions = weights[_VOID].shape[1] if _VOID in weights else None
    _without_weights(model, dimensions)
    with weights_come_later(True):
        shapes = shapes_of(MODELS.build(model))
    return shapes, f'the model of {path}', cfg


def _without_weights(config, dimensions):
    """Take out of a model's config, in place, all that reads weights."""
    if isinstance(config, (list, tuple)):
        for item in config:
            _without_weights(item, dimensions)
    if not isinstance(config, dict):
        return
    kind = config.get('type')
    if kind == 'TIMMBackbone':
        config['pretrained'] = False
    elif kind == 'text' and dimensions is not None:
        # Only its width shows in the weights.
        config.pop('num_synonyms', None)
        config['text_embeddings'] = None
    for value in config.values():
        _without_weights(value, dimensions)
    classifier = config.get('classifier')
    if isinstance(classifier, dict) and classifier.get('type') == 'text':
        if dimensions is not None:
            classifier['text_embeddings'] = torch.zeros(
                config['num_classes'], dimensions
            )


def shapes_of(module):
    """Return names and shapes of a module's ``state_dict``."""
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def under(prefix, values):
    """Return the entries below a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in values.items()
        if key.startswith(prefix)
    }


def prefixed(prefix, values):
    """Return the entries with a prefix before their names."""
    return {prefix + key: value for key, value in values.items()}
