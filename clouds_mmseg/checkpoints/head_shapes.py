"""Read the arguments of a head off the shapes of its weights."""

from collections.abc import Mapping, Sequence

from clouds_mmseg.utils.errors import UserError


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
