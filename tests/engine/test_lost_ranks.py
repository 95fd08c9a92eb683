"""A process that is killed or hangs is named by those that are left."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from clouds_mmseg.engine import lost_ranks
from clouds_mmseg.utils.errors import UserError

TIMEOUT = 2


def _be_a_process(rank, file, fault, queue):
    lost_ranks._WAIT = 1
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{file}',
        rank=rank,
        world_size=3,
        timeout=lost_ranks.as_timeout(TIMEOUT),
    )
    lost_ranks.introduce()
    torch.distributed.barrier()
    if rank == 1:
        if fault == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)
    began = time.monotonic()
    try:
        with lost_ranks.naming_lost_ranks(TIMEOUT, 'work'):
            torch.distributed.all_reduce(torch.ones(4))
    except UserError as error:
        queue.put((rank, str(error), time.monotonic() - began))
    except SystemExit:
        queue.put((rank, None, time.monotonic() - began))
    queue.close()
    queue.join_thread()
    os._exit(0)


@pytest.mark.parametrize('fault', ['killed', 'hangs'])
def test_a_lost_process_is_named_once(tmp_path, fault):
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    ranks = [
        context.Process(
            target=_be_a_process, args=(r, tmp_path / 'store', fault, queue)
        )
        for r in range(3)
    ]
    for rank in ranks:
        rank.start()
    try:
        told = dict(queue.get(timeout=60)[:2] for _ in range(2))
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    assert told[2] is None
    assert (
        f'lost rank 1 ({os.uname().nodename}, pid {ranks[1].pid})' in (told[0])
    )
    assert '--resume' in told[0]


def test_other_errors_stay_what_they_are():
    with (
        pytest.raises(RuntimeError, match='shapes'),
        lost_ranks.naming_lost_ranks(None, 'work'),
    ):
        raise RuntimeError('shapes differ')


@pytest.mark.parametrize('value', [0, -1, '60', True])
def test_impossible_timeouts_are_refused(value):
    with pytest.raises(UserError, match=r'timeout must be .* got'):
        lost_ranks.as_timeout(value)
