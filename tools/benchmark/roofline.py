"""Arithmetic and bytes of a piece of work, against what the machine can do."""

import statistics
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmark.measure import BenchmarkCase, Measurement, synchronizer
from benchmark.parts import RegionTimer
from benchmark.report import OURS


def _attention(query, key, value, *_, **__):
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(grad, query, key, value, *_, **__):
    return sdpa_backward_flop_count(
        grad.shape, query.shape, key.shape, value.shape
    )


# Torch counts its attentions on CUDA alone.
_CPU_ATTENTION = 'scaled_dot_product_flash_attention_for_cpu'
_COUNTS = {
    **flop_registry,
    getattr(torch.ops.aten, f'_{_CPU_ATTENTION}'): _attention,
    getattr(torch.ops.aten, f'_{_CPU_ATTENTION}_backward'): (
        _attention_backward
    ),
}


class OperationCount(TorchDispatchMode):
    """Counts the arithmetic of matrix products, convolutions, attention.

    A multiplication and an addition are two operations. What else is done,
    as reading at places and normalising, is not arithmetic but traffic.

    Attributes:
        total (int): Operations up to now.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Do what was called, and add what it costs."""
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func.overloadpacket)
        if count:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def count_operations(case: BenchmarkCase) -> dict[str, int]:
    """Count the arithmetic of one run.

    Args:
        case: Runs once more.

    Returns:
        Of each part, and of the ``whole``.
    """
    argument = case.prepare()
    with OperationCount() as count:
        clock = RegionTimer(lambda: None, lambda: count.total)
        with clock.watching(case.watches):
            case.run(argument)
    return dict(clock.seconds, whole=count.total)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure matrix products, laid out as those of a linear layer.

    Args:
        device: Where.
        dtype: Of both factors.

    Returns:
        Operations a second, of the median of five.
    """
    side = 8192 if device.type == 'cuda' else 2048
    a = torch.rand(side, side, device=device).to(dtype)
    b = torch.rand(side, side, device=device).to(dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ b.t(), device)


def copy_rate(device: torch.device) -> float:
    """Measure a copy too large for any cache.

    Args:
        device: Where.

    Returns:
        Bytes a second, those read and those written, of the median of five.
    """
    size = 2**30 if device.type == 'cuda' else 2**28
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * size / _median_seconds(lambda: target.copy_(source), device)


def _median_seconds(work, device, repeats=5):
    wait = synchronizer(device)
    seconds = []
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def bound_rows(
    title: str,
    unit: str,
    amounts: dict[str, int],
    measurement: Measurement,
    rate: float,
) -> list[dict]:
    """Compare what ours has to do with what the machine can do.

    Args:
        title: Of what the amounts are, as ``arithmetic``.
        unit: Theirs, ``FLOP`` or ``B``.
        amounts: Of parts of the work, and of the ``whole``.
        measurement: Of the same case.
        rate: Amount that the machine does in a second.

    Returns:
        A row for each amount, with the seconds that the machine takes at
        least, ``floor``, and their ``share`` of those it took.
    """
    seconds = dict(measurement.parts, whole=measurement.median)
    return [
        dict(
            name=f'{title} of {part}',
            unit=unit,
            **{OURS: amount},
            floor=amount / rate,
            share=amount / rate / seconds[part],
        )
        for part, amount in amounts.items()
        if amount
    ]
