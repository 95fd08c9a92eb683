"""Interleaved time and memory measurements: A B A B."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmark.memory import peak_memory
from benchmark.parts import RegionTimer, TimedMethod

CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}


@dataclass
class BenchmarkCase:
    """Implementation to be measured.

    Attributes:
        run: Executes the work once; the result is kept.
        prepare: Creates the argument of ``run``, not timed.
        watches: Methods that are timed separately.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    watches: Sequence[TimedMethod] = ()


@dataclass
class Measurement:
    """Measurements of one case.

    Attributes:
        seconds: Seconds of each repeat.
        peak: Peak memory in bytes, above the level before the run.
        parts: Seconds of each part in an additional run.
        whole: Seconds of that run.
        result: Result of the last run.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    whole: float = 0.0
    result: Any = None

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Difference of the slowest and the fastest run, seconds."""
        return max(self.seconds) - min(self.seconds)


def synchronizer(device: torch.device) -> Callable:
    """Return the function that synchronises a device.

    Args:
        device: Device of the work.

    Returns:
        A function without arguments.
    """
    if device.type == 'cuda':
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def interleave(
    cases: dict[str, BenchmarkCase],
    *,
    device: torch.device,
    warmup: int = 1,
    repeats: int = 5,
    clock: str = 'wall',
) -> dict[str, Measurement]:
    """Measure cases interleaved, so that drift affects all alike.

    Memory and parts are measured in an additional run of each case, because
    the instrumentation takes time.

    Args:
        cases: Cases by name.
        device: Device of the cases.
        warmup: Untimed runs of each case.
        repeats: Timed runs of each case.
        clock: ``wall``, or ``cpu`` for the processor time of this process, on
            a machine that has other work to do.

    Returns:
        Measurements by name.
    """
    wait, now = synchronizer(device), CLOCKS[clock]
    found = {name: Measurement() for name in cases}
    for turn in range(warmup + repeats):
        for name, case in cases.items():
            argument = case.prepare()
            gc.collect()
            wait()
            start = now()
            result = case.run(argument)
            wait()
            took = now() - start
            if turn >= warmup:
                found[name].seconds.append(took)
            found[name].result = result
            del result
    for name, case in cases.items():
        _inspect(case, found[name], device, wait, now)
    return found


def _inspect(case, measurement, device, wait, now):
    argument = case.prepare()
    clock = RegionTimer(wait, now)
    with peak_memory(device) as peak, clock.watching(case.watches):
        wait()
        start = now()
        case.run(argument)
        wait()
        measurement.whole = now() - start
    measurement.peak = peak.bytes
    measurement.parts = clock.seconds
