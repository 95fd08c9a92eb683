"""tools/verify_dataset.py, from a damaged set to one in order."""

import json

import pytest
from tiny_run import write_config, write_data


@pytest.fixture
def own(tmp_path):
    """Data and a config that a test may damage."""
    data = write_data(tmp_path / 'data')
    return data, write_config(tmp_path / 'verified.py', data)


def test_from_damaged_to_fixed(run_tool, own, capsys):
    data, config = own
    (data / 'day_train/labels/001.png').unlink()
    bad = data / 'dusk_val/images/002.png'
    bad.write_bytes(bad.read_bytes()[:99])
    verify = ('verify_dataset.py', '--config', config, '--workers', '1')
    assert run_tool(*verify) == 1
    out = capsys.readouterr().out
    assert 'image images/001.png has no label labels/001.png' in out
    assert 'image images/002.png is truncated' in out
    assert f'clouds verify --config {config} --fix' in out
    report = json.loads((data / 'day_train/clouds_verify.json').read_text())
    assert len(report['sets']) == 1

    assert run_tool(*verify, '--fix') == 0
    out = capsys.readouterr().out
    assert 'No file has changed since' in out
    assert 'Moved 3 files aside' in out
    assert 'No open errors.' in out
    assert (data / 'dusk_val/quarantine/labels/002.png').is_file()
    assert run_tool(*verify) == 0
    assert '5 |          |' in capsys.readouterr().out


def test_a_subset_is_refused_until_it_is_accepted(run_tool, tmp_path, capsys):
    write_data(tmp_path / 'data')
    root = tmp_path / 'data/day_train'
    verify = ('verify_dataset.py', 'gta5', '--data-root', root)
    verify = (*verify, '--workers', '1')
    assert run_tool(*verify) == 1
    out = capsys.readouterr().out
    # The other error: these ids are none of Cityscapes' classes.
    assert 'labels in which no class ever occurs: 1' in out
    assert 'images holds 6 images; there should be 24966' in out
    assert '--fix' not in out
    assert run_tool(*verify, '--accept') == 0
    assert 'Accepted 2 errors' in capsys.readouterr().out
    assert run_tool(*verify) == 0
    assert '2 accepted' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['gta'], "'gta' is not a data set with a name: gta5,"),
        (['gta5', '--data-root', '/no/where'], '/no/where does not exist'),
        (['--config', 'nowhere.py'], 'nowhere.py'),
    ],
)
def test_mistakes_are_one_line(run_tool, capsys, words, message):
    assert run_tool('verify_dataset.py', *words) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1 and message in err[0]
    assert err[0].startswith('error: ')


def test_one_of_name_and_config_is_needed(run_tool, capsys):
    assert run_tool('verify_dataset.py') == 2
    assert 'one of the arguments name --config is required' in (
        capsys.readouterr().err
    )
