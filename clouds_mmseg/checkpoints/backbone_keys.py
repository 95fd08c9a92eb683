"""Names of backbones: those of published heads, and ours.

Left is what detectron2's models call a part below ``backbone.``, right what
ours call it below ``backbone.``.
"""

from clouds_mmseg.checkpoints.key_table import KeyTable

# CLIPBackbone keeps the visual tower alone.
CLIP = KeyTable({'clip_model.visual': 'visual'})


def _resnet():
    """detectron2's ResNet -> MMSegmentation's."""
    parts = {'stem.conv1.norm': 'bn1', 'stem.conv1': 'conv1'}
    for stage in range(1, 5):
        here, there = f'res{stage + 1}.{{}}', f'layer{stage}.{{}}'
        parts[f'{here}.shortcut.norm'] = f'{there}.downsample.1'
        parts[f'{here}.shortcut'] = f'{there}.downsample.0'
        for conv in range(1, 4):
            parts[f'{here}.conv{conv}.norm'] = f'{there}.bn{conv}'
            parts[f'{here}.conv{conv}'] = f'{there}.conv{conv}'
    return KeyTable(parts)


RESNET = _resnet()

# The Swin Transformer of its authors, which Mask2Former took over ->
# MMSegmentation's. The merging of patches also orders channels otherwise:
# see merge_order().
SWIN = KeyTable(
    {
        'patch_embed.proj': 'patch_embed.projection',
        'patch_embed.norm': 'patch_embed.norm',
        'absolute_pos_embed': 'absolute_pos_embed',
        'layers.{}.blocks.{}.attn': 'stages.{}.blocks.{}.attn.w_msa',
        'layers.{}.blocks.{}.mlp.fc1': 'stages.{}.blocks.{}.ffn.layers.0.0',
        'layers.{}.blocks.{}.mlp.fc2': 'stages.{}.blocks.{}.ffn.layers.1',
        'layers.{}.blocks.{}.norm1': 'stages.{}.blocks.{}.norm1',
        'layers.{}.blocks.{}.norm2': 'stages.{}.blocks.{}.norm2',
        'layers.{}.downsample': 'stages.{}.downsample',
        **{f'norm{stage}': f'norm{stage}' for stage in range(4)},
    }
)


def is_merge(key):
    """Whether our name is one whose channels Swin's authors order otherwise.

    Args:
        key (str): Whole name in our layout.

    Returns:
        bool: True for the parts of a merging of patches.
    """
    return key.startswith('backbone.stages.') and '.downsample.' in key


def merge_order(value):
    """Order the channels of merged patches as MMSegmentation does.

    Four neighbours of C channels each become one vector: its authors put
    neighbour after neighbour, column by column; ``nn.Unfold`` puts channel
    after channel, each with its neighbours row by row.

    Args:
        value (Tensor): (..., 4 C).

    Returns:
        Tensor: (..., 4 C).
    """
    neighbours = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2)


def authors_order(value):
    """Undo :func:`merge_order`.

    Args:
        value (Tensor): (..., 4 C).

    Returns:
        Tensor: (..., 4 C).
    """
    neighbours = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return neighbours.transpose(-1, -2).flatten(-2)
