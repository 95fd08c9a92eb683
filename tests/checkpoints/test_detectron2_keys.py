import json

import pytest
import torch

from clouds_mmseg.checkpoints.detectron2_keys import (
    head_from_detectron2,
    rename,
)
from clouds_mmseg.checkpoints.head_shapes import head_arguments
from clouds_mmseg.models import CLOUDSHead
from clouds_mmseg.utils.errors import UserError


@pytest.mark.parametrize('name', ['rn50', 'rn101', 'convnext_large'])
def test_a_whole_official_checkpoint_fills_the_default_head(
    reference_dir, name
):
    path = reference_dir / f'clouds_official_{name}_keys.json'
    shapes = head_from_detectron2(json.loads(path.read_text()))
    arguments = head_arguments(shapes)
    with torch.device('meta'):
        head = CLOUDSHead(**arguments)
    ours = {k: list(v.shape) for k, v in head.state_dict().items()}
    assert ours == shapes
    with torch.device('meta'):
        default = CLOUDSHead(
            in_channels=arguments['in_channels'], num_classes=19
        )
    assert default.state_dict().keys() == shapes.keys()
    assert arguments['num_heads'] == 8 and arguments['num_points'] == 4


def test_no_two_weights_get_one_name(reference_dir):
    path = reference_dir / 'clouds_official_rn50_keys.json'
    weights = json.loads(path.read_text())
    count = sum(key.startswith('sem_seg_head.') for key in weights)
    assert len(head_from_detectron2(weights)) == count


def test_void_comes_along_where_text_is_compared():
    weights = {
        'void_embedding.weight': 1,
        'sem_seg_head.predictor.query_feat.weight': 2,
        'backbone.stem.weight': 3,
    }
    assert head_from_detectron2(weights) == {'query_feat.weight': 2}
    weights['sem_seg_head.predictor.logit_scale'] = 4
    assert head_from_detectron2(weights) == {
        'query_feat.weight': 2,
        'cls_embed.logit_scale': 4,
        'cls_embed.void_embedding.weight': 1,
    }


def test_whole_segments_are_compared():
    assert rename('predictor.decoder_normal.weight') is None
    assert rename('pixel_decoder.layer_12.weight') is None
    assert rename('predictor.transformer_ffn_layers.12.norm.bias') == (
        'transformer_decoder.layers.12.norms.2.bias'
    )


def test_what_is_no_head_is_named():
    with pytest.raises(UserError, match='none of Mask2Former.*strange'):
        head_from_detectron2({'sem_seg_head.strange.weight': 0})
    with pytest.raises(UserError, match="begin with 'sem_seg_head.'.*model"):
        head_from_detectron2({'model.weight': 0})
    with pytest.raises(UserError, match='query_feat.weight is missing'):
        head_arguments({'backbone.weight': (1,)})
