"""The tool, and a run on what it has made."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from prepare_fake import write_archives
from prepare_fakes import MAKERS, set_name
from tiny_run import read_config

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.datasets.driving import SETS
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE

SIZE = dict(type='Resize', scale=(32, 32), keep_ratio=False)
LABELS = dict(type='LoadSegLabels')


@pytest.fixture
def prepare(run_tool, tmp_path):
    """Prepare a fake by the tool; returns the folder."""

    def run(name, *words):
        src = write_archives(tmp_path / f'{name} zips', MAKERS[name]())
        out = tmp_path / 'data' / name
        words = ('--src', src, '--out', out, '--workers', 1, *words)
        assert run_tool('prepare_dataset.py', name, *words) == 0
        return out

    return run


def test_training_and_testing_on_what_was_prepared(
    prepare, tiny_config, tmp_path, monkeypatch, capsys
):
    """GTA5 and Cityscapes, by the pieces of configs/_base_/datasets."""
    prepare('gta5')
    assert 'train 3 images; 6 files made, 0 there' in capsys.readouterr().out
    prepare('cityscapes')
    out = capsys.readouterr().out
    assert 'test 1, train 2, val 1 images; 8 files made' in out
    assert 'labels from polygons' in out
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(tmp_path / 'data'))
    cfg = read_config(tiny_config, tmp_path / 'run')
    steps = [
        dict(type='LoadSegImage'),
        LABELS,
        SIZE,
        dict(type='PackDGInputs'),
    ]
    cfg.train_dataloader.dataset = dict(
        type='GTA5Dataset', data_root='data/gta5', pipeline=steps
    )
    # Compared at the label's own size.
    steps = [steps[0], SIZE, LABELS, steps[-1]]
    cfg.test_dataloader.dataset = cfg.val_dataloader.dataset = dict(
        type='CityscapesDGDataset', data_root='data/cityscapes', pipeline=steps
    )
    cfg.model.decode_head.num_classes = len(CLASSES)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.domains = ['cityscapes']
    cfg.custom_hooks = [dict(type='ResultsHook')]
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = 1
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 1
    results = json.loads((Path(cfg.work_dir) / 'results.json').read_text())
    assert 'cityscapes' in json.dumps(results)
    metainfo = runner.train_dataloader.dataset.metainfo
    assert metainfo['classes'] == CLASSES and metainfo['palette'] == PALETTE


def test_options_reach_the_preparation(prepare, run_tool, capsys):
    words = ('--resize-short', '6', '--recode', 'webp')
    out = prepare('mapillary', *words)
    kept = json.loads((out / 'clouds_dataset.json').read_text())
    assert kept['resize_short'] == 6 and kept['name'] == 'mapillary'
    assert kept['recode'] == 'webp'
    src = out.parents[1] / 'mapillary zips'
    words = ('--src', src, '--out', out, '--workers', 1, '--copy')
    assert run_tool('prepare_dataset.py', 'mapillary', *words) == 1
    assert 'was prepared with --resize-short 6' in capsys.readouterr().err


def test_a_mistake_is_one_line(run_tool, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_tool('prepare_dataset.py', 'gta5', '--src', 'nowhere') == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: --src nowhere does not exist')
    assert not list(tmp_path.iterdir())
    assert run_tool('prepare_dataset.py', 'gta6', '--src', '.') == 2
    assert 'nighttime_driving' in capsys.readouterr().err


def test_the_default_folder_follows_the_data_root(
    run_tool, tmp_path, monkeypatch
):
    src = write_archives(tmp_path / 'zips', MAKERS['urbansyn']())
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(tmp_path / 'disk'))
    words = ('urbansyn', '--src', src, '--workers', 1)
    assert run_tool('prepare_dataset.py', *words) == 0
    assert (tmp_path / 'disk/urbansyn/ss/rgb_0001_labelTrainIds.png').is_file()


def test_the_commands_of_the_documentation(repo_root):
    """Every set has one, they parse, and name the official archives."""
    text = (repo_root / 'docs/datasets.md').read_text()
    text = text.replace('\\\n', ' ')
    tool = runpy.run_path(str(repo_root / 'tools/prepare_dataset.py'))
    archives, seen = {}, set()
    for name, make in MAKERS.items():
        archives.setdefault(set_name(name), set()).update(make().archives)
    for line in re.findall(
        r'^python tools/prepare_dataset.py (.*)', text, re.M
    ):
        args = tool['parse_args'](shlex.split(line, comments=True))
        seen.add(args.name)
        named = {Path(p).name for p in args.src if p.endswith('.zip')}
        assert named <= archives[args.name], line
    assert seen == set(archives)


def test_the_table_of_the_documentation(repo_root):
    rows = []
    for name, kind in SETS.items():
        facts = kind.FACTS
        images = ' / '.join(
            'unknown' if number is None else f'{number:,}'
            for number in facts.images.values()
        )
        if facts.size:
            images += ' of {}x{}'.format(*facts.size)
        if facts.remark:
            images += f', {facts.remark}'
        cells = [f'`{name}`', images, facts.role, facts.download]
        rows.append(f'| {" | ".join(cells)} | {facts.licence} |')
    text = (repo_root / 'docs/datasets.md').read_text()
    found = [row for row in text.splitlines() if row.startswith('| `')]
    assert [row for row in found if row.split('`')[1] in SETS] == rows
