"""Faults of the file system and the clock, injected below Python.

``inject.c`` is compiled once and preloaded into the campaign's own process;
the commands are forks of it, which share the memory that says what fails.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name('inject.c')
_COMPILER = ('cc', 'gcc', 'clang')
_LOADED = 'CLOUDS_FAULTS_LIBRARY'

# Calls, as bits.
OPEN, WRITE, FSYNC, RENAME, UNLINK, MKDIR = (1 << bit for bit in range(6))
CHANGES = OPEN | WRITE | FSYNC | RENAME | UNLINK | MKDIR
# What happens at a call.
ACTIONS = (
    *('count', 'error', 'kill_before', 'kill_after', 'kill_half'),
    *('short_write', 'slow', 'done_and_error', 'clock', 'silly_rename'),
)
_NUMBERS = (
    *('action', 'calls', 'at', 'error', 'sticky', 'microseconds'),
    *('clock_offset', 'pid', 'count', 'fired'),
)


class _Shared(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in _NUMBERS),
        ('each', ctypes.c_long * 6),
        ('folder', ctypes.c_char * 1024),
        ('path', ctypes.c_char * 1024),
    ]


def preload(folder: Path) -> str | None:
    """Begin this process again with the library, unless it has it.

    Args:
        folder: Where it is compiled.

    Returns:
        Why there is no library; None with it.
    """
    if os.environ.get(_LOADED):
        return None
    if not sys.platform.startswith('linux'):
        return 'they need Linux (LD_PRELOAD)'
    compiler = next(filter(None, map(shutil.which, _COMPILER)), None)
    if compiler is None:
        return 'they need a C compiler (cc, gcc or clang)'
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / 'inject.so'
    command = (compiler, '-O1', '-shared', '-fPIC', '-o', library, SOURCE)
    done = subprocess.run(
        [*command, '-ldl'], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f'{SOURCE.name} cannot be compiled: {done.stderr.strip()}'
    os.environ[_LOADED] = str(library)
    before = os.environ.get('LD_PRELOAD')
    preloads = [str(library), *([before] if before else [])]
    os.environ['LD_PRELOAD'] = ':'.join(preloads)
    os.execv(sys.executable, [sys.executable, *sys.argv])


class Injector:
    """What fails in the processes that are forked from this one."""

    def __init__(self):
        self._shared = None
        if os.environ.get(_LOADED):
            library = ctypes.CDLL(os.environ[_LOADED])
            library.faults_share.restype = ctypes.POINTER(_Shared)
            self._shared = library.faults_share().contents

    @property
    def loaded(self) -> bool:
        """Whether there is a library that can let calls fail."""
        return self._shared is not None

    def arm(
        self,
        folder: Path,
        action: str = 'count',
        *,
        calls: int = CHANGES,
        at: int = 0,
        error: str = 'EIO',
        sticky: bool = False,
        seconds: float = 0,
    ) -> None:
        """Set what happens; the process to kill is set by the fork itself.

        Args:
            folder: Calls on files below it count.
            action: One of ``ACTIONS``.
            calls: Which calls count, bits.
            at: Number of the call at which it happens, from 1.
            error: Name of the error.
            sticky: Whether later calls have it, too.
            seconds: That a call takes, or by which the clock jumps.
        """
        shared = self._shared
        if shared is None:
            return
        shared.action = ACTIONS.index(action)
        shared.calls, shared.at, shared.sticky = calls, at, sticky
        shared.error = getattr(errno, error)
        shared.microseconds = int(1e6 * seconds) if action == 'slow' else 0
        shared.clock_offset = int(seconds) if action == 'clock' else 0
        shared.count = shared.fired = 0
        shared.each[:] = [0] * len(shared.each)
        shared.path = b''
        # Last: it makes calls count.
        shared.folder = os.fsencode(folder)

    def aim(self) -> None:
        """Make this process the one that is killed."""
        if self._shared is not None:
            self._shared.pid = os.getpid()

    def disarm(self) -> tuple[list[int], int, str]:
        """Let nothing fail any more.

        Returns:
            Number of calls of each kind, number of calls that had the fault,
            and the path of the first of these.
        """
        shared = self._shared
        if shared is None:
            return [0] * 6, 0, ''
        shared.folder = b''
        shared.action = 0
        return list(shared.each), shared.fired, os.fsdecode(shared.path)
