import torch

from clouds_mmseg.utils.device import device_name


def test_the_processor_is_named_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    name = device_name()
    assert name.endswith(f'(CPU, {torch.get_num_threads()} threads)')
    assert not name.startswith(' ')


def test_the_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'GPU 9000')
    assert device_name() == 'GPU 9000'
