import pytest
import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError, WeightFileError
from clouds_mmseg.weights.load import fetch_initial_weights

ADDRESS = 'https://example.invalid/small-0badcafe.pth'


class Small(BaseModule):
    def __init__(self, init_cfg):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)


def model_with(init_cfg):
    model = BaseModule()
    model.backbone = Small(init_cfg)
    return model


def test_a_file_of_the_folder_is_what_training_starts_from(pretrained_folder):
    expected = Small(None)
    nn.init.normal_(expected.conv.weight)
    torch.save(
        dict(state_dict=expected.state_dict()),
        pretrained_folder / 'small-0badcafe.pth',
    )
    model = model_with(dict(type='Pretrained', checkpoint=ADDRESS))
    fetch_initial_weights(model)
    model.init_weights()
    assert torch.equal(model.backbone.conv.weight, expected.conv.weight)


def test_a_missing_file_is_named_before_training(pretrained_folder):
    model = model_with([dict(type='Pretrained', checkpoint=ADDRESS)])
    with pytest.raises(MissingWeightsError) as error:
        fetch_initial_weights(model)
    message = str(error.value)
    assert message.startswith('model.backbone, https://example.invalid')
    assert str(pretrained_folder / 'small-0badcafe.pth') in message


def test_a_whole_checkpoint_needs_no_pretrained_weights(pretrained_folder):
    constant = dict(type='Constant', layer='Conv2d', val=3.0)
    model = model_with([dict(type='Pretrained', checkpoint=ADDRESS), constant])
    fetch_initial_weights(model, overwritten=lambda part: True)
    model.init_weights()
    assert (model.backbone.conv.weight == 3).all()
    alone = model_with(dict(type='Pretrained', checkpoint=ADDRESS))
    fetch_initial_weights(alone, overwritten=lambda part: True)
    alone.init_weights()


def test_a_run_stops_before_it_opens_a_dataset(pretrained_folder, build):
    runner = build(
        model__backbone__init_cfg=dict(type='Pretrained', checkpoint=ADDRESS),
        train_dataloader__dataset__data_root='/no/where',
    )
    with pytest.raises(MissingWeightsError, match='0badcafe'):
        runner.train()


def test_a_resumed_run_needs_no_pretrained_weights(
    pretrained_folder, build, trained
):
    runner = build(
        model__backbone__init_cfg=dict(type='Pretrained', checkpoint=ADDRESS),
        resume=str(trained / 'iter_4.pth'),
        train_cfg__max_iters=5,
    )
    runner.train()
    assert runner.iter == 5


def test_weights_of_something_else_are_refused(pretrained_folder):
    path = pretrained_folder / 'other.pth'
    torch.save(dict(layer1=torch.zeros(2)), path)
    model = model_with(dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(UserError, match='no weight of model.backbone .Small'):
        fetch_initial_weights(model)
    path.write_bytes(b'<!DOCTYPE html><html>')
    with pytest.raises(WeightFileError, match='web page'):
        fetch_initial_weights(model)


def test_what_stays_random_is_said(pretrained_folder, caplog):
    path = pretrained_folder / 'part.pth'
    weights = {f'backbone.{k}': v for k, v in Small(None).state_dict().items()}
    del weights['backbone.norm.bias']
    torch.save(weights, path)
    model = model_with(dict(type='Pretrained', checkpoint=str(path)))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'clouds_mmseg.weights.load.print_log',
            lambda text, logger: said.append(text),
        )
        fetch_initial_weights(model)
    assert said == [
        f'model.backbone starts from {path}: 5 of 6 tensors; random are '
        'norm.bias'
    ]


def test_the_zoos_names_are_found(pretrained_folder):
    """`pretrained=` of a segmentor reaches its backbone as init_cfg."""
    cfg = dict(
        type='ResNetV1c',
        depth=18,
        base_channels=4,
        stem_channels=4,
        norm_cfg=dict(type='BN'),
    )
    backbone = MODELS.build(cfg)
    torch.save(
        backbone.state_dict(), pretrained_folder / 'resnet18_v1c-b5776b93.pth'
    )
    model = BaseModule()
    model.backbone = MODELS.build(
        dict(cfg, pretrained='open-mmlab://resnet18_v1c')
    )
    fetch_initial_weights(model)
    model.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value)
