"""What a backbone reads when a checkpoint holds its weights."""

import pytest
import timm
import torch
from mmengine.config import ConfigDict

from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.models import CLIPBackbone, FrozenTIMMBackbone
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import without_pretrained_init

TIMM = 'test_resnet'  # timm's own for tests


@pytest.fixture
def weights(tmp_path):
    """A file as a training begins with."""
    torch.manual_seed(0)
    path = tmp_path / 'backbone.pth'
    torch.save(timm.create_model(TIMM).state_dict(), path)
    return path


@pytest.fixture
def changes(weights):
    """Of the tiny config: that backbone."""
    width = timm.create_model(TIMM, features_only=True)
    return dict(
        model__backbone=dict(
            _delete_=True,
            type='FrozenTIMMBackbone',
            model_name=TIMM,
            weights=str(weights),
        ),
        model__decode_head__in_channels=width.feature_info.channels()[-1],
    )


def test_a_checkpoint_is_enough_for_a_test(build, weights, changes, caplog):
    runner = build(**changes)
    runner.train()
    expected = unwrap_model(runner.model).backbone.state_dict()
    checkpoint = str(runner.work_dir) + '/iter_4.pth'
    weights.unlink()
    for key in ('load_from', 'resume'):
        tested = build(**{key: checkpoint}, **changes)
        tested.test()
        assert tested._has_loaded
        found = unwrap_model(tested.model).backbone.state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.items())
    assert 'random weights' not in caplog.text


def test_the_newest_checkpoint_is_enough_to_continue(build, weights, changes):
    first = build(**changes)
    first.train()
    weights.unlink()
    again = build(resume=True, work_dir=str(first.work_dir), **changes)
    expected = unwrap_model(first.model).state_dict()
    again.train()
    assert again._has_loaded and again.iter == first.iter
    found = unwrap_model(again.model).state_dict()
    assert all(
        torch.equal(found[key], value) for key, value in expected.items()
    )


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone', 'backbone.stem'])
def test_what_a_checkpoint_may_lack_is_read(build, weights, changes, prefix):
    checkpoint = weights.with_name('of_a_head.pth')
    torch.save(dict(state_dict={}), checkpoint)
    weights.unlink()
    with pytest.raises(UserError, match='backbone.pth'):
        build(
            load_from=str(checkpoint),
            load_cfg=dict(allow_missing=[prefix]),
            **changes,
        )


def test_a_tower_that_begins_anew_reads_them(build, weights, changes):
    first = build(**changes)
    first.train()
    other = timm.create_model(TIMM)
    torch.save(other.state_dict(), weights)
    runner = build(
        load_from=str(first.work_dir) + '/iter_4.pth',
        load_cfg=dict(reinit=['backbone']),
        train_cfg__max_iters=1,
        **changes,
    )
    runner.train()
    found = unwrap_model(runner.model).backbone.state_dict()
    key = next(k for k in found if k.endswith('conv1.weight'))
    expected = dict(other.state_dict())
    assert any(torch.equal(found[key], v) for v in expected.values())
    # A head that begins anew needs no file of the tower.
    weights.unlink()
    build(
        load_from=str(first.work_dir) + '/iter_4.pth',
        load_cfg=dict(reinit=['decode_head.conv_seg']),
        **changes,
    )


def test_a_training_that_starts_anew_reads_them(build, weights, changes):
    weights.unlink()
    for resume in (False, True):  # there is nothing to resume
        with pytest.raises(UserError, match='backbone.pth'):
            build(resume=resume, **changes)


def test_a_resume_that_finds_nothing_starts_with_load_from(
    build, weights, changes, tmp_path
):
    first = build(**changes)
    first.train()
    weights.unlink()
    second = build(
        resume=True,
        load_from=str(first.work_dir) + '/iter_4.pth',
        work_dir=str(tmp_path / 'second'),
        **changes,
    )
    second.train()
    assert second._has_loaded


def test_clip_too_is_told(tmp_path, caplog):
    absent = str(tmp_path / 'absent.pt')
    tower = CLIPBackbone('RN50', pretrained=absent, load_pretrained=False)
    timm_backbone = FrozenTIMMBackbone(
        TIMM, weights=absent, load_pretrained=False
    )
    # The framework's initialisation has nothing to do.
    assert tower.weights_loaded and timm_backbone.weights_loaded
    assert 'random weights' not in caplog.text
    with pytest.raises(UserError, match='absent.pt'):
        CLIPBackbone('RN50', pretrained=absent)


def test_every_kind_of_backbone_is_told():
    clip = dict(type='CLIPBackbone', model_name='RN50', pretrained='openai')
    timm_backbone = dict(type='FrozenTIMMBackbone', model_name=TIMM)
    zoo = dict(type='mmseg.TIMMBackbone', model_name=TIMM, pretrained=True)
    resnet = dict(type='ResNet', depth=18, init_cfg=dict(type='Pretrained'))
    model = ConfigDict(
        type='SegTTAModel',
        module=dict(type='DGSegmentor', backbone=clip, necks=[zoo, resnet]),
        test_cfg=dict(crop_size=(64, 64)),
        backbone=timm_backbone,
    )
    before = model.to_dict()
    found = without_pretrained_init(model)
    assert model.to_dict() == before
    assert found == dict(
        type='SegTTAModel',
        module=dict(
            type='DGSegmentor',
            backbone=dict(clip, load_pretrained=False),
            # init_weights reads the last: a test does not call it.
            necks=[dict(zoo, pretrained=False), resnet],
        ),
        test_cfg=dict(crop_size=(64, 64)),
        backbone=dict(timm_backbone, load_pretrained=False),
    )


@pytest.mark.parametrize('phase', ['train', 'test'])
def test_a_checkpoint_without_the_backbone_is_refused(
    build, weights, changes, tmp_path, phase
):
    """Its random weights would otherwise be tested, or trained upon."""
    weights.unlink()
    whole = build(
        **dict(changes, model__backbone__weights=None)
    ).model.state_dict()
    path = tmp_path / 'of_a_head.pth'
    head = {k: v for k, v in whole.items() if not k.startswith('backbone.')}
    torch.save(dict(state_dict=head), path)
    runner = build(load_from=str(path), **changes)
    with pytest.raises(UserError, match='75 keys missing'):
        getattr(runner, phase)()
