"""Names and shapes that a conversion has to arrive at."""

import copy
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmseg.models import ResNet, SwinTransformer
from mmseg.registry import MODELS

from clouds_mmseg.checkpoints.clip_shapes import find_tower, tower_shapes
from clouds_mmseg.checkpoints.head_shapes import head_arguments
from clouds_mmseg.checkpoints.layouts import OURS, STEPS, TEACHER
from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.later_weights import weights_come_later

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
