"""Quarantine of bad files, and accepted findings."""

import os

import pytest

from clouds_mmseg.data_tools.verify import accept, fix, keep
from clouds_mmseg.data_tools.verify.report import current_reports
from clouds_mmseg.datasets import DataError, GTA5Dataset


def test_bad_pairs_go_aside_and_datasets_do_not_see_them(
    check, gta, pairs, truncate, more
):
    more(8)
    truncate(pairs / 'images/00000.png')
    truncate(pairs / 'labels/00001.png')
    (pairs / 'labels/00002.png').unlink()
    (pairs / 'images/00003.png').unlink()
    report = check(expected=7)
    moved = fix([report])
    assert keep([report])
    assert sorted(os.path.relpath(path, pairs) for path in moved) == [
        'images/00000.png',
        'images/00001.png',
        'images/00002.png',
        'labels/00000.png',
        'labels/00001.png',
    ]
    aside = pairs / 'quarantine'
    assert (aside / 'labels/00001.png').stat().st_size == 60
    assert not (pairs / 'images/00001.png').exists()
    # Nothing reads a label without image: it may belong to other images.
    assert (pairs / 'labels/00003.png').exists()
    assert report.open_errors == []
    assert {f.state for f in report.errors} == {'fixed'}
    assert len(GTA5Dataset(data_root=str(pairs))) == 4
    # What is left is in order, and known to be.
    assert current_reports([gta(expected=7)]) is not None
    again = check(expected=7)
    assert again.findings == []
    assert (again.images, again.set_aside) == (4, 3)


def test_only_what_is_open_is_moved(check, pairs, truncate):
    truncate(pairs / 'images/00000.png')
    report = check()
    accept([report])
    assert fix([report]) == []
    assert (pairs / 'images/00000.png').exists()
    assert not (pairs / 'clouds_skip.txt').exists()


def test_the_copy_in_training_is_the_one_that_goes(check, pairs, files):
    from clouds_mmseg.datasets.sample_check import Finding

    report = check()
    report.findings.append(
        Finding('leak', 'x', 'images/00001.png', 'labels/00001.png')
    )
    assert len(fix([report])) == 2
    assert len(GTA5Dataset(data_root=str(pairs))) == 2


def test_a_whole_data_set_is_never_moved(check, pairs):
    for path in (pairs / 'labels').glob('*.png'):
        path.unlink()
    report = check()
    with pytest.raises(DataError, match='3 of 3 images below .* are bad'):
        fix([report])
    assert len(list((pairs / 'images').glob('*.png'))) == 3
    assert not (pairs / 'quarantine').exists()


def test_nor_is_much_of_a_large_one(check, pairs, truncate, more):
    more(30)
    for number in range(11):
        truncate(pairs / f'images/{number:05d}.png')
    report = check()
    with pytest.raises(DataError, match='--fix would move the data set away'):
        fix([report])


def test_links_still_lead_where_they_led(check, pairs, tmp_path, files, more):
    more(6)
    source = tmp_path / 'published'
    source.mkdir()
    files.image(source / 'x.png', 5, 5)
    # A relative link counts from the folder it is in.
    near = os.path.relpath(source / 'x.png', pairs / 'images')
    for number, aim in enumerate([near, source / 'x.png']):
        image = pairs / f'images/{number:05d}.png'
        image.unlink()
        image.symlink_to(aim)
    report = check()
    assert [f.kind for f in report.errors] == ['size', 'size']
    fix([report])
    for number in range(2):
        link = pairs / f'quarantine/images/{number:05d}.png'
        assert link.is_symlink() and link.resolve() == source / 'x.png'
    # The published file is untouched.
    assert (source / 'x.png').exists()


def test_an_earlier_file_aside_is_not_overwritten(check, pairs, truncate):
    aside = pairs / 'quarantine/images/00000.png'
    aside.parent.mkdir(parents=True)
    aside.write_text('earlier')
    truncate(pairs / 'images/00000.png')
    fix([check()])
    assert aside.read_text() == 'earlier'
    assert aside.with_name('00000.png.1').stat().st_size == 60


def test_folders_that_do_not_let_files_go(check, pairs, truncate, monkeypatch):
    truncate(pairs / 'images/00000.png')
    report = check()

    def refuse(source, target):
        raise PermissionError(13, 'Permission denied', str(source))

    monkeypatch.setattr('shutil.move', refuse)
    with pytest.raises(DataError, match=r'00000.png cannot be moved below'):
        fix([report])
    # Whatever happened, nobody reads the file any more.
    assert len(GTA5Dataset(data_root=str(pairs))) == 2
    assert report.open_errors
