"""What bounds the measured work: arithmetic, traffic, rates."""

import json
import runpy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmark import sampling
from benchmark.measure import BenchmarkCase, Measurement
from benchmark.parts import TimedMethod
from benchmark.report import table_of
from benchmark.roofline import (
    OperationCount,
    bound_rows,
    copy_rate,
    count_operations,
    matmul_rate,
)
from benchmark.sampling import SampledLayer, random_layer_inputs
from clouds_mmseg.models.mask2former import deform_attn
from clouds_mmseg.models.mask2former.deform_attn import (
    IMPLEMENTATIONS,
    check_implementation,
    ms_deform_attn,
)

CPU = torch.device('cpu')


def test_products_convolutions_and_their_gradients_are_counted():
    """As torch's own counter does, which follows modules beside."""
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    kernel = torch.randn(4, 8, 3, 3, requires_grad=True)
    matrix = torch.randn(36, 5, requires_grad=True)

    def work():
        (F.conv2d(x, kernel, padding=1).flatten(2) @ matrix).sum().backward()

    with OperationCount() as ours, FlopCounterMode(display=False) as torchs:
        work()
    forward = 2 * 2 * 36 * (4 * 8 * 9 + 4 * 5)
    assert ours.total == torchs.get_total_flops() == 3 * forward


@pytest.mark.parametrize('wanted, times', [(False, 2), (True, 2 + 5)])
def test_attention_is_counted_on_the_cpu_too(wanted, times):
    """Two products forward, five backward, one of them again."""
    query = torch.randn(1, 2, 16, 8, requires_grad=wanted)
    key = torch.randn(1, 2, 64, 8)
    with OperationCount() as count:
        out = F.scaled_dot_product_attention(query, key, key)
        if wanted:
            out.sum().backward()
    assert count.total == times * 2 * (2 * 16 * 64 * 8)


class Work:
    def first(self):
        return torch.ones(3, 4) @ torch.ones(4, 5)

    def second(self):
        return self.first() @ torch.ones(5, 2)


def test_arithmetic_is_divided_into_parts():
    work = Work()
    case = BenchmarkCase(
        lambda _: work.second(),
        watches=(
            TimedMethod(work, 'first', 'small'),
            TimedMethod(work, 'second', 'big'),
        ),
    )
    counts = count_operations(case)
    assert counts == {'small': 120, 'big': 60, 'whole': 180}


def test_shares_are_of_the_time_that_each_part_took():
    measurement = Measurement(seconds=[4.0], parts={'a': 1.0, 'b': 3.0})
    rows = bound_rows(
        'arithmetic',
        'FLOP',
        {'a': 5 * 10**9, 'b': 0, 'whole': 8 * 10**9},
        measurement,
        rate=10e9,
    )
    a, whole = rows  # what has none is no row
    assert a['floor'] == 0.5 and a['share'] == 0.5
    assert whole['floor'] == 0.8 and whole['share'] == pytest.approx(0.2)
    table = table_of(rows)
    assert '5.0 GFLOP' in table and '0.500 s' in table and '50%' in table


def test_rates_are_those_of_a_machine(monkeypatch):
    """Between what a calculator and what a hall of computers does."""
    assert 1e8 < matmul_rate(CPU, torch.float32) < 1e16
    assert 1e8 < copy_rate(CPU) < 1e14


def test_traffic_of_a_layer_is_that_of_its_tensors():
    shapes = [(2, 2), (4, 4), (8, 8)]
    inputs = random_layer_inputs(shapes, CPU, images=2)
    value, locations, weights = (x.numel() for x in inputs)
    assert value == 2 * 84 * 256 and weights == 2 * 84 * 8 * 12
    assert locations == 2 * weights
    layer = SampledLayer(ms_deform_attn, shapes, inputs)
    gradients = 4 * (value + locations + weights)
    out = 4 * value
    traffic = layer.traffic()
    assert traffic['forward'] == gradients + out
    assert traffic['backward'] == 2 * gradients + out
    assert traffic['whole'] == traffic['forward'] + traffic['backward']
    # Half as many bytes for the values, read twice, and for their gradient.
    half = SampledLayer(ms_deform_attn, shapes, inputs, torch.bfloat16)
    assert traffic['whole'] - half.traffic()['whole'] == 3 * 2 * value
    results = half.run()
    assert [x.numel() for x in results] == [value, value, locations, weights]
    assert results[0].dtype == torch.float32
    assert results[1].dtype == torch.bfloat16


def test_locations_of_a_random_layer_lie_around_their_queries():
    shapes = [(16, 16)]
    _, locations, _ = random_layer_inputs(shapes, CPU)
    again = random_layer_inputs(shapes, CPU)[1]
    assert torch.equal(locations, again)
    centres = locations.detach().mean(dim=(2, 3, 4)).view(16, 16, 2)
    assert (centres[:, 1:, 0] > centres[:, :-1, 0]).float().mean() > 0.9
    spots = locations * 16 - 0.5
    assert ((spots - spots.floor() - 0.5).abs() < 0.401).all()
    assert (locations < 0).any() and (locations > 1).any()


def test_sampling_is_measured_with_its_traffic(
    repo_root, tmp_path, capsys, monkeypatch
):
    """All implementations that run here, and no result that is wrong."""
    right = IMPLEMENTATIONS['grid_sample']
    monkeypatch.setitem(
        IMPLEMENTATIONS, 'half', lambda *inputs: right(*inputs) / 2
    )
    monkeypatch.setitem(
        IMPLEMENTATIONS, 'broken', lambda *inputs: open('/no/compiler')
    )

    def check(name, device=None):
        if name not in ('half', 'broken'):
            check_implementation(name, device)

    for module in (sampling, deform_attn):
        monkeypatch.setattr(module, 'check_implementation', check)
    main = runpy.run_path(str(repo_root / 'tools' / 'benchmark.py'))['main']
    path = tmp_path / 'report.json'
    main(
        ['sampling', '--against', 'plain', '--size', '64x96', '--batch', '2']
        + ['--repeats', '2', '--warmup', '0', '--out', str(path)]
    )
    rows = {r['name']: r for r in json.loads(path.read_text())['rows']}
    for part in ('median', 'forward', 'backward'):
        assert rows[part]['ratio'] > 0
        assert rows[part]['grid_sample'] > 0
        assert not {'triton', 'half', 'broken'} & set(rows[part])
    assert rows['traffic of whole']['ours'] > 0
    assert 0 < rows['traffic of forward']['share'] < 1
    out = capsys.readouterr().out
    assert 'sampling 2 x 64x96 fp32' in out
    assert 'ours is cpu, the default of this device' in out
    assert 'half IS WRONG: its results differ by 5.0e-01' in out
    assert 'broken FAILS: FileNotFoundError' in out
