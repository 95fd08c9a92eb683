import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import (
    CheckpointMismatchError,
    has_prefix,
    load_strictly,
)


def make_module():
    torch.manual_seed(0)
    return nn.ModuleDict({'conv': nn.Conv2d(2, 3, 1), 'bn': nn.BatchNorm2d(3)})


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_same(module, state_dict):
    for key, value in module.state_dict().items():
        assert torch.equal(value, state_dict[key]), key


KEYS = sorted(make_module().state_dict())


@settings(max_examples=30, deadline=None)
@given(
    dropped=st.sets(st.sampled_from(KEYS), max_size=3),
    extra=st.sets(st.sampled_from(['head.weight', 'x']), max_size=2),
    reshaped=st.sets(st.sampled_from(KEYS), max_size=2),
)
def test_agrees_with_torch_and_is_all_or_nothing(dropped, extra, reshaped):
    weights = {
        k: torch.full_like(v, 2) for k, v in snapshot(make_module()).items()
    }
    weights = {
        k: v.repeat(2) if k in reshaped and v.ndim == 1 else v
        for k, v in weights.items()
        if k not in dropped
    } | {k: torch.zeros(1) for k in extra}
    by_torch = make_module()
    try:
        by_torch.load_state_dict(weights, strict=True)
        fits = True
    except RuntimeError:
        fits = False

    module = make_module()
    before = snapshot(module)
    if fits:
        load_strictly(module, weights, source='w.pth')
        assert_same(module, by_torch.state_dict())
    else:
        with pytest.raises(CheckpointMismatchError) as caught:
            load_strictly(module, weights, source='w.pth')
        assert_same(module, before)
        tolerated = {'bn.num_batches_tracked'}
        assert set(caught.value.missing) == dropped - tolerated
        assert set(caught.value.unexpected) == extra


def test_message_names_source_module_keys_and_shapes():
    weights = snapshot(make_module())
    del weights['conv.bias']
    weights['head.fc'] = torch.zeros(7, 5)
    weights['bn.weight'] = torch.zeros(9)
    with pytest.raises(CheckpointMismatchError) as caught:
        load_strictly(make_module(), weights, source='some/w.pth')
    message = str(caught.value)
    assert 'some/w.pth does not fit ModuleDict' in message
    assert '1 keys missing, 1 unexpected, 1 of another shape' in message
    assert 'conv.bias (3,)' in message
    assert 'head.fc (7, 5)' in message
    assert 'bn.weight (9,) in the weights, (3,) expected' in message
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, RuntimeError)


def test_message_shows_at_most_twenty_keys_of_a_kind():
    weights = snapshot(make_module())
    weights |= {f'extra{i:02d}': torch.zeros(1) for i in range(33)}
    with pytest.raises(CheckpointMismatchError) as caught:
        load_strictly(make_module(), weights, source='w.pth')
    message = str(caught.value)
    assert '33 unexpected' in message and '... and 13 more' in message
    assert 'extra19' in message and 'extra20' not in message
    assert len(caught.value.unexpected) == 33


def test_error_crosses_processes():
    with pytest.raises(CheckpointMismatchError) as caught:
        load_strictly(make_module(), {}, source='w.pth')
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.missing == caught.value.missing != {}


def test_allowed_prefixes_only():
    module = make_module()
    weights = {'conv.weight': torch.ones(3, 2, 1, 1), 'old.a': torch.ones(1)}
    load_strictly(
        module,
        weights,
        source='w',
        allow_missing=['conv.bias', 'bn'],
        allow_unexpected=('old',),
    )
    assert (module['conv'].weight == 1).all()
    with pytest.raises(CheckpointMismatchError, match='1 keys missing'):
        load_strictly(
            module,
            weights,
            source='w',
            allow_missing=['bn'],
            allow_unexpected=['old'],
        )
    # A shape that differs is an error wherever it is.
    with pytest.raises(CheckpointMismatchError, match='1 of another shape'):
        load_strictly(
            module,
            {'conv.weight': torch.ones(1)},
            source='w',
            allow_missing=['bn', 'conv'],
        )


def test_prefixes_are_whole_segments():
    assert has_prefix('head', ['head'])
    assert has_prefix('head.weight', ['head'])
    assert has_prefix('head.weight', ['head.'])
    assert not has_prefix('header.weight', ['head'])
    assert has_prefix('anything', [''])
    assert not has_prefix('anything', [])


def test_converts_dtype_and_tolerates_the_missing_counter():
    module = make_module()
    weights = {
        k: v.half() if v.is_floating_point() else v
        for k, v in snapshot(module).items()
        if not k.endswith('num_batches_tracked')
    }
    load_strictly(module, weights, source='w')
    assert module['conv'].weight.dtype == torch.float32
    assert torch.equal(module['conv'].weight, weights['conv.weight'].float())


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match=r"write \['head'\]"):
        load_strictly(make_module(), {}, source='w', allow_unexpected='head')
    weights = snapshot(make_module()) | {'conv.bias': 'abc'}
    with pytest.raises(UserError, match='conv.bias must be a tensor, got str'):
        load_strictly(make_module(), weights, source='w')
