"""The console command ``clouds`` and the scripts of tools/."""

import re
import subprocess
import sys
import threading

import pytest

from clouds_mmseg.version import __version__
from clouds_mmseg_cli.command import COMMANDS, main
from clouds_mmseg_cli.errors import plain_errors

# Script -> command. Other scripts are for developers, and need a checkout.
SCRIPTS = dict(
    compare_protocols='protocols',
    convert_checkpoint='convert',
    export_model='export',
    fill_cache='cache',
    filter_images='filter',
    generate_images='generate',
    generate_prompts='prompts',
    make_corruptions='corrupt',
    make_toycity='toycity',
    pack_images='pack',
    predict='predict',
    demo='demo',
    prepare_dataset='prepare',
    publish_model='publish',
    review='review',
    report='report',
    test='test',
    train='train',
    verify_dataset='verify',
)
DEVELOPERS = {
    'ablation',
    'benchmark',
    'check_parity',
    'faults',
    'make_model_zoo',
    'licences',
    'measure_filter',
    'measure_refiners',
    'mutate_files',
}


def status_of(*words):
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


def test_each_script_of_a_user_is_a_command(repo_root):
    scripts = {path.stem for path in (repo_root / 'tools').glob('*.py')}
    assert scripts == DEVELOPERS | set(SCRIPTS)
    assert sorted(SCRIPTS.values()) == sorted(COMMANDS)


@pytest.mark.parametrize(('script', 'command'), SCRIPTS.items())
def test_a_script_runs_the_function_of_its_command(repo_root, script, command):
    text = (repo_root / 'tools' / f'{script}.py').read_text()
    assert f'from clouds_mmseg_cli.{command} import main\n' in text
    assert 'argparse' not in text


@pytest.mark.parametrize('words', [(), ('--help',), ('-h',)])
def test_the_overview_has_a_line_for_each_command(words, capsys):
    main(words)
    shown = capsys.readouterr().out
    listed = re.findall(r'^  (\w+)  +\w.*$', shown, re.MULTILINE)
    assert listed == list(COMMANDS)
    assert all(len(line) < 80 for line in shown.splitlines())


@pytest.mark.parametrize('command', COMMANDS)
def test_the_help_names_the_command(command, capsys):
    assert status_of(command, '--help') == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f'usage: clouds {command} ')
    assert '%(prog)s' not in shown and 'tools/' not in shown


def test_an_unknown_command_names_the_nearest(capsys):
    assert status_of('trian', 'config.py') == 2
    assert "no command 'trian'; did you mean train?" in capsys.readouterr().err
    assert status_of('prepare_dataset') == 2
    assert 'did you mean prepare?' in capsys.readouterr().err
    assert status_of('zzz') == 2
    assert 'see clouds --help' in capsys.readouterr().err


def test_a_wrong_option_names_the_command(capsys):
    assert status_of('publish', '--nothing') == 2
    assert 'clouds publish: error: ' in capsys.readouterr().err


def test_a_mistake_in_the_input_is_one_message(tmp_path, capsys):
    out = str(tmp_path / 'p.txt')
    assert status_of('prompts', '--backend', 'llm', '--out', out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: --backend llm needs --model')


def test_a_thread_that_cannot_write_is_one_line(capsys):
    def fail(kind):
        raise kind(28, 'No space left on device', b'events.tb')

    with plain_errors():
        for kind in (OSError, ValueError):
            thread = threading.Thread(target=fail, args=(kind,))
            thread.start()
            thread.join()
            told = capsys.readouterr().err
            assert ('Traceback' in told) == (kind is ValueError)
            if kind is OSError:
                assert told.startswith('warning: events.tb: No space left')


def test_a_command_works(tmp_path, capsys):
    out = tmp_path / 'p.txt'
    main(['prompts', '--out', str(out), '--num', '3'])
    assert len(out.read_text().splitlines()) == 3
    assert '3 prompts' in capsys.readouterr().out


def test_the_version(capsys):
    main(['--version'])
    assert capsys.readouterr().out.strip() == __version__


def test_help_imports_nothing_heavy():
    probe = (
        'import sys; from clouds_mmseg_cli.command import main; import '
        'contextlib\nfor name in sys.argv[1:]:\n'
        '    with contextlib.suppress(SystemExit): main([name, "--help"])\n'
        'print(sorted({"torch", "mmengine", "mmseg", "numpy", "clouds_mmseg"}'
        ' & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', probe, *COMMANDS],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == '[]'
    assert done.stdout.count('usage: clouds ') == len(COMMANDS)
