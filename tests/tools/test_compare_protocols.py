"""clouds protocols: one checkpoint, a column for each protocol."""

import json


def test_side_by_side(trained, run_tool, tmp_path, capsys):
    config, checkpoint = trained
    names = ['native', 'rein']
    status = run_tool(
        'compare_protocols.py',
        config,
        checkpoint,
        '--work-dir',
        tmp_path,
        '--protocols',
        *names,
    )
    assert status == 0
    found = json.loads((tmp_path / 'protocols.json').read_text())
    assert list(found['protocols']) == names
    assert found['checkpoint']['sha256']
    text = capsys.readouterr().out
    for name in names:
        one = found['protocols'][name]
        path = tmp_path / 'protocols' / name / 'results.json'
        assert one['results'] == str(path)
        results = json.loads(path.read_text())
        assert results['protocol'] == name
        assert one['mean'] == results['mean']
        assert set(one['domains']) == {'day', 'dusk'}
        for domain, values in one['domains'].items():
            whole = results['domains'][domain]
            assert values['metrics'] == whole['metrics']
            # Labels are compared as published in both.
            first = found['protocols']['native']['domains'][domain]
            assert values['labelled_pixels'] == first['labelled_pixels']
            assert 0 < values['labelled_pixels'] <= 32 * 32 * values['images']
            assert f'{values["metrics"]["mIoU"]:.2f}' in text
    # The images are enlarged: these are other predictions.
    day = [found['protocols'][n]['domains']['day'] for n in names]
    assert day[0]['metrics'] != day[1]['metrics']
    assert '512x512 every 341' in text and '1024x512' in text


def test_bad_names_are_refused_with_the_list(run_tool, tmp_path, capsys):
    for name in ('tqdm', 'native native'):
        status = run_tool(
            'compare_protocols.py',
            'none.py',
            'none.pth',
            '--protocols',
            *name.split(),
        )
        assert status == 1
        error = capsys.readouterr().err
        if name == 'tqdm':
            assert 'clouds, native, slide, rein, soma' in error
        else:
            assert 'twice' in error
