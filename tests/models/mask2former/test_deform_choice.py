"""Which implementation of deformable sampling runs, and who decides it."""

import pytest
import torch

from clouds_mmseg.models import CLOUDSHead
from clouds_mmseg.models.mask2former import deform_attn
from clouds_mmseg.models.mask2former.deform_attn import (
    IMPLEMENTATIONS,
    check_implementation,
    default_implementation,
    ms_deform_attn,
)
from clouds_mmseg.utils.errors import UserError

SHAPES = [(2, 3), (4, 5)]


def draw():
    """Values, locations and weights of a layer, on the CPU."""
    return (
        torch.rand(1, 26, 2, 4),
        torch.rand(1, 26, 2, 2, 3, 2),
        torch.rand(1, 26, 2, 2, 3),
    )


@pytest.fixture
def ran(monkeypatch):
    """Names of the implementations that ran."""
    names = []

    def recorded(name, sample):
        def run(*args):
            names.append(name)
            return sample(*args)

        return run

    for name, sample in list(IMPLEMENTATIONS.items()):
        monkeypatch.setitem(IMPLEMENTATIONS, name, recorded(name, sample))
    return names


@pytest.mark.parametrize(
    'device, name',
    [('cpu', 'cpu'), ('cuda', 'grid_sample'), ('mps', 'grid_sample')],
)
def test_the_device_alone_decides(device, name):
    assert default_implementation(device) == name


def test_the_option_of_the_config_decides_in_every_layer(
    tiny, make_feats, ran
):
    results = {}
    for option in (None, 'cpu', 'grid_sample'):
        torch.manual_seed(0)
        head = CLOUDSHead(**tiny, deformable_sampling=option).eval()
        with torch.no_grad():
            # Else every pixel reads the same places.
            for layer in head.pixel_decoder.encoder.layers:
                layer.self_attn.sampling_offsets.weight.normal_(std=0.3)
            results[option] = head.last_prediction(make_feats())[1]
        layers = tiny['num_encoder_layers']
        assert ran == [option or 'cpu'] * layers
        ran.clear()
    assert torch.equal(results[None], results['cpu'])
    torch.testing.assert_close(
        results['grid_sample'], results['cpu'], atol=1e-4, rtol=1e-4
    )


# torch would rather export, as it says.
@pytest.mark.filterwarnings('ignore:`torch.jit.trace` is deprecated')
def test_a_traced_model_is_right_for_other_inputs():
    value, locations, weights = draw()
    traced = torch.jit.trace(
        lambda *inputs: ms_deform_attn(inputs[0], SHAPES, *inputs[1:]),
        (value, locations, weights),
    )
    value, locations, weights = (x.flip(1) for x in draw())
    torch.testing.assert_close(
        traced(value, locations, weights),
        ms_deform_attn(value, SHAPES, locations, weights),
    )


def test_an_unknown_name_is_refused_when_the_head_is_built(tiny):
    with pytest.raises(UserError, match='one of cpu, grid_sample, triton, mm'):
        CLOUDSHead(**tiny, deformable_sampling='rows')


@pytest.mark.parametrize(
    'name, package', [('triton', 'triton'), ('mmcv', 'mmcv with compiled ops')]
)
def test_a_missing_package_is_named(tiny, monkeypatch, name, package):
    monkeypatch.setattr(
        deform_attn.importlib.util, 'find_spec', lambda name: None
    )
    with pytest.raises(UserError, match=f'{name!r} needs {package}, which'):
        CLOUDSHead(**tiny, deformable_sampling=name)


@pytest.mark.parametrize('name', ['triton', 'mmcv'])
def test_an_implementation_for_gpus_is_refused_on_the_cpu(name):
    value, locations, weights = draw()
    with pytest.raises(UserError, match="GPUs only, and the model is on 'cpu"):
        ms_deform_attn(value, SHAPES, locations, weights, name)


def test_that_for_the_cpu_is_refused_elsewhere():
    with pytest.raises(UserError, match='the CPU only'):
        check_implementation('cpu', 'cuda')


@pytest.fixture
def deterministic():
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('name', ['triton', 'mmcv'])
def test_wanted_determinism_refuses_atomic_sums(deterministic, name):
    """Training alone: a prediction sums in a fixed order."""
    check_implementation(name, 'cuda')
    deterministic(True, warn_only=True)
    check_implementation(name, 'cuda')
    deterministic(True)
    check_implementation('grid_sample', 'cuda')  # torch itself refuses it
    with pytest.raises(UserError, match='randomness.deterministic'):
        check_implementation(name, 'cuda')
    with torch.no_grad():
        check_implementation(name, 'cuda')
