"""What FSDP2 refuses; that it trains what DDP does: test_self_training.py."""

import pytest
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from clouds_mmseg.engine import DGEMAHook, FullyShardedDataParallel2
from clouds_mmseg.engine.sharding import refuse_other_averages
from clouds_mmseg.utils.errors import UserError


def build(backbone):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='DGSegmentor',
                data_preprocessor=dict(type='SegDataPreProcessor'),
                backbone=backbone,
                decode_head=dict(
                    type='FCNHead',
                    in_index=0,
                    in_channels=64,
                    channels=8,
                    num_classes=3,
                ),
            )
        )


@pytest.mark.parametrize(
    'backbone, said',
    [
        (dict(type='TIMMTower', model_name='test_vit'), 'is frozen'),
        (
            dict(
                type='TIMMTower',
                model_name='test_vit',
                adapter=dict(type='LoRA'),
            ),
            'adapter has few',
        ),
        (dict(type='ResNet', depth=18, base_channels=64), 'ResNet has none'),
    ],
)
def test_what_cannot_be_sharded_is_refused(backbone, said):
    with pytest.raises(UserError, match=said):
        FullyShardedDataParallel2(build(backbone))


def test_averages_of_the_whole_model_are_refused():
    with pytest.raises(UserError, match='EMAHook copies'):
        refuse_other_averages([DGEMAHook()])
