"""Description of the device of this process, for logs and results."""

import logging
import platform
from pathlib import Path

import torch
from mmengine.logging import print_log


def device_name() -> str:
    """Name of the GPU, or of the processor where there is none.

    Returns:
        For example ``'NVIDIA A100-SXM4-80GB'`` or ``'Intel(R) Xeon(R)
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


def warn_of_emulated_bf16() -> None:
    """Warn if bfloat16 is emulated, which is slower than float32.

    Without arithmetic for it (on x86 AVX-512 or AMX), torch goes number by
    number.
    """
    if torch.cuda.is_available() or (
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return
    print_log(
        'bfloat16: this processor has no arithmetic for it, and torch '
        'emulates it many times slower than float32. Leave --amp out here, '
        'unless it is what you study.',
        'current',
        logging.WARNING,
    )
