"""The campaign: disturb commands, run them again, compare the results."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from faults import inject
from faults.commands import (
    COMMANDS,
    MODEL,
    SHARED,
    hash_content,
    is_unfinished,
    read_result,
    unfinished,
    write_inputs,
)
from faults.forks import Outcome, import_like, run_clouds, run_forked
from faults.inject import Injector

# Lines of an error that is told well.
_MOST_LINES = 4
# Files that grow or change during a run, and differ from those at its end.
_CHANGING = (
    *('bank.json', 'manifest.jsonl', 'last_checkpoint', 'results.json'),
    *('images.json', 'corruptions.json', 'training.lock', 'failed.txt'),
)
_BLOCK = 4096  # bytes of a file system
DISK = inject.WRITE | inject.FSYNC


class _Victim:
    """Kills a worker process of a command, some seconds after it began."""

    def __init__(self, after):
        self.after = after
        self.seen = None
        self.killed = False

    def __call__(self, process):
        if self.killed:
            return
        with contextlib.suppress(OSError):
            path = Path(f'/proc/{process}/task/{process}/children')
            own = Path(f'/proc/{process}/cmdline').read_bytes()
            for child in path.read_text().split():
                # A worker is a copy of its parent: git is not.
                if Path(f'/proc/{child}/cmdline').read_bytes() != own:
                    continue
                self.seen = self.seen or time.monotonic()
                if time.monotonic() - self.seen >= self.after:
                    os.kill(int(child), signal.SIGKILL)
                    self.killed = True
                return


class _Second:
    """Runs a command a second time as soon as the first has begun."""

    def __init__(self, run, folder):
        self.run = run
        self.folder = folder
        self.done = []

    def __call__(self, process):
        lock = any(
            path.suffix in ('.lock', '.lease') or is_unfinished(path)
            for path in self.folder.rglob('*')
        )
        if not self.done and self.folder.exists() and lock:
            self.done.append(self.run())


def _mount(folder, size):
    """Mount a file system in memory; return whether that is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', folder]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@dataclass
class Fault:
    """A fault of the disk or the clock.

    Attributes:
        name: For the table.
        action, calls, error, sticky, seconds: See :meth:`Injector.arm`.
        harmless: Whether the command must end well in spite of it.
    """

    name: str
    action: str
    calls: int
    error: str = 'EIO'
    sticky: bool = False
    seconds: float = 0
    harmless: bool = False


FAULTS = (
    Fault('full disk (ENOSPC)', 'error', DISK, 'ENOSPC', True),
    Fault(
        'quota used up (EDQUOT)',
        'error',
        DISK | inject.OPEN | inject.MKDIR,
        'EDQUOT',
        True,
    ),
    Fault(
        'disk becomes read-only (EROFS)',
        'error',
        inject.CHANGES,
        'EROFS',
        True,
    ),
    Fault('a write fails (EIO)', 'error', inject.WRITE),
    Fault('a sync fails (EIO)', 'error', inject.FSYNC),
    Fault('a file cannot be opened (EIO)', 'error', inject.OPEN),
    Fault('a rename fails (EIO)', 'error', inject.RENAME),
    Fault('a removal fails (EIO)', 'error', inject.UNLINK),
    Fault('stale file handle (ESTALE)', 'error', DISK, 'ESTALE'),
    Fault(
        'a rename is done, its answer lost (NFS)',
        'done_and_error',
        inject.RENAME,
        'ESTALE',
        harmless=True,
    ),
    Fault(
        'removed files stay as .nfs* (NFS)',
        'silly_rename',
        inject.UNLINK,
        sticky=True,
        harmless=True,
    ),
    Fault(
        'writes are cut short',
        'short_write',
        inject.WRITE,
        sticky=True,
        harmless=True,
    ),
    Fault(
        'slow disk (20 ms a call)',
        'slow',
        inject.CHANGES,
        sticky=True,
        seconds=0.02,
        harmless=True,
    ),
    Fault(
        'clock jumps an hour ahead',
        'clock',
        inject.CHANGES,
        seconds=3600,
        harmless=True,
    ),
    Fault(
        'clock jumps an hour back',
        'clock',
        inject.CHANGES,
        seconds=-3600,
        harmless=True,
    ),
)


@dataclass
class Record:
    """Trials of one fault on one command.

    Attributes:
        group: Part of the campaign.
        fault: What was done.
        command: Name of the command.
        trials: How often.
        failed: What went wrong, one text a trial.
    """

    group: str
    fault: str
    command: str
    trials: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from other records."""
        return self.group, self.fault, self.command


def kill_plan(names: Sequence[str], number: int) -> Iterator[tuple[str, bool]]:
    """Yield the commands that are killed, and whether that is at a write.

    Each command has both in turn, and so have the first few kills.

    Args:
        names: Of commands, in turn.
        number: Of kills.
    """
    for trial in range(number):
        turn, position = divmod(trial, len(names))
        yield names[position], bool((turn + position) % 2)


def begins(part: bytes, whole: bytes) -> bool:
    """Tell whether lines are the first ones of others, none cut short."""
    return whole.startswith(part) and part[-1:] in (b'', b'\n')


def _noise(done: Outcome) -> list[str]:
    """Return what no command may do whatever happens."""
    if done.hung:
        return [f'hung: {done.text[-1500:]}']
    if 'Traceback' in done.text or 'Exception ignored' in done.text:
        return [f'traceback, status {done.status}: {done.text[-3000:]}']
    return []


def _one_error(done: Outcome, word: str) -> list[str]:
    """Return what is wrong with the error of a command.

    Args:
        done: How it ended.
        word: That the error must have.
    """
    lines = [x for x in done.text.splitlines() if x.startswith('error')]
    if done.status != 1 or len(lines) != 1:
        return [
            f'{len(lines)} errors, status {done.status}: {done.text[-1500:]}'
        ]
    told = done.text[done.text.index(lines[0]) :].strip()
    if len(told.splitlines()) > _MOST_LINES:
        return [f'long: {told[-1500:]}']
    return [] if word in told else [f'does not say {word}: {told}']


class Campaign:
    """Disturbs commands in a work folder.

    Args:
        work: Folder of inputs, outputs and logs.
        seed: Of the moments.
        log: Called with each line of progress.
        noted: Called after each trial.
    """

    def __init__(
        self,
        work: Path,
        seed: int,
        *,
        log: Callable[[str], None] = print,
        noted: Callable[[], None] = lambda: None,
    ):
        self.inputs, self.out = work / 'inputs', work / 'out'
        self.file = work / 'log.txt'
        self.seed = seed
        self.log = log
        self.noted = noted
        self.injector = Injector()
        self.records: dict[tuple, Record] = {}
        self._references: dict = {}
        # What their results take on a disk.
        self._bytes: dict[str, int] = {}
        # Content of files that grow line by line.
        self._lines: dict[str, dict[str, bytes]] = {}
        # Those of another version would be compared with results of this.
        shutil.rmtree(self.inputs, ignore_errors=True)
        done = run_forked(
            lambda: write_inputs(self.inputs, self.out),
            self.file,
            self.injector,
        )
        if done.status:
            raise RuntimeError(done.text)
        self.reference('train')
        shutil.copy(self.out / MODEL, self.inputs / 'model.pth')

    def reference(self, name: str) -> tuple[dict, list[int], float]:
        """Run a command undisturbed, once.

        Returns:
            Its result, the number of calls of each kind, and its seconds.
        """
        if name not in self._references:
            self._begin(name)
            self.injector.arm(self.out)
            modules = self.file.with_name('modules.txt')
            done = self._run(name, modules=modules)
            calls, _, _ = self.injector.disarm()
            if done.status or unfinished(self.out):
                raise RuntimeError(f'{name}: {done.text}')
            result = read_result(self.out)
            self._bytes[name] = sum(
                -(-path.stat().st_size // _BLOCK) * _BLOCK
                for path in self.out.rglob('*')
                if path.is_file()
            )
            self._lines[name] = {
                str(path.relative_to(self.out)): path.read_bytes()
                for path in self.out.rglob('*.jsonl')
            }
            import_like(modules.read_text().split())
            self._references[name] = result, calls, done.seconds
            self.log(f'{name}: {done.seconds:.1f} s, {sum(calls)} changes')
        return self._references[name]

    def kills(
        self, names: Sequence[str], number: int, in_a_row: int = 1
    ) -> None:
        """Kill commands, run them again to the end, compare.

        Half of the kills come at a moment of the run's duration, the others
        at one of its writes: before it, after it, or when half is written.

        Args:
            names: Of commands, in turn.
            number: Of runs that are killed.
            in_a_row: How often each is, before it may go on to the end.
        """
        rng = np.random.default_rng([self.seed, 1])
        for name, at_write in kill_plan(names, number):
            at_write = at_write and self.injector.loaded
            self.reference(name)
            self._begin(name)
            kills = [self._kill(name, at_write, rng) for _ in range(in_a_row)]
            problems = [problem for *_, found in kills for problem in found]
            problems += self._continue(name)
            fault = 'at a write' if at_write else 'at any moment'
            if in_a_row > 1:
                fault += f', {in_a_row} in a row'
            what = ', then '.join(what for what, *_ in kills)
            happened = all(killed for _, killed, _ in kills)
            self.note('SIGKILL', fault, name, what, problems, happened)

    def _kill(self, name, at_write, rng):
        """Run a command and kill it.

        Returns:
            When, whether it was killed before it ended, and what went wrong.
        """
        _, calls, seconds = self.reference(name)
        moment = rng.random()
        if at_write:
            action = ('kill_before', 'kill_after', 'kill_half')[
                int(rng.integers(3))
            ]
            at = 1 + int(moment * sum(calls))
            what = f'{action} change {at} of {sum(calls)}'
            self.injector.arm(self.out, action, at=at)
            done = self._run(name)
            self.injector.disarm()
        else:
            what = f'after {moment * seconds:.2f} s'
            done = self._run(name, kill_after=moment * seconds)
        problems = []
        if done.status not in (0, -signal.SIGKILL):
            problems.append(f'ended with {done.status}: {done.text}')
        return what, done.status == -signal.SIGKILL, problems

    def disk(
        self, names: Sequence[str], faults: Sequence[Fault], points: int
    ) -> None:
        """Let calls on files fail; then, with a good disk, run again.

        Args:
            names: Of commands.
            faults: The faults.
            points: Calls of a run at which each begins.
        """
        for name in names:
            for number, fault in enumerate(faults):
                _, calls, _ = self.reference(name)
                count = sum(
                    n for bit, n in enumerate(calls) if fault.calls & 1 << bit
                )
                rng = np.random.default_rng([self.seed, 2, number])
                starts = np.unique(
                    1
                    + (np.arange(points) + rng.random(points))
                    * count
                    // points
                )
                if fault.sticky and fault.harmless:
                    starts = starts[:1] * 0 + 1
                for at in starts.astype(int):
                    self._disk_trial(name, fault, int(at))

    def _disk_trial(self, name, fault, at):
        self._begin(name)
        self.injector.arm(
            self.out,
            fault.action,
            calls=fault.calls,
            at=at,
            error=fault.error,
            sticky=fault.sticky,
            seconds=fault.seconds,
        )
        done = self._run(name)
        _, fired, path = self.injector.disarm()
        problems = []
        if fired:
            problems += _noise(done) or self._told(name, done, fault)
            problems += self._whole(name)
        problems += self._continue(name)
        group = 'clock' if fault.action == 'clock' else 'disk'
        where = Path(path).name
        what = f'call {at} ({where})'
        self.note(group, fault.name, name, what, problems, bool(fired))

    def _told(self, name, done, fault):
        """Return what is wrong with how a command told of a fault."""
        if done.status == 0:
            return self._different(name) if fault.harmless else []
        if fault.harmless:
            return [f'status {done.status}: {done.text[-1500:]}']
        return _one_error(done, str(self.out))

    def lost_workers(self, names: Sequence[str], points: int) -> None:
        """Kill a worker process of commands, as the kernel does.

        Args:
            names: Of commands with workers.
            points: Kills of each.
        """
        rng = np.random.default_rng([self.seed, 3])
        for name in names:
            for trial in range(points):
                _, _, seconds = self.reference(name)
                self._begin(name)
                # Workers live for a small part of a short command.
                victim = _Victim(0.1 * seconds * rng.random() * (trial > 0))
                done = self._run(name, workers=2, meanwhile=victim)
                problems = _noise(done)
                if not problems and done.status:
                    problems = _one_error(done, 'memory')
                problems += self._continue(name)
                what = f'after {victim.after:.2f} s'
                fault = 'a worker process is killed'
                self.note('memory', fault, name, what, problems, victim.killed)

    def two_runs(self, names: Sequence[str]) -> None:
        """Start commands twice at the same time, with one output folder."""
        for name in names:
            self.reference(name)
            self._begin(name)
            second = _Second(
                lambda name=name: self._run(
                    name, log=self.file.with_name('second.txt')
                ),
                self.out,
            )
            first = self._run(name, meanwhile=second)
            ends = [first, *second.done]
            problems = [
                problem
                for done in ends
                for problem in _noise(done)
                or (_one_error(done, str(self.out)) if done.status else [])
            ]
            if all(done.status for done in ends):
                problems.append('both failed')
            what = f'status {" and ".join(str(x.status) for x in ends)}'
            if name in ('train', 'cache') and len(ends) > 1:
                if not ends[1].status:
                    problems.append('the second was not refused')
            problems += self._continue(name)
            self.note(
                'two runs', 'started twice', name, what, problems,
                bool(second.done),
            )  # fmt: skip

    def small_disk(self, names: Sequence[str], points: int) -> str | None:
        """Run commands on a disk of memory that is too small, then larger.

        Args:
            names: Of commands.
            points: Sizes of the disk.

        Returns:
            Why that is not possible here, if so.
        """
        if not _mount(self.out, 1 << 20):
            return 'no permission to mount a file system (tmpfs)'
        subprocess.run(['umount', self.out], check=True)
        for name in names:
            self.reference(name)
            needed = self._bytes[name]
            for point in range(points):
                self._begin(name)
                given = self.out.with_name('given')
                shutil.rmtree(given, ignore_errors=True)
                if self.out.exists():
                    self.out.rename(given)
                size = max(needed * (point + 1) // (points + 1), 2 * _BLOCK)
                _mount(self.out, size)
                try:
                    if given.exists():
                        shutil.copytree(given, self.out, dirs_exist_ok=True)
                    done = self._run(name)
                    problems = _noise(done)
                    if done.status and not problems:
                        problems = _one_error(done, str(self.out))
                    problems += self._whole(name)
                    happened = bool(done.status or self._different(name))
                    subprocess.run(
                        ['mount', '-o', 'remount,size=256m', self.out],
                        check=True,
                    )
                    problems += self._continue(name)
                finally:
                    subprocess.run(['umount', '-l', self.out], check=True)
                what = f'{size} of {needed} bytes, status {done.status}'
                fault = 'full disk (a small tmpfs)'
                self.note('disk', fault, name, what, problems, happened)
        return None

    def _whole(self, name):
        """Return the files that are neither finished nor hidden."""
        expected, _, _ = self.reference(name)
        problems = []
        for folder, _, names in os.walk(self.out):
            for one in names:
                path = Path(folder, one)
                relative = str(path.relative_to(self.out))
                if is_unfinished(path) or relative not in expected:
                    continue
                if one in _CHANGING:
                    continue
                whole = self._lines[name].get(relative)
                try:
                    if whole is not None:
                        same = begins(path.read_bytes(), whole)
                    else:
                        same = hash_content(path) == expected[relative]
                except Exception as error:
                    problems.append(f'{relative} cannot be read: {error}')
                    continue
                if not same:
                    problems.append(f'{relative} is another')
        return problems

    def _continue(self, name):
        """Run a command again; return what is wrong with its result."""
        done = self._run(name)
        if done.hung:
            return ['hung when run again']
        if done.status:
            return [f'run again, status {done.status}: {done.text[-3000:]}']
        left = unfinished(self.out)
        problems = [f'left behind: {", ".join(left)}'] if left else []
        return problems + self._different(name)

    def _different(self, name):
        """Compare the result with that of an undisturbed run."""
        expected, _, _ = self.reference(name)
        found = read_result(self.out)
        others = [
            path
            for path in sorted({*expected, *found})
            if found.get(path) != expected.get(path)
            and not is_unfinished(Path(path))
            and not (
                path not in found
                and path.endswith(COMMANDS[name].optional or ('\0',))
            )
        ]
        return [f'differs: {", ".join(others)}'] if others else []

    def _begin(self, name):
        """Make the output folder as it is before the command."""
        shutil.rmtree(self.out, ignore_errors=True)
        setup = COMMANDS[name].setup
        if setup is not None:
            setup(self.inputs, self.out)

    def _run(self, name, workers=None, log=None, **options) -> Outcome:
        command = COMMANDS[name]
        words = command.words(
            self.inputs, self.out, workers or command.least_workers
        )
        return run_clouds(words, log or self.file, self.injector, **options)

    def note(
        self,
        group: str,
        fault: str,
        name: str,
        what: str,
        problems: Sequence[str],
        happened: bool = True,
    ) -> None:
        """Count a trial, unless it passed without the fault.

        Args:
            group: Key of the titles of the tables.
            fault: Row of the table.
            name: Of the command.
            what: When, for the log.
            problems: What is wrong with the result.
            happened: Whether the fault met the command.
        """
        if name.endswith(SHARED) and group != 'store':
            group = 'shared'
        record = Record(group, fault, name)
        record = self.records.get(record.key, record)
        verdict = 'ok' if happened else 'not counted, it did not happen'
        if happened or problems:
            record.trials += 1
            self.records[record.key] = record
        if problems:
            record.failed.append(f'{what}: {"; ".join(problems)}')
            verdict = 'FAILED ' + record.failed[-1]
        self.log(f'{group}, {fault}, {name}, {what}: {verdict}')
        self.noted()
