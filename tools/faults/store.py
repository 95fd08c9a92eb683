"""Processes that share work in an object store, some of which are disturbed.

The store is an S3-compatible server on this machine, from the package moto.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from mmengine import fileio

from clouds_mmseg.utils import remote
from clouds_mmseg.utils.shared_work import WORK_FOLDER
from faults.campaign import Campaign
from faults.commands import COMMANDS, SHARED, read_result
from faults.forks import become_clouds, run_clouds

# Their results may lie in a store whole; of predictions those of videos not.
NAMES = tuple(f'{name}{SHARED}' for name in ('generate', 'corrupt'))
_BUCKET = 'campaign'
# Fault -> signal, and how many of two processes get it while a third works.
_FAULTS = {
    'a process is killed': (signal.SIGKILL, 1),
    'two are killed': (signal.SIGKILL, 2),
    'a process is stopped and goes on when all is done': (signal.SIGSTOP, 1),
}
_SERVE = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
server.start()
print('http://{}:{}'.format(*server.get_host_and_port()), flush=True)
threading.Event().wait()
"""
_FORK = multiprocessing.get_context('fork')


def disturb_in_store(
    campaign: Campaign, names: Sequence[str], points: int
) -> str | None:
    """Disturb commands that write to a store, and compare what is there.

    Args:
        campaign: Counts the trials.
        names: Commands, of :data:`NAMES`.
        points: Trials of each fault on each command.

    Returns:
        Why nothing was run; None if it was.
    """
    for package in ('moto', 's3fs'):
        if importlib.util.find_spec(package) is None:
            return f'{package} is not installed (pip install "moto[server]")'
    with _server():
        for name in names:
            campaign.reference(name)
            begun = time.monotonic()
            _run(campaign, name, f's3://{_BUCKET}/{name}')
            seconds = time.monotonic() - begun
            for fault, (sign, count) in _FAULTS.items():
                rng = np.random.default_rng([campaign.seed, *fault.encode()])
                for trial in range(points):
                    address = f's3://{_BUCKET}/{name}-{count}-{sign}-{trial}'
                    after = seconds * rng.uniform(0.1, 1.0)
                    problems, met = _trial(
                        campaign, name, address, after, sign, count
                    )
                    what = f'after {after:.1f} s'
                    campaign.note('store', fault, name, what, problems, met)


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """Run a server with a bucket; the environment leads to it."""
    # No process of multiprocessing: forks would end it with themselves.
    process = subprocess.Popen(
        [sys.executable, '-c', _SERVE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    os.environ.update(
        AWS_ENDPOINT_URL=process.stdout.readline().strip(),
        AWS_ACCESS_KEY_ID='someone',
        AWS_SECRET_ACCESS_KEY='secret',
        AWS_DEFAULT_REGION='us-east-1',
        AWS_EC2_METADATA_DISABLED='true',
    )
    import s3fs

    s3fs.S3FileSystem().mkdir(_BUCKET)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _words(campaign, name, address):
    return COMMANDS[name].words(campaign.inputs, address, 1)


def _run(campaign, name, address):
    words = _words(campaign, name, address)
    return run_clouds(words, campaign.file, campaign.injector)


def _trial(campaign, name, address, after, sign, count):
    """Disturb one or both of two processes, and let a third finish.

    Returns:
        What is wrong, and whether the fault met a process.
    """
    others = []
    for number in range(2):
        log = campaign.file.with_name(f'other{number}.txt')
        args = (_words(campaign, name, address), log)
        others.append(_FORK.Process(target=become_clouds, args=args))
        others[-1].start()
    time.sleep(after)
    disturbed = [one for one in others[:count] if one.is_alive()]
    for one in disturbed:
        os.kill(one.pid, sign)
    done = _run(campaign, name, address)
    for one in disturbed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGCONT)
    for one in others:
        one.join()
    problems = _problems(campaign, name, address)
    if done.status:
        problems.append(f'status {done.status}: {done.text[-3000:]}')
    failed = [
        str(one.exitcode)
        for one in others
        if one.exitcode and not (one in disturbed and sign == signal.SIGKILL)
    ]
    if failed:
        problems.append(f'another process ended with {", ".join(failed)}')
    return problems, bool(disturbed)


def _problems(campaign, name, address):
    """Compare what lies in the store with the files of one local process."""
    expected, _, _ = campaign.reference(name)
    shutil.rmtree(campaign.out, ignore_errors=True)
    for path in remote.list_below(address):
        target = campaign.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fileio.get(f'{address}/{path}'))
    found = read_result(campaign.out)
    differs = [
        path
        for path in sorted({*expected, *found})
        if found.get(path) != expected.get(path)
    ]
    problems = [f'differs: {", ".join(differs)}'] if differs else []
    command = name.removesuffix(SHARED)
    work = remote.list_below(f'{address}/{WORK_FOLDER}/{command}')
    left = [path for path in work if not path.startswith('job-')]
    if len(work) != 2 or not left[0].endswith('/finished.json'):
        problems.append(f'left behind: {", ".join(work)}')
    return problems
