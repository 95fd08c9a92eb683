"""Operations and memory traffic, compared with the hardware limits."""

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


# torch counts attention operations on CUDA only.
_CPU_ATTENTION = 'scaled_dot_product_flash_attention_for_cpu'
_COUNTS = {
    **flop_registry,
    getattr(torch.ops.aten, f'_{_CPU_ATTENTION}'): _attention,
    getattr(torch.ops.aten, f'_{_CPU_ATTENTION}_backward'): (
        _attention_backward
    ),
}


# Large enough to be bound by arithmetic. By type of the device.
MATMUL_SIDES = dict(cuda=8192, cpu=2048)


class OperationCount(TorchDispatchMode):
    """Counts operations of matrix products, convolutions and attention.

    A multiplication and an addition are two operations. Other work, such as
    sampling and normalisation, is bound by memory traffic and not counted.
    The formulas are torch's. Its ``FlopCounterMode`` also hooks into modules,
    which raises an error where one is given a parameter without gradients, as
    in the head's inference.

    Attributes:
        total (int): Operations so far.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call an operator and add its operations."""
        result = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func.overloadpacket)
        if count:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def count_operations(case: BenchmarkCase) -> dict[str, int]:
    """Count the operations of one run.

    Args:
        case: Case to run once more.

    Returns:
        Operations of each part and of the ``whole``.
    """
    argument = case.prepare()
    with OperationCount() as count:
        clock = RegionTimer(lambda: None, lambda: count.total)
        with clock.watching(case.watches):
            case.run(argument)
    return dict(clock.seconds, whole=count.total)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the rate of matrix products in the layout of a linear layer.

    Args:
        device: Device to measure.
        dtype: Dtype of both factors.

    Returns:
        Operations per second, median of five runs.
    """
    side = MATMUL_SIDES.get(device.type, MATMUL_SIDES['cpu'])
    a = torch.rand(side, side, device=device).to(dtype)
    b = torch.rand(side, side, device=device).to(dtype)
    return 2 * side**3 / _median_seconds(lambda: a @ b.t(), device)


def copy_rate(device: torch.device) -> float:
    """Measure the memory bandwidth by a copy larger than any cache.

    Args:
        device: Device to measure.

    Returns:
        Bytes per second, read plus written, median of five runs.
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
    """Compare the work of our implementation with the hardware limit.

    Args:
        title: Kind of the amounts, such as ``arithmetic``.
        unit: ``FLOP`` or ``B``.
        amounts: Amounts of the parts and of the ``whole``.
        measurement: Measurement of the same case.
        rate: Amount per second that the machine reaches.

    Returns:
        A row for each amount, with the minimal seconds, ``floor``, and their
        ``share`` of the measured seconds.
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
