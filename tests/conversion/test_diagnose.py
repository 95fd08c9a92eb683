import pytest
import torch
from mmengine.config import Config
from mmseg.models import FCNHead
from torch import nn

from clouds_mmseg.conversion.diagnose import (
    classes_of,
    classes_of_config,
    diagnose_mismatch,
)
from clouds_mmseg.weights.load import CheckpointMismatchError

CITY = dict(type='CityscapesDataset')


def explained(weights=(), meta=None, ours=3, data=None):
    model = nn.ModuleDict(
        dict(decode_head=FCNHead(in_channels=4, channels=4, num_classes=ours))
    )
    cfg = Config(dict(test_dataloader=dict(dataset=data or {})))
    model.decode_head = model['decode_head']
    checkpoint = dict(state_dict=dict(weights), meta=meta)
    error = CheckpointMismatchError('THE LIST', missing={'decode_head.x': ()})
    return str(
        diagnose_mismatch(error, 'w.pth', checkpoint, model, cfg, 'test')
    )


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('a', 'b'))),
        dict(dataset_meta=dict(CLASSES=['a', 'b'])),
        dict(CLASSES=['a', 'b'], PALETTE=[]),
    ],
)
def test_classes_of_every_version(meta):
    assert classes_of(meta) == ['a', 'b']
    assert classes_of({}) is classes_of(None) is classes_of('x') is None


def test_classes_of_a_config():
    known = classes_of_config(dict(x=[dict(dataset=CITY)]))
    assert len(known['classes']) == 19 and len(known['palette'][0]) == 3
    own = dict(CITY, metainfo=dict(classes=('a', 'b')))
    assert classes_of_config(own) == dict(classes=['a', 'b'], palette=[])
    assert classes_of_config(dict(dataset=dict(type='Unknown'))) is None


def test_another_number_of_classes_says_which():
    meta = dict(dataset_meta=dict(classes=['road', 'sky', 'lamp', 'cat']))
    data = dict(CITY, metainfo=dict(classes=['road', 'sky', 'dog']))
    text = explained(meta=meta, data=data)
    assert 'w.pth was trained for 4 classes (road, sky, lamp, cat)' in text
    assert 'has 3 (only the checkpoint has lamp, cat; only the config' in text
    assert 'config has dog)' in text and 'THE LIST' in text
    assert 'has 3\n' in explained(meta=meta)


def test_the_number_shows_in_the_weights():
    weights = {'decode_head.cls_embed.bias': torch.zeros(134)}
    text = explained(weights, data=dict(CITY))
    assert 'trained for 133 classes, the model of this config has 3 (' in text
    weights = {'decode_head.conv_seg.bias': torch.zeros(150)}
    assert 'trained for 150 classes, the' in explained(weights)


def test_other_projects_are_converted_first():
    weights = {
        'sem_seg_head.predictor.query_feat.weight': torch.zeros(1),
        'backbone.clip_model.visual.x': torch.zeros(1),
    }
    text = explained(weights)
    assert 'names of official CLOUDS' in text
    assert 'clouds convert w.pth' in text


def test_anything_else_is_another_architecture():
    assert explained({'fc.weight': torch.zeros(1)}).startswith(
        'w.pth is a checkpoint for another architecture\nTHE LIST'
    )
