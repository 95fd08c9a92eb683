"""Commands in forks of this process, which has imported the stack."""

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from warm_python import import_runs, keep_imports, quicken_runners

from faults.inject import Injector

# After which a command counts as hanging; the longest takes a tenth of it.
TIMEOUT = 300.0


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        status: Exit status, or minus the number of the signal.
        text: What it printed.
        seconds: That it took.
        hung: Whether it had to be ended.
    """

    status: int
    text: str
    seconds: float
    hung: bool = False


def import_stack() -> None:
    """Import what the commands need, so that their forks have it."""
    import cv2
    import mmseg.apis  # noqa: F401
    import torch

    import clouds_mmseg  # noqa: F401
    import clouds_mmseg.cli.data  # noqa: F401
    import clouds_mmseg.predict.predict_files  # noqa: F401

    # A fork does not copy threads.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    quicken_runners()
    import_runs()
    keep_imports()


def import_like(names: Sequence[str]) -> None:
    """Import what a fork had to import, so that the next need not.

    Args:
        names: Of modules. Some cannot be imported by their names.
    """
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    keep_imports()


def run_clouds(
    words: Sequence[object],
    log: Path,
    injector: Injector,
    *,
    kill_after: float | None = None,
    meanwhile: Callable[[int], None] | None = None,
    timeout: float = TIMEOUT,
    modules: Path | None = None,
) -> Outcome:
    """Run a command of ``clouds`` and wait for it.

    Args:
        words: After ``clouds``.
        log: File of its output.
        injector: What fails in it.
        kill_after: Seconds after which it is killed.
        meanwhile: Called again and again with its process id.
        timeout: Seconds after which it counts as hanging.
        modules: File for the names of the modules that it has imported.
    """

    def main():
        try:
            _call_clouds(words)
        finally:
            if modules is not None:
                modules.write_text('\n'.join(sys.modules))

    return run_forked(
        main,
        log,
        injector,
        kill_after=kill_after,
        meanwhile=meanwhile,
        timeout=timeout,
    )


def become_clouds(words: Sequence[object], log: Path) -> None:
    """Turn this process, a fork, into a command of ``clouds``.

    Args:
        words: After ``clouds``.
        log: File of its output.
    """
    _begin(log)
    os._exit(_run(lambda: _call_clouds(words)))


def _call_clouds(words):
    from clouds_mmseg_cli.command import main

    main([str(word) for word in words])


def run_forked(
    function: Callable[[], object],
    log: Path,
    injector: Injector,
    *,
    kill_after: float | None = None,
    meanwhile: Callable[[int], None] | None = None,
    timeout: float = TIMEOUT,
) -> Outcome:
    """Run a function in a fork; see :func:`run_clouds`."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        _begin(log)
        injector.aim()
        os._exit(_run(function))
    hung = False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        passed = time.monotonic() - begun
        if kill_after is not None and passed >= kill_after:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        if passed > timeout:
            hung = True
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        if meanwhile is not None:
            meanwhile(child)
        time.sleep(0.005)
    return Outcome(
        os.waitstatus_to_exitcode(status),
        log.read_text(errors='replace') if log.exists() else '',
        time.monotonic() - begun,
        hung,
    )


def _begin(log):
    """Take over the output and a process group of its own."""
    os.setpgid(0, 0)
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, source in enumerate((null, opened, opened)):
        os.dup2(source, number)


def _run(function):
    """Run a function and end as Python does; return the exit status."""
    status = 0
    try:
        function()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
        if stop.code is None:
            status = 0
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        status = status or 1
    return status
