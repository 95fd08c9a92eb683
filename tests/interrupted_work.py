"""Processes that share work: one is killed, one stopped for too long."""

import multiprocessing
import os
import signal
import time

from clouds_mmseg.utils.remote import list_below


def tree(root):
    """Path below a folder -> bytes; hidden files too, but not ``.work``."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file() and '.work' not in path.parts
    }


def _slowly(run):
    """Run with a pause before each file gets its name."""
    for name in ('replace', 'link'):
        real = getattr(os, name)

        def slow(*args, _real=real, **kwargs):
            time.sleep(0.03)
            return _real(*args, **kwargs)

        setattr(os, name, slow)
    run()


def _size(path):
    """Bytes of a file, 0 if it has been removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _stop_in_a_chunk(process, folder, done):
    """Stop a process in the middle of a chunk, after others are done."""
    while process.is_alive():
        files = folder.glob('.work/*/*/[0-9]*')
        # A lease without content was only just created.
        names = {path.name for path in files if _size(path)}
        chunks = {name[:6] for name in names if name.endswith('.json')}
        held = {name[:6] for name in names if name.endswith('.lease')}
        if len(chunks) >= done and held - chunks:
            os.kill(process.pid, signal.SIGSTOP)
            # It may have gone on before it was stopped.
            left = folder.glob(f'.work/*/*/{min(held - chunks)}.*')
            if {path.suffix for path in left} == {'.lease'}:
                return
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError('the process has ended too early')


def share_with_interruptions(run, folder):
    """Call a function in three processes, the last of which is this one.

    The first is killed in the middle. The second is stopped in the middle of
    the rest, for longer than its lease, and continued at the end.

    Args:
        run: Does the shared work, with a lease of a second.
        folder: In which ``.work`` lies.

    Returns:
        What ``run`` returned in this process.
    """
    fork = multiprocessing.get_context('fork')
    killed = fork.Process(target=_slowly, args=(run,))
    killed.start()
    _stop_in_a_chunk(killed, folder, 1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    stopped = fork.Process(target=_slowly, args=(run,))
    stopped.start()
    _stop_in_a_chunk(stopped, folder, 3)
    try:
        result = run()
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.join()
    assert stopped.exitcode == 0
    return result


def share_after_a_kill(run, address, owner, name):
    """Call a function in two processes; the first one is killed half-way.

    Args:
        run: Does the shared work, with a lease of a second.
        address: In which ``.work`` lies.
        owner: Class or module, one of whose functions takes longer in the
            process that is killed.
        name: Of the function.

    Returns:
        What ``run`` returned in this process.
    """
    real = getattr(owner, name)

    def wait(*args, **kwargs):
        time.sleep(0.1)
        return real(*args, **kwargs)

    def run_slowly():
        setattr(owner, name, wait)
        run()

    process = multiprocessing.get_context('fork').Process(target=run_slowly)
    process.start()
    while process.is_alive():
        names = list_below(f'{address}/.work')
        if any(name.endswith('000000.json') for name in names):
            break
        time.sleep(0.05)
    else:
        raise AssertionError('the process has ended too early')
    process.kill()
    process.join()
    return run()
