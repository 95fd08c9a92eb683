"""Verification as a whole: what is found, kept and remembered."""

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from interrupted_work import share_with_interruptions, tree

from clouds_mmseg.data_tools.verify import (
    Task,
    accept,
    advice_text,
    keep,
    reports_text,
    verify,
)
from clouds_mmseg.data_tools.verify import run as module
from clouds_mmseg.data_tools.verify.report import (
    changes_since,
    current_reports,
    read_reports,
    report_of,
)
from clouds_mmseg.datasets import DataError, GeneratedDataset
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.data_root import (
    REPORT_DIR_VARIABLE,
    report_folder,
    use_folder,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.parallel import parallel_map


def kinds(report):
    return [finding.kind for finding in report.findings]


def test_a_good_set(check, pairs):
    report = check(expected=3)
    assert report.findings == [] and report.images == 3
    assert report.sizes == {'20x12': 3}
    names = dict(zip(report.classes, report.pixels, strict=True))
    assert {n: p for n, p in names.items() if p} == dict(
        road=180, sidewalk=180, car=180
    )
    assert report.ignored == 180
    assert max(report.images_with) == 3
    text = reports_text([report])
    assert '20x12' in text and '33.333 (3)' in text and '25.000' in text
    assert str(pairs / 'clouds_verify.json') in text
    assert advice_text([report], 'x') == ''


def test_interrupted_processes_verify_as_one_does(
    gta, pairs, more, truncate, tmp_path, monkeypatch
):
    """Two sets, one of which lies in the folder of the other."""
    more(8)
    truncate(pairs / 'labels/00001.png')
    (pairs / 'labels/00002.png').unlink()
    tasks = [gta(), gta('gta5 val', False, skip=('00003',))]
    monkeypatch.setattr(module, 'datetime', _Noon)
    kept = {}
    for name in ('one', 'many'):
        folder = tmp_path / name
        folder.mkdir()
        use_folder(REPORT_DIR_VARIABLE, folder)
        if name == 'one':
            reports = verify(tasks, workers=1)
        else:
            shared = share_with_interruptions(
                lambda: verify(tasks, shared=True, lease=1),
                Path(report_folder(str(pairs))),
            )
        kept[name] = tree(folder)
    assert kept['one'] == kept['many'] and len(kept['one']) == 2
    assert reports_text(shared) == reports_text(reports).replace(
        str(tmp_path / 'one'), str(tmp_path / 'many')
    )


class _Noon(datetime):
    """One time of verification for all processes."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, 12)


def test_one_of_each_kind_is_found_and_named(
    check, pairs, files, truncate, more
):
    more(12)
    truncate(pairs / 'images/00000.png')
    truncate(pairs / 'labels/00001.png')
    files.label(pairs / 'labels/00002.png', files.label_of([7, 77]))
    files.image(pairs / 'images/00003.png', 5, 5)
    (pairs / 'labels/00004.png').unlink()
    (pairs / 'images/00005.png').unlink()
    files.label(pairs / 'labels/00006.png', np.zeros(files.shape))
    files.image(pairs / 'images/00007.png', seed=8)
    report = check(expected=12)
    assert sorted(kinds(report)) == sorted(
        'count image label ids size no_label orphan all_ignored duplicate'
        ''.split()
    )
    assert {f.file for f in report.errors} == {
        '',
        'images/00000.png',
        'labels/00001.png',
        'labels/00002.png',
        'labels/00003.png',
        'images/00004.png',
        'labels/00005.png',
    }
    text = reports_text([report])
    for finding in report.findings:
        assert finding.message in text
    assert 'holds 11 images; there should be 12' in text
    assert 'warning: images that occur twice: 1' in text
    advice = advice_text([report], 'the command')
    for line in ('the command --fix', 'the command --accept'):
        assert line in advice


def test_the_report_lies_beside_the_data(check, pairs, truncate):
    truncate(pairs / 'images/00000.png')
    report = check(expected=3)
    content = json.loads((pairs / 'clouds_verify.json').read_text())
    (kept,) = content['sets'].values()
    assert kept['findings'][0]['kind'] == 'image'
    assert set(kept['stamps']) == {
        f'{kind}/{n:05d}.png'
        for kind in ('images', 'labels')
        for n in range(3)
    }
    (again,) = read_reports(str(pairs)).values()
    report.digests = {}
    assert again == report


def test_sets_below_one_root_share_the_file(check, pairs):
    check()
    first = dict(img_path='images')
    check(data_prefix=first)
    assert len(read_reports(str(pairs))) == 2


def test_a_file_that_is_no_report(check, gta, pairs):
    (pairs / 'clouds_verify.json').write_text('{"format": 0}')
    with pytest.raises(DataError, match='clouds_verify.json is not a report'):
        check()
    with pytest.raises(DataError, match='Delete it and verify again'):
        report_of(gta().dataset)


def test_what_was_accepted_stays_accepted_and_new_errors_do_not(
    check, pairs, truncate
):
    truncate(pairs / 'images/00000.png')
    report = check()
    assert accept([report]) == 1 and keep([report])
    assert check().open_errors == []
    truncate(pairs / 'images/00001.png')
    again = check()
    assert [f.file for f in again.open_errors] == ['images/00001.png']
    assert len(again.errors) == 2
    # The same file, damaged otherwise.
    truncate(pairs / 'images/00000.png', 55)
    assert len(check().open_errors) == 2


def test_a_leak_from_evaluation_into_training(pairs, gta, files, tmp_path):
    other = tmp_path / 'val'
    for number in range(2):
        files.image(other / f'images/x{number}.png', seed=[1, 50][number])
        files.label(other / f'labels/x{number}.png', files.label_of([7]))
    val = gta('gta5 val', False, data_root=str(other))
    train, held_out = verify([gta(), val], workers=1)
    (finding,) = train.errors
    assert finding.kind == 'leak' and held_out.findings == []
    assert finding.message == (
        'image images/00001.png is the same as images/x0.png of gta5 val.'
    )
    # To be moved, both files must be known.
    assert finding.label == 'labels/00001.png'


def test_the_same_files_under_two_names_are_read_once(gta, pairs):
    reports = verify([gta(), gta('gta5 val', False)], workers=1)
    assert [r.name for r in reports] == ['gta5 train']
    os.symlink(pairs / 'images', pairs / 'linked')
    prefix = dict(img_path='linked', seg_map_path='labels')
    linked = gta('linked', False, data_prefix=prefix)
    reports = verify([gta(), linked], workers=1)
    # One file under two paths is no leak.
    assert [len(r.findings) for r in reports] == [0, 0]


def test_labels_of_nothing_but_ignored_pixels(check, pairs, files):
    for number in range(3):
        files.label(pairs / f'labels/{number:05d}.png', np.zeros(files.shape))
    assert kinds(check()) == ['all_ignored'] * 3 + ['ignored']


def test_processes_find_the_same(gta, pairs, truncate, more):
    more(9)
    truncate(pairs / 'images/00004.png')
    (one,) = verify([gta()], workers=1)
    (two,) = verify([gta()], workers=2)
    two.when = one.when
    assert one == two


def test_data_that_is_not_there(gta, tmp_path):
    away = gta(data_root=str(tmp_path / 'away'))
    (report,) = verify([away], workers=1)
    assert kinds(report) == ['layout'] and report.key == ''
    assert 'away does not exist' in reports_text([report])
    # There is nothing to accept or to move.
    assert accept([report]) == 0
    advice = advice_text([report], 'x')
    assert '--accept' not in advice and '--fix' not in advice


def test_images_without_labels(check, pairs):
    report = check(data_prefix=dict(img_path='images'))
    assert report.images == 3 and report.pixels == []
    assert '% of pixels' not in reports_text([report])


def test_workers_are_checked(gta):
    with pytest.raises(UserError, match='workers=0 must be at least 1'):
        verify([gta()], workers=0)


def _die(item):
    os._exit(1)


def test_a_killed_worker_is_explained():
    with pytest.raises(UserError, match='worker processes was killed'):
        list(parallel_map(_die, [1, 2], workers=2, title='x'))


def test_a_folder_that_cannot_be_written_to(check, monkeypatch, pairs):
    def refuse(path):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('clouds_mmseg.utils.remote.atomic_path', refuse)
    report = check()
    assert report.images == 3
    assert not keep([report])
    assert not (pairs / 'clouds_verify.json').exists()
    text = reports_text([report])
    assert 'The reports:' not in text and 'clouds_verify.json' not in text
    assert f'--report-dir DIR keeps reports elsewhere:\n  {pairs}' in text


def test_a_folder_for_reports(check, monkeypatch, pairs, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp('reports')
    monkeypatch.setenv('CLOUDS_REPORT_DIR', str(elsewhere))
    report = check()
    names = sorted(path.name for path in elsewhere.glob('*/*'))
    assert names == ['clouds_statistics.json', 'clouds_verify.json']
    assert not list(pairs.glob('clouds_*'))
    assert str(elsewhere) in reports_text([report])
    assert list(read_reports(str(pairs))) == [report.key]
    # What lies beside the data counts where the folder has nothing.
    monkeypatch.delenv('CLOUDS_REPORT_DIR')
    check()
    monkeypatch.setenv('CLOUDS_REPORT_DIR', str(elsewhere / 'other'))
    assert list(read_reports(str(pairs))) == [report.key]


class TestRecall:
    def test_nothing_changed(self, check, gta, pairs, truncate):
        assert current_reports([gta()]) is None
        truncate(pairs / 'images/00000.png')
        check()
        (report,) = current_reports([gta()])
        assert kinds(report) == ['image']

    @pytest.mark.parametrize(
        'change', ['touch', 'new', 'gone', 'orphan', 'expected']
    )
    def test_any_change_is_noticed(self, check, gta, pairs, files, change):
        check()
        options = {}
        if change == 'touch':
            os.utime(pairs / 'labels/00001.png', ns=(1, 1))
        elif change == 'new':
            files.image(pairs / 'images/9.png')
            files.label(pairs / 'labels/9.png', files.label_of([7]))
        elif change == 'gone':
            (pairs / 'images/00001.png').unlink()
            (pairs / 'labels/00001.png').unlink()
        elif change == 'orphan':
            files.label(pairs / 'labels/9.png', files.label_of([7]))
        else:
            options = dict(expected=5)
        assert current_reports([gta(**options)]) is None

    def test_changes_are_counted(self, check, gta, pairs, files):
        check()
        os.utime(pairs / 'labels/00001.png', ns=(1, 1))
        files.image(pairs / 'images/9.png')
        files.label(pairs / 'labels/9.png', files.label_of([7]))
        dataset = gta().dataset
        assert changes_since(report_of(dataset), dataset) == 2


def test_a_bank_is_read_and_has_no_report(tmp_path, truncate):
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('night\n')
    out = tmp_path / 'bank'
    generate_images(
        out, prompts=prompts, num=2, size=(64, 32), contact_sheet=False
    )
    bank = GeneratedDataset(bank=str(out), lazy_init=True, pipeline=[])
    (report,) = verify([Task('train generated', bank, True)], workers=1)
    assert report.findings == [] and report.images == 2
    assert report.sizes == {'64x32': 2}
    truncate(out / 'images/000001.png')
    bank = GeneratedDataset(bank=str(out), lazy_init=True, pipeline=[])
    (report,) = verify([Task('train generated', bank, True)], workers=1)
    # Its manifest knows already.
    assert kinds(report) == ['layout']
    assert not list(out.rglob('clouds_*.json'))
