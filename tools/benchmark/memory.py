"""The most memory that a piece of work takes, on top of what lies there."""

import ctypes
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PROCESS = Path('/proc/self')


class PeakMemory:
    """What a block took at most; bytes, None where it cannot be known."""

    bytes = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """TimedMethod the memory of a block.

    On CUDA that of torch's allocator. On CPU the resident memory of the
    process, which counts whatever any library takes; freed pages are given
    back first, so that an earlier block does not lend its own. Only Linux
    tells the peak of a block.

    Args:
        device: Where the block computes.

    Yields:
        Filled when the block ends.
    """
    peak = PeakMemory()
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back_freed_pages()
    watched = _forget_the_peak()
    before = _kilobytes('VmRSS') if watched else 0
    yield peak
    if watched:
        peak.bytes = (_kilobytes('VmHWM') - before) * 1024


def _give_back_freed_pages():
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library: the numbers are coarser


def _forget_the_peak():
    try:
        (_PROCESS / 'clear_refs').write_text('5')
    except OSError:
        return False
    return True


def _kilobytes(field):
    status = (_PROCESS / 'status').read_text()
    return int(re.search(rf'{field}:\s+(\d+) kB', status).group(1))
