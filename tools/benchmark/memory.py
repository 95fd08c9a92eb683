"""Peak memory of a block of code, above the level before it."""

import ctypes
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PROCESS = Path('/proc/self')


class PeakMemory:
    """Peak memory of a block in bytes, None if it cannot be measured."""

    bytes = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the peak memory of a block.

    On CUDA the memory of torch's allocator. On CPU the resident memory of the
    process, which includes all libraries; freed pages are returned to the
    system first, so that the block cannot reuse those of an earlier one.
    Only Linux reports the peak of a block.

    Args:
        device: Device of the block.

    Yields:
        Its ``bytes`` are set when the block ends.
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
    release_freed_pages()
    watched = _reset_peak()
    before = _kilobytes('VmRSS') if watched else 0
    yield peak
    if watched:
        peak.bytes = (_kilobytes('VmHWM') - before) * 1024


def release_freed_pages() -> None:
    """Return the pages of freed memory to the system, where glibc can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library: the numbers are coarser


def _reset_peak():
    try:
        (_PROCESS / 'clear_refs').write_text('5')
    except OSError:
        return False
    return True


def _kilobytes(field):
    status = (_PROCESS / 'status').read_text()
    return int(re.search(rf'{field}:\s+(\d+) kB', status).group(1))
