"""--help answers at once: nothing heavy is imported before it."""

import contextlib
import io
import json
import subprocess
import sys

_PROBE = """
import contextlib, io, json, runpy, sys
found = {}
for tool in sys.argv[1:]:
    sys.argv = [tool, '--help']
    out = io.StringIO()
    status = None
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(tool, run_name='__main__')
        except SystemExit as leave:
            status = leave.code or 0
    heavy = {'torch', 'mmengine', 'mmseg', 'numpy', 'clouds_mmseg'}
    found[tool] = [status, out.getvalue(), sorted(heavy & set(sys.modules))]
print(json.dumps(found))
"""


def test_help_of_every_tool_imports_nothing_heavy(repo_root):
    tools = sorted((repo_root / 'tools').glob('*.py'))
    assert len(tools) > 10
    done = subprocess.run(
        [sys.executable, '-c', _PROBE, *map(str, tools)],
        capture_output=True,
        text=True,
        cwd=repo_root,
    )
    assert done.returncode == 0, done.stderr
    for tool, (status, text, heavy) in json.loads(done.stdout).items():
        assert status == 0, tool
        assert 'usage: ' in text and '--help' in text, tool
        assert heavy == [], tool


def test_names_in_the_help_of_the_benchmark():
    from clouds_mmseg_cli.benchmark import parse_args

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        parse_args(['loader', '--help'])
    # argparse wraps lines by the width of the terminal.
    assert 'png-fast, bmp, webp' in ' '.join(out.getvalue().split())
