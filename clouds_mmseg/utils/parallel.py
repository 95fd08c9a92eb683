"""The same function on many items, in several processes."""

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context

import cv2
from tqdm import tqdm

from clouds_mmseg.utils.errors import UserError


def available_cores():
    """Number of cores that this process may use.

    Returns:
        int: At least 1; fewer than the machine has where the scheduler of a
        cluster has assigned some.
    """
    if hasattr(os, 'sched_getaffinity'):
        return max(len(os.sched_getaffinity(0)), 1)
    return os.cpu_count() or 1


def parallel_map(job, items, *, workers=None, title, unit='img'):
    """Apply a function to items, in order, under a progress bar.

    Args:
        job (Callable): Of one item. It and the items are pickled; what it
            raises ends the whole.
        items (Sequence): What it is applied to.
        workers (int, optional): Processes; 1 works in this one. Defaults to
            the number of cores.
        title (str): Stands before the bar, which a terminal alone shows.
        unit (str): What an item is.

    Yields:
        Any: The results, in the order of the items.

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
    # A spawned process would import the whole training stack anew. A forked
    # one inherits OpenCV's pool without its threads and waits for them for
    # ever; with one thread there is no pool.
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
