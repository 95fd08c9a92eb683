"""Triton's kernels: interpreted, compiled ahead, and on CUDA."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from reference import sample_by_grid

triton = pytest.importorskip('triton', reason='this torch has no Triton')

HERE = Path(__file__).parent
SHAPES = {
    'one': [(3, 5)],
    'pyramid': [(2, 3), (4, 7)],
    'thin': [(1, 1), (6, 1), (1, 4)],
}


def draw(shapes, dtype=torch.float32, queries=5, dim=6, images=1, heads=2):
    """Locations partly outside, and queries that fill no whole block.

    Interpreting takes long for each point of a block of queries, of a head
    and of an image: one case has more than one of all of them.
    """
    num_tokens = sum(h * w for h, w in shapes)
    size = (images, queries, heads, len(shapes), 2)
    return dict(
        value=torch.randn(images, num_tokens, heads, dim, dtype=dtype),
        shapes=shapes,
        locations=torch.rand(*size, 2, dtype=dtype) * 2 - 0.5,
        weights=torch.rand(size, dtype=dtype),
        direction=torch.randn(images, queries, heads * dim, dtype=dtype),
    )


def make_cases():
    torch.manual_seed(0)
    cases = {
        name: draw(shapes, torch.float64) for name, shapes in SHAPES.items()
    }
    cases['pyramid'] = draw(
        SHAPES['pyramid'], torch.float64, queries=17, images=2
    )
    cases['bf16'] = draw(SHAPES['pyramid'])
    cases['bf16']['value'] = cases['bf16']['value'].bfloat16()
    cases['official'] = draw([(2, 2), (4, 4), (8, 8)], dim=32)  # float32
    far = draw(SHAPES['pyramid'], heads=1)
    for query, location in enumerate([-7.0, 9.0, 1e9, -1e30, float('inf')]):
        far['locations'][:, query] = location
    cases['far'] = far
    cases['diverged'] = draw(SHAPES['one'], images=2, heads=1)
    cases['diverged']['locations'][0, 0] = float('nan')
    return cases


def by_grid_sample(value, shapes, locations, weights, direction):
    inputs = [
        x.clone().requires_grad_() for x in (value.float(), locations, weights)
    ]
    if value.dtype == torch.float64:
        inputs[0] = value.clone().requires_grad_()
    out = sample_by_grid(inputs[0], shapes, *inputs[1:])
    grads = torch.autograd.grad((out * direction).sum(), inputs)
    return [out.detach(), *grads]


@pytest.fixture(scope='module')
def cases():
    return make_cases()


@pytest.fixture(scope='module')
def interpreted(cases, tmp_path_factory, warm_python):
    """Results of the kernels for all cases, from one process."""
    folder = tmp_path_factory.mktemp('kernels')
    torch.save(cases, folder / 'cases.pt')
    done = warm_python.run(
        HERE / 'run_kernels.py',
        *(folder / 'cases.pt', folder / 'results.pt'),
        env=dict(os.environ, TRITON_INTERPRET='1'),
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / 'results.pt')


@pytest.mark.parametrize('name', [*SHAPES, 'official'])
def test_kernels_equal_grid_sample_with_their_gradients(
    cases, interpreted, name
):
    expected = by_grid_sample(**cases[name])
    for found, other in zip(interpreted[name], expected, strict=True):
        torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-5)


def test_half_precision_values_are_summed_in_float32(cases, interpreted):
    out, grad_value, grad_locations, grad_weights = interpreted['bf16']
    assert (
        out.dtype
        == grad_locations.dtype
        == grad_weights.dtype
        == torch.float32
    )
    assert grad_value.dtype == torch.bfloat16
    expected = by_grid_sample(**cases['bf16'])
    torch.testing.assert_close(out, expected[0])
    torch.testing.assert_close(
        grad_value.float(), expected[1], rtol=2**-8, atol=1e-6
    )
    for found, other in zip(
        (grad_locations, grad_weights), expected[2:], strict=True
    ):
        torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-5)


def test_locations_far_outside_read_zero(interpreted):
    assert not any(result.any() for result in interpreted['far'])


def test_a_diverged_run_gives_nan_where_it_diverged(interpreted):
    out, grad_value = interpreted['diverged'][:2]
    assert out[0, 0].isnan().all()
    assert out[0, 1:].isfinite().all() and out[1].isfinite().all()
    # Its gradient reaches no token.
    assert grad_value.isfinite().all()


@pytest.mark.parametrize('capability', [80, 90])
@pytest.mark.parametrize('dtype', ['fp32', 'bf16'])
@pytest.mark.parametrize('direction', ['_forward_kernel', '_backward_kernel'])
def test_kernels_compile_for_gpus_that_are_not_here(
    capability, dtype, direction, tmp_path, monkeypatch
):
    """To machine code that needs no local memory: registers suffice."""
    from clouds_mmseg.models.mask2former import (
        deform_attn_triton as deform_kernels,
    )

    monkeypatch.setattr(triton.knobs.cache, 'dir', str(tmp_path))
    kernel = getattr(deform_kernels, direction)
    constants = dict(LEVELS=3, POINTS=4, PADDED=32, BLOCK=16)
    numbers = dict.fromkeys(('num_tokens', 'queries', 'heads', 'dim'), 'i32')
    known = dict(value=f'*{dtype}', levels='*i32', **numbers)
    known |= dict.fromkeys(constants, 'constexpr')
    # All other arguments are tensors of float32.
    signature = {name: known.get(name, '*fp32') for name in kernel.arg_names}
    source = triton.compiler.ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(k),): v for k, v in constants.items()},
    )
    target = triton.backends.compiler.GPUTarget('cuda', capability, 32)
    machine_code = triton.compile(source, target=target).asm['cubin']
    (tmp_path / 'kernel.cubin').write_bytes(machine_code)
    tools = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin'
    report = subprocess.run(
        [tools / 'cuobjdump', '--dump-resource-usage', 'kernel.cubin'],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert 'LOCAL:0' in report and direction in report


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda_equals_grid_sample(cases):
    from run_kernels import run

    for name, case in cases.items():
        if name == 'diverged':
            continue
        expected = by_grid_sample(**case)
        moved = {
            k: v.clone().cuda() if torch.is_tensor(v) else v
            for k, v in case.items()
        }
        for found, other in zip(run(**moved), expected, strict=True):
            torch.testing.assert_close(
                found.cpu().to(other.dtype), other, atol=1e-4, rtol=2**-8
            )
