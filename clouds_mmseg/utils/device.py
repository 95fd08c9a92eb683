"""The device of this process in words, for logs and results."""

import platform
from pathlib import Path

import torch


def device_name():
    """Name of the GPU, or of the processor where there is none.

    Returns:
        str: For example ``'NVIDIA A100-SXM4-80GB'`` or ``'Intel(R) Xeon(R)
        Processor (CPU, 2 threads)'``.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':', 1)[1].strip()
                break
    return f'{name} (CPU, {torch.get_num_threads()} threads)'
