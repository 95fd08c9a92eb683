"""Names of a head's weights: detectron2's layout and MMSegmentation's.

Mask2Former, FC-CLIP and CLOUDS were published in detectron2's layout. Only
names differ: both layouts keep the projections of queries, keys and values
in one ``in_proj_weight``, so nothing has to be split, joined or transposed.
"""

from clouds_mmseg.checkpoints.key_table import KeyTable

# detectron2's name of a part -> ours.
HEAD = KeyTable(
    {
        # pixel decoder
        'pixel_decoder.input_proj.{}.0': 'pixel_decoder.input_convs.{}.conv',
        'pixel_decoder.input_proj.{}.1': 'pixel_decoder.input_convs.{}.gn',
        'pixel_decoder.adapter_1.norm': 'pixel_decoder.lateral_convs.0.gn',
        'pixel_decoder.adapter_1': 'pixel_decoder.lateral_convs.0.conv',
        'pixel_decoder.layer_1.norm': 'pixel_decoder.output_convs.0.gn',
        'pixel_decoder.layer_1': 'pixel_decoder.output_convs.0.conv',
        'pixel_decoder.mask_features': 'pixel_decoder.mask_feature',
        'pixel_decoder.transformer.level_embed': (
            'pixel_decoder.level_encoding.weight'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.self_attn': (
            'pixel_decoder.encoder.layers.{}.self_attn'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.linear1': (
            'pixel_decoder.encoder.layers.{}.ffn.layers.0.0'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.linear2': (
            'pixel_decoder.encoder.layers.{}.ffn.layers.1'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.norm1': (
            'pixel_decoder.encoder.layers.{}.norms.0'
        ),
        'pixel_decoder.transformer.encoder.layers.{}.norm2': (
            'pixel_decoder.encoder.layers.{}.norms.1'
        ),
        # transformer decoder
        'predictor.transformer_cross_attention_layers.{}.multihead_attn': (
            'transformer_decoder.layers.{}.cross_attn.attn'
        ),
        'predictor.transformer_cross_attention_layers.{}.norm': (
            'transformer_decoder.layers.{}.norms.0'
        ),
        'predictor.transformer_self_attention_layers.{}.self_attn': (
            'transformer_decoder.layers.{}.self_attn.attn'
        ),
        'predictor.transformer_self_attention_layers.{}.norm': (
            'transformer_decoder.layers.{}.norms.1'
        ),
        'predictor.transformer_ffn_layers.{}.linear1': (
            'transformer_decoder.layers.{}.ffn.layers.0.0'
        ),
        'predictor.transformer_ffn_layers.{}.linear2': (
            'transformer_decoder.layers.{}.ffn.layers.1'
        ),
        'predictor.transformer_ffn_layers.{}.norm': (
            'transformer_decoder.layers.{}.norms.2'
        ),
        'predictor.decoder_norm': 'transformer_decoder.post_norm',
        # what is learned for queries and levels
        'predictor.query_feat': 'query_feat',
        'predictor.query_embed': 'query_embed',
        'predictor.level_embed': 'level_embed',
        # predictions; three linear layers alternate with activations
        'predictor.mask_embed.layers.0': 'mask_embed.0',
        'predictor.mask_embed.layers.1': 'mask_embed.2',
        'predictor.mask_embed.layers.2': 'mask_embed.4',
        # text classifier
        'predictor._mask_pooling_proj': 'cls_embed.mask_pooling_proj',
        'predictor.class_embed.layers.0': 'cls_embed.embed.0',
        'predictor.class_embed.layers.1': 'cls_embed.embed.2',
        'predictor.class_embed.layers.2': 'cls_embed.embed.4',
        'predictor.logit_scale': 'cls_embed.logit_scale',
        # linear classifier
        'predictor.class_embed.weight': 'cls_embed.weight',
        'predictor.class_embed.bias': 'cls_embed.bias',
    }
)
# What the first release of Mask2Former called some of them.
OLD_HEAD = KeyTable({'predictor.static_query': 'query_feat'})
