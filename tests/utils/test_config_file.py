"""A checkpoint's own config, compared with the config of a test."""

import pytest
from mmengine.config import Config

from clouds_mmseg.utils.config_file import (
    model_differences,
    parse_config_text,
)


def config(**changes):
    cfg = Config(
        dict(
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(
                    mean=[1.5, 2, 3], std=(1.0, 1.0, 1.0), size=(32, 32)
                ),
                backbone=dict(type='ResNet', depth=18, pretrained='a.pth'),
                decode_head=dict(num_heads=8, loss_decode=dict(type='X')),
                test_cfg=dict(mode='whole'),
            ),
            other=-1,
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.usefixtures('formatted_configs')
def test_mmengines_text_is_read():
    cfg = config()
    found = parse_config_text(cfg.pretty_text)
    assert found['other'] == -1
    assert found['model']['backbone'] == cfg.model.backbone.to_dict()
    assert model_differences(dict(cfg=cfg.pretty_text), cfg) == []


def test_what_changes_the_outputs_is_named():
    meta = dict(cfg=config().pretty_text)
    other = config(
        **{
            'model.data_preprocessor.mean': [0, 2, 3],
            'model.decode_head.num_heads': 4,
            # These change training alone.
            'model.type': 'SelfTrainingSegmentor',
            'model.backbone.pretrained': None,
            'model.data_preprocessor.size': (64, 64),
            'model.decode_head.loss_decode.type': 'Y',
            'model.decode_head.dropout_ratio': 0.1,
            'model.test_cfg.mode': 'slide',
        }
    )
    assert model_differences(meta, other) == [
        'model.data_preprocessor.mean: [1.5, 2, 3] -> [0, 2, 3]',
        'model.decode_head.num_heads: 8 -> 4',
    ]
    wrapped = Config(dict(model=dict(type='TTA', module=other.model)))
    assert len(model_differences(meta, wrapped)) == 2


def test_nothing_is_run(tmp_path):
    mark = tmp_path / 'ran'
    text = f'x = open({str(mark)!r}, "w")\nmodel = dict(a=1, **y)\nz = [1, 2]'
    found = parse_config_text(text)
    # What is neither a value nor a container stays text.
    assert found.pop('x').startswith("open('")
    assert found == dict(model=dict(a=1), z=[1, 2])
    assert not mark.exists()
    assert parse_config_text('no config (') is None
    for meta in (None, {}, dict(cfg='z = 1'), dict(cfg=None)):
        assert model_differences(meta, config()) == []
