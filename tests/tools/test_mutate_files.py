"""The tool that reads damaged files finds faults, and the readers have none.

python tools/mutate_files.py --count 1000
"""

import os
import signal

import pytest
from faults.file_samples import READERS, Reader
from faults.mutations import make_case, run_reader


# One of each kind: checksums, pickles, archives, text.
@pytest.mark.parametrize(
    'name',
    ['png', 'pkl', 'TorchScript', 'zip', 'prepared set', 'label ids'],
)
def test_readers_refuse_or_read(name):
    result = run_reader(READERS[name], 25, 'suite')
    assert not result['failures'], result['failures']
    assert sum(result['counts'].values()) == 25


def _faulty(path):
    payload = path.read_bytes()
    if len(payload) % 3 == 1:
        raise KeyError('a bug')
    if len(payload) % 3 == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return payload


def test_faults_are_counted(tmp_path):
    def make(folder):
        (folder / 'x.bin').write_bytes(bytes(range(99)))

    reader = Reader('faulty', make, _faulty, ('.bin',), True)
    result = run_reader(reader, 20, '0', keep=tmp_path)
    counts = result['counts']
    assert counts['exception'] and counts['crash'] and counts['other']
    kinds = {failure['outcome'] for failure in result['failures']}
    assert kinds == {'exception', 'crash', 'other'}
    assert len(list(tmp_path.iterdir())) == len(result['failures'])


def test_a_seed_names_a_file():
    files = {'a.png': bytes(range(200))}
    one, same, other = (
        make_case(READERS['png'], files, seed) for seed in ('1', '1', '2')
    )
    assert one == same != other
