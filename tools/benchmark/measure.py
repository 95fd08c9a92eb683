"""Contenders measured in turn: A B A B."""

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
    """One way to do the work.

    Attributes:
        run: Does the work once; what it returns is kept.
        prepare: Makes the argument of ``run``, not timed.
        watches: The parts of the work.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    watches: Sequence[TimedMethod] = ()


@dataclass
class Measurement:
    """What came out for one case.

    Attributes:
        seconds: Of each repeat.
        peak: Bytes on top of what lay in memory before.
        parts: Seconds of each part in one more run.
        whole: Seconds of that run.
        result: What the last run returned.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    whole: float = 0.0
    result: Any = None

    @property
    def median(self):
        """Seconds of the run in the middle."""
        return statistics.median(self.seconds)

    @property
    def spread(self):
        """Seconds between the slowest and the fastest run."""
        return max(self.seconds) - min(self.seconds)


def synchronizer(device: torch.device) -> Callable:
    """Make the function that waits for a device.

    Args:
        device: Where the work is done.

    Returns:
        Takes nothing.
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
    """Measure cases in turn, so that the machine's moods hit all.

    Memory and parts are taken in one more run of each: watching costs time.

    Args:
        cases: By name.
        device: Where they compute.
        warmup: Runs of each that are not counted.
        repeats: Runs of each that are.
        clock: ``wall``, or ``cpu`` for the processor time of this process, on
            a machine that has other work to do.

    Returns:
        By name.
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
