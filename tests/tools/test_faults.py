"""The short form of the campaign of faults, as its command runs it."""

import json
import shutil
import subprocess
import sys

import pytest

PAGE = """before
<!-- begin: tools/faults.py -->
of another run
<!-- end: tools/faults.py -->
after
"""


def test_the_short_campaign(tmp_path, repo_root):
    docs = tmp_path / 'docs'
    docs.mkdir()
    (docs / 'reliability.md').write_text(PAGE)
    script = repo_root / 'tools' / 'faults.py'
    done = subprocess.run(
        [sys.executable, script, '--short', '--docs', docs]
        + ['--work-dir', tmp_path / 'work'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ' trials, 0 failed\n' in done.stdout
    records = json.loads((docs / 'reliability.json').read_text())
    kinds = {record['group'] for record in records}
    compiled = any(map(shutil.which, ('cc', 'gcc', 'clang')))
    assert compiled == ({'disk', 'clock'} <= kinds)
    assert compiled or 'they need a C compiler' in done.stdout
    assert {'SIGKILL', 'memory', 'two runs'} <= kinds
    kills = sum(r['trials'] for r in records if r['group'] == 'SIGKILL')
    # Three of the six come at a moment when a run may have ended.
    assert 3 <= kills <= 6
    page = (docs / 'reliability.md').read_text()
    assert page.startswith('before\n') and page.endswith('after\n')
    assert f'### Kills: {kills} trials, 0 failed' in page
    assert 'of another run' not in page


@pytest.fixture
def campaign(repo_root, monkeypatch):
    for part in ('engine', 'predict'):
        monkeypatch.syspath_prepend(repo_root / 'tests' / part)
    from faults import campaign

    return campaign


@pytest.mark.parametrize('number', [1, 2, 3, 10])
def test_each_command_is_killed_in_both_ways(campaign, number):
    names = [f'command_{i}' for i in range(number)]
    plan = list(campaign.kill_plan(names, 2 * number))
    assert sorted(plan) == [(n, w) for n in sorted(names) for w in (0, 1)]


@pytest.mark.parametrize(
    'part, right',
    [(b'', True), (b'1\n', True), (b'1\n2', False), (b'2\n', False)],
)
def test_a_file_that_grows_has_the_first_lines(campaign, part, right):
    assert campaign.begins(part, b'1\n2\n') == right
