import pytest
import torch

from clouds_mmseg.utils import device
from clouds_mmseg.utils.device import device_name, warn_of_emulated_bf16


def test_the_processor_is_named_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    name = device_name()
    assert name.endswith(f'(CPU, {torch.get_num_threads()} threads)')
    assert not name.startswith(' ')


def test_the_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'GPU 9000')
    assert device_name() == 'GPU 9000'


@pytest.mark.parametrize(
    'gpu, arithmetic, said', [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
)
def test_bf16_without_arithmetic_for_it_is_warned_of(
    monkeypatch, gpu, arithmetic, said
):
    lines = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: bool(gpu))
    monkeypatch.setattr(
        torch.ops.mkldnn,
        '_is_mkldnn_bf16_supported',
        lambda: bool(arithmetic),
        raising=False,
    )
    monkeypatch.setattr(device, 'print_log', lambda *x: lines.append(x[0]))
    warn_of_emulated_bf16()
    assert len(lines) == said
    assert all('Leave --amp out' in line for line in lines)
