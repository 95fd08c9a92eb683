"""The short form of the campaign of faults, as its command runs it."""

import json
import shutil
import subprocess
import sys

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
    assert sum(r['trials'] for r in records if r['group'] == 'SIGKILL') == 6
    page = (docs / 'reliability.md').read_text()
    assert page.startswith('before\n') and page.endswith('after\n')
    assert '### Kills: 6 trials, 0 failed' in page
    assert 'of another run' not in page
