import json
import runpy
import sys

import pytest


@pytest.fixture(scope='module')
def main(repo_root):
    path = repo_root / 'tools' / 'generate_prompts.py'
    return runpy.run_path(str(path))['main']


def test_default_backend_writes_prompts_and_how(main, tmp_path, capsys):
    out = tmp_path / 'p.txt'
    main(['--out', str(out), '--num', '25', '--seed', '4'])
    assert len(out.read_text().splitlines()) == 25
    how = json.loads((tmp_path / 'p.json').read_text())
    assert how['backend'] == 'template' and how['seed'] == 4
    shown = capsys.readouterr().out
    assert '25 prompts, 0 duplicates dropped' in shown
    assert 'motorcycle' in shown and 'no prompt names' not in shown
    main(['--out', str(tmp_path / 'q.txt'), '--num', '25', '--seed', '4'])
    assert (tmp_path / 'q.txt').read_bytes() == out.read_bytes()


def test_show_instruction_needs_nothing(main, capsys):
    main(['--backend', 'llm', '--show-instruction'])
    shown = capsys.readouterr().out
    assert 'text-to-image' in shown and '{classes}' in shown


def test_a_mistake_is_one_line(repo_root, tmp_path, monkeypatch, capsys):
    path = str(repo_root / 'tools' / 'generate_prompts.py')
    out = str(tmp_path / 'p.txt')
    monkeypatch.setattr(sys, 'argv', [path, '--backend', 'llm', '--out', out])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(path, run_name='__main__')
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: --backend llm needs --model')
    assert not list(tmp_path.iterdir())
