"""Groups of runs, and the differences between them, by hand."""

from pathlib import Path

import pytest

from clouds_mmseg.report.compare import MEAN, compare, group_runs
from clouds_mmseg.report.read_run import Run


def make(name, seed, day, dusk, *, lr=0.1, **changes):
    """A finished run, whose source is day."""
    results = dict(
        phase='val',
        protocol='native',
        seed=seed,
        classes=['road', 'sky'],
        mean=dict(mIoU=dusk),
        domains={
            domain: dict(
                images=3,
                metrics=dict(mIoU=value),
                class_iou=dict(road=value + 10, sky=None),
            )
            for domain, value in (('day', day), ('dusk', dusk))
        },
    )
    config = dict(
        optim_wrapper=dict(lr=lr),
        randomness=dict(seed=seed),
        work_dir=name,
        load_from=f'{name}/clip.pth',
        val_evaluator=dict(source_domains=['day']),
    )
    run = Run(name, Path(name), results, config=config)
    run.trained, run.planned = 10, 10
    for key, value in changes.items():
        if hasattr(run, key):
            setattr(run, key, value)
        else:
            results[key] = value
    return run


def test_differences_are_of_a_seed_to_the_same_seed():
    found = compare(
        [
            make('seed0/plain', 0, 70.0, 30.0),
            make('seed0/new', 0, 69.0, 40.0, lr=0.2),
            make('seed1/plain', 1, 72.0, 32.0),
            make('seed1/new', 1, 71.0, 43.0, lr=0.2),
        ]
    )
    assert [g.name for g in found.groups] == ['plain', 'new']
    assert found.columns == [MEAN, 'day', 'dusk']
    assert found.values[MEAN] == dict(plain=[30.0, 32.0], new=[40.0, 43.0])
    difference = found.differences[MEAN]['new']
    assert difference.values == (10.0, 11.0)
    # t(0.975, 1) = 12.706, and the standard error is 0.5.
    assert difference.margin == pytest.approx(6.353, abs=1e-3)
    # The source is no target; sky has no IoU.
    assert found.classes['road'] == dict(plain=41.0, new=51.5)
    assert found.classes['sky'] == dict(plain=None, new=None)
    assert found.configs == dict(new=[('optim_wrapper.lr', '0.1', '0.2')])
    assert found.notes == []


def test_what_makes_a_group():
    runs = [
        make('a', 0, 1.0, 1.0),
        make('b', 1, 1.0, 1.0),
        make('c', 2, 1.0, 1.0, lr=0.3),
        make('d', 3, 1.0, 1.0, config={}),
    ]
    runs[1].config['load_from'] = 'elsewhere/clip.pth'
    names = [[run.name for run in g.runs] for g in group_runs(runs)]
    assert names == [['a', 'b'], ['c'], ['d']]
    runs[1].config['load_from'] = 'elsewhere/dino.pth'
    assert len(group_runs(runs)) == 4


def test_what_only_evaluates_makes_no_group():
    def change(**config):
        run = make('b', 1, 1.0, 1.0)
        run.config.update(config)
        return len(group_runs([first, run]))

    first = make('a', 0, 1.0, 1.0)
    used, unused = dict(out='data/used', num=5), dict(out='data/u', num=5)
    first.config['train_dataloader'] = dict(bank='data/used')
    first.config['banks'] = [used]
    train = dict(train_dataloader=dict(bank='data/used'), banks=[used])
    assert change(**train, val_dataloader=dict(x=1), log_level='DEBUG') == 1
    assert change(**{**train, 'banks': [used, unused]}) == 1
    assert change(**{**train, 'banks': [dict(used, num=6)]}) == 2
    assert change(**train, custom_hooks=[dict(type='EMATeacherHook')]) == 2
    first.config['train_cfg'] = dict(max_iters=9, val_interval=3)
    first.config['custom_hooks'] = []
    passive = [dict(type='ResultsHook')]
    train['custom_hooks'] = passive
    assert change(**train, train_cfg=dict(max_iters=9, val_interval=9)) == 1
    assert change(**train, train_cfg=dict(max_iters=8, val_interval=3)) == 2


def test_groups_of_one_name_are_told_apart():
    runs = [make(f'seed{i}/x', i, 1.0, 1.0, lr=i) for i in range(2)]
    assert [g.name for g in group_runs(runs)] == ['x (1)', 'x (2)']


def test_seeds_that_do_not_match_are_not_paired():
    found = compare([make('a', 0, 1.0, 1.0), make('b', 1, 1.0, 2.0, lr=0.2)])
    assert found.differences[MEAN] == dict(b=None)
    found = compare([make('a', 0, 1.0, 1.0), make('b', 0, 1.0, 2.0)])
    assert 'has a seed more than once' in found.notes[0]


@pytest.mark.parametrize(
    ('changes', 'note'),
    [
        (dict(protocol='clouds'), 'its protocol is not that of a'),
        (dict(classes=['road', 'car']), 'its classes are not those'),
        (dict(trained=5), r'it is unfinished \(5 of 10\)'),
        (dict(results=None), 'it has no results by domain'),
    ],
)
def test_what_is_not_comparable_is_left_out(changes, note):
    found = compare(
        [make('a', 0, 1.0, 1.0), make('b', 0, 1.0, 9.0, lr=0.2, **changes)]
    )
    assert [g.name for g in found.groups] == ['a']
    assert 'b is not compared' in found.notes[0]


def test_other_domains():
    other = make('b', 0, 1.0, 9.0, lr=0.2)
    other.results['domains']['night'] = other.results['domains'].pop('dusk')
    found = compare([make('a', 0, 1.0, 1.0), other])
    assert found.columns == ['day']
    assert 'The target domains of the runs are not the same' in found.notes[0]
    del other.results['domains']['day']
    found = compare([make('a', 0, 1.0, 1.0), other])
    assert found.columns == []
    assert 'The runs have no domain in common.' in found.notes


def test_another_number_of_images():
    other = make('b', 0, 1.0, 9.0, lr=0.2)
    other.results['domains']['dusk']['images'] = 2
    found = compare([make('a', 0, 1.0, 1.0), other])
    assert found.columns == ['day']
    assert 'different numbers of images (2, 3)' in found.notes[0]


def test_a_further_source_does_not_hinder_the_mean():
    other = make('b', 0, 1.0, 9.0, lr=0.2)
    domains = other.results['domains']
    other.results['domains'] = {'restyled': domains['day'], **domains}
    other.config['val_evaluator']['source_domains'].append('restyled')
    found = compare([make('a', 0, 1.0, 1.0), other])
    assert found.columns == [MEAN, 'day', 'dusk']
