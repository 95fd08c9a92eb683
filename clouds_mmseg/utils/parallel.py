"""Parallel map over items in several processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from typing import Any

import cv2
from tqdm import tqdm

from clouds_mmseg.utils.errors import UserError


def available_cores() -> int:
    """Return the number of cores that this process may use.

    Returns:
        At least 1; fewer than the machine has where the scheduler of a
        cluster has assigned some.
    """
    if hasattr(os, 'sched_getaffinity'):
        return max(len(os.sched_getaffinity(0)), 1)
    return os.cpu_count() or 1


def parallel_map(
    job: Callable[[Any], Any],
    items: Sequence,
    *,
    workers: int | None = None,
    title: str,
    unit: str = 'img',
) -> Iterator[Any]:
    """Apply a function to items, in order, with a progress bar.

    Args:
        job: Function of one item. It and the items are pickled; an exception
            in it ends the map.
        items: Its arguments.
        workers: Number of processes; 1 runs in this process. Defaults to the
            number of cores.
        title: Of the progress bar, which only a terminal shows.
        unit: Of the progress bar.

    Yields:
        The results, in the order of the items.

    Raises:
        UserError: ``workers`` is not positive, or a worker was killed.
    """
    if workers is None:
        workers = available_cores()
    if workers < 1:
        raise UserError(f'workers={workers} must be at least 1')
    bar = tqdm(total=len(items), desc=title, unit=unit, disable=None)
    with bar:
        for result in _results(job, items, min(workers, len(items))):
            bar.update()
            yield result


def _results(job, items, workers):
    if workers <= 1:
        yield from map(job, items)
        return
    # A spawned process would import the whole training stack again. A forked
    # one inherits OpenCV's thread pool without its threads and waits for them
    # forever; with one thread there is no pool.
    start = 'fork' if 'fork' in get_all_start_methods() else 'spawn'
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ProcessPoolExecutor(
        workers, get_context(start), cv2.setNumThreads, (1,)
    )
    try:
        chunk = max(1, min(16, len(items) // (4 * workers)))
        yield from pool.map(job, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise UserError(
            f'one of {workers} worker processes was killed: memory ran out, '
            'or a file crashes its decoder; workers=1 (--workers 1) shows '
            'which'
        ) from error
    finally:
        # After an error the rest is not worked on before it is reported.
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
