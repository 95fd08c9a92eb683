"""Changes of valid files, and processes that read them."""

import hashlib
import json
import os
import random
import resource
import select
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from faults.file_samples import READERS, Reader

# What a reader may take beyond what its process has, bytes.
MEMORY = 1 << 30
# Of one file, seconds of the processor; the machine may be busy.
SECONDS = 5.0
# Without any progress, seconds of the clock.
PATIENCE = 120.0
FINE = ('same', 'error')
DEFECTS = ('exception', 'crash', 'hang', 'memory')


def flip_bits(data, rng):
    for _ in range(rng.choice([1, 1, 4, 32])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut_end(data, rng):
    del data[rng.randrange(len(data)) :]


def cut_middle(data, rng):
    start = rng.randrange(len(data))
    del data[start : start + rng.choice([1, 4, 64, 1024])]


def repeat_chunk(data, rng):
    start = rng.randrange(len(data))
    chunk = data[start : start + rng.choice([1, 8, 64, 1024])]
    data[start:start] = chunk * rng.choice([1, 2, 50])


def zero(data, rng):
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice([1, 8, 64, 512])]
    data[start : start + len(part)] = bytes(len(part))


def swap(data, rng):
    length = rng.choice([1, 8, 64])
    first, second = (rng.randrange(len(data)) for _ in range(2))
    one, other = data[first : first + length], data[second : second + length]
    data[first : first + length] = other
    data[second : second + length] = one


def huge_number(data, rng):
    """Write the greatest integers of all widths, as lengths and sizes are."""
    width = rng.choice([1, 2, 4, 8])
    value = rng.choice([2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1, 0])
    start = rng.randrange(len(data))
    order = rng.choice(['little', 'big'])
    data[start : start + width] = value.to_bytes(width, order)


def byte_marks(data, rng):
    mark = rng.choice([b'\xef\xbb\xbf', b'\xff\xfe', b'\0', b'\r\n', b'\xff'])
    start = rng.choice([0, rng.randrange(len(data))])
    data[start:start] = mark


def odd_values(data, rng):
    """Put odd values into text, at random or in the place of a number."""
    odd = rng.choice(
        [b'NaN', b'-Infinity', b'1e999', b'9' * 400, b'9' * 5000, b'null']
        + [b'[' * 100_000, b'{"a":' * 50_000, b'-1', b'"\\ud800"', b'true']
        + [b'"../../etc/passwd"', b'[]', b'{}', b'""', b'1.5', b'\\u0000']
    )
    digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    start = rng.choice(digits) if digits else rng.randrange(len(data))
    end = start + 1
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    data[start : end if rng.random() < 0.8 else start] = odd


MUTATIONS = (
    *(flip_bits, cut_end, cut_middle, repeat_chunk, zero, swap),
    *(huge_number, byte_marks, odd_values),
)


class Case(NamedTuple):
    """A changed file."""

    kind: str
    name: str
    payload: bytes


def make_case(reader: Reader, files: dict[str, bytes], seed: str) -> Case:
    """Change one of a reader's files.

    Args:
        reader: The reader.
        files: Name -> content of its valid files.
        seed: Which change.
    """
    rng = random.Random(seed)
    name = rng.choice(sorted(files))
    if rng.random() < 0.03 and len(reader.suffixes) > 1:
        other = rng.choice(reader.suffixes)
        return Case('suffix', Path(name).stem + other, files[name])
    data = bytearray(files[name])
    kinds = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice(MUTATIONS)
        if data:
            change(data, rng)
            kinds.append(change.__name__)
    return Case('+'.join(kinds), name, bytes(data))


def digest(value: Any) -> str:
    """Hash what a reader returned."""
    sha256 = hashlib.sha256()

    def add(value):
        if isinstance(value, dict):
            # Readers differ in their order from run to run.
            for key in sorted(value, key=repr):
                add(key)
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for part in value:
                add(part)
        elif hasattr(value, 'numpy'):
            add(value.detach().numpy())
        elif hasattr(value, 'tobytes'):
            sha256.update(f'{value.shape}{value.dtype}'.encode())
            sha256.update(value.tobytes())
        else:
            sha256.update(repr(value).encode('utf-8', 'surrogatepass'))
        sha256.update(b'|')

    add(value)
    return sha256.hexdigest()


def _answer(reader, path, expected):
    """Read a file; return the outcome and what was said."""
    try:
        found = digest(reader.read(path))
    except UserError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                return 'memory', str(error)
            cause = cause.__cause__
        return 'error', str(error)
    except MemoryError:
        return 'memory', traceback.format_exc(limit=-3)
    except Exception:
        return 'exception', traceback.format_exc(limit=-3)
    return ('same' if found in expected else 'other'), ''


def _work(reader, files, expected, indices, seed, folder, pipe):
    """Read changed files one after the other, and write what came of it."""
    with open(os.devnull, 'w') as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    warnings.simplefilter('ignore')
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, payload in files.items():
        (folder / name).write_bytes(payload)
    for index in indices:
        case = make_case(reader, files, f'{seed} {reader.name} {index}')
        path = folder / case.name
        path.write_bytes(case.payload)
        os.write(pipe, json.dumps(dict(begin=index)).encode() + b'\n')
        begin = time.process_time()
        outcome, said = _answer(reader, path, expected)
        used = time.process_time() - begin
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if used > SECONDS:
            outcome = 'hang'
        elif most - base > MEMORY >> 10:
            outcome = 'memory'
        base = max(base, most)
        line = dict(index=index, outcome=outcome, seconds=round(used, 3))
        line |= dict(kind=case.kind, said=said[-800:])
        os.write(pipe, json.dumps(line).encode() + b'\n')
        path.unlink()
        if path.name in files:
            path.write_bytes(files[path.name])


def _cpu_seconds(process):
    fields = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2]
    used = sum(map(int, fields.split()[11:13]))
    return used / os.sysconf('SC_CLK_TCK')


def run_reader(
    reader: Reader,
    count: int,
    seed: str,
    log: Callable[[str], None] = lambda line: None,
    keep: Path | None = None,
) -> dict:
    """Read changed files of one reader.

    Args:
        reader: The reader.
        count: Number of changes.
        seed: Of them.
        log: Called with a line for each file that it failed with.
        keep: Folder for these files.

    Returns:
        ``counts`` by outcome, ``slowest`` in seconds, and ``failures``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reader.make(folder)
        files = {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.suffix in reader.suffixes and path.is_file()
        }
        expected = {digest(reader.read(folder / name)) for name in files}
        todo, results = list(range(count)), []
        while todo:
            begun = _run_batch(
                reader, files, expected, todo, seed, folder, results
            )
            done = {result['index'] for result in results}
            todo = [index for index in todo if index not in done]
            assert begun in done or not todo
    counts = Counter(result['outcome'] for result in results)
    failures = [r for r in results if r['outcome'] in DEFECTS]
    if reader.checked:
        failures += [r for r in results if r['outcome'] == 'other']
    for failure in failures:
        log(f'{reader.name} {failure}')
        if keep is not None:
            name = f'{seed} {reader.name} {failure["index"]}'
            case = make_case(reader, files, name)
            keep.mkdir(parents=True, exist_ok=True)
            place = keep / f'{reader.name}-{failure["index"]}-{case.name}'
            place.write_bytes(case.payload)
    return dict(
        counts=dict(counts),
        checked=reader.checked,
        slowest=max(result['seconds'] for result in results),
        failures=failures,
    )


def _run_batch(reader, files, expected, todo, seed, folder, results):
    """Fork a process that reads files until it is through, or dies."""
    read_end, write_end = os.pipe()
    process = os.fork()
    if not process:
        os.close(read_end)
        try:
            _work(reader, files, expected, todo, seed, folder, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    begun, since, at, buffer, killed = todo[0], 0.0, time.time(), b'', False
    while True:
        ready, _, _ = select.select([read_end], [], [], 1.0)
        if ready:
            part = os.read(read_end, 1 << 16)
            if not part:
                break
            buffer += part
            *lines, buffer = buffer.split(b'\n')
            for line in map(json.loads, lines):
                if 'begin' in line:
                    begun, at = line['begin'], time.time()
                    since = _cpu_seconds(process)
                else:
                    results.append(line)
        elif not killed and (
            _cpu_seconds(process) - since > 2 * SECONDS
            or time.time() - at > PATIENCE
        ):
            os.kill(process, signal.SIGKILL)
            killed = True
    os.close(read_end)
    _, status = os.waitpid(process, 0)
    if begun not in {result['index'] for result in results}:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        outcome = 'hang' if killed else 'crash'
        line = dict(index=begun, outcome=outcome, kind='', seconds=0.0)
        results.append(line | dict(said=f'ended by signal {number}'))
    return begun


def measure_readers(
    names: Sequence[str],
    count: int,
    seed: str,
    out: Path | None = None,
    keep: Path | None = None,
) -> None:
    """Let readers read changed files; print the counts.

    Args:
        names: Of readers; empty: all.
        count: Of changed files of each.
        seed: Of the changes.
        out: JSON file of the counts, written after each reader.
        keep: Folder of the files that a reader failed with.

    Raises:
        UserError: There is no such reader.
    """
    unknown = sorted(set(names) - set(READERS))
    if unknown:
        raise UserError(
            f'--readers: there is no {", ".join(unknown)}; there are '
            f'{", ".join(sorted(READERS))}'
        )
    found = {}
    for name in names or sorted(READERS):
        begin = time.time()
        found[name] = run_reader(READERS[name], count, seed, print, keep)
        line = ' '.join(f'{k} {v}' for k, v in found[name]['counts'].items())
        print(f'{name}: {line} ({time.time() - begin:.0f} s)', flush=True)
        if out:
            content = dict(seed=seed, count=count, readers=found)
            with atomic_path(out) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + '\n')
