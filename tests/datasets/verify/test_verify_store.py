"""Verification of a data set that lies in an S3-compatible store."""

import json
from collections import Counter

import numpy as np
import pytest
from interrupted_work import share_after_a_kill
from mmengine import fileio

from clouds_mmseg.data_tools.verify import Task, reports_text, verify
from clouds_mmseg.data_tools.verify.report import changes_since, report_of
from clouds_mmseg.datasets import DataError, GeneratedDataset
from clouds_mmseg.datasets.class_statistics import class_pixels
from clouds_mmseg.datasets.prepared import Manifest, write_manifest
from clouds_mmseg.datasets.sample_check import SampleCheck
from clouds_mmseg.engine.data_check import check_labels, check_verified
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils import remote
from clouds_mmseg.utils.data_root import REPORT_DIR_VARIABLE, report_folder
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.command import main

pytestmark = pytest.mark.usefixtures('s3_account')


@pytest.fixture
def stored(pairs, s3_folder):
    """Copy ``pairs`` to a bucket of the test; returns the address."""

    def copy():
        address = f'{s3_folder}/gta5'
        for path in pairs.rglob('*.*'):
            remote.upload(path, f'{address}/{path.relative_to(pairs)}')
        return address

    return copy


@pytest.fixture
def requests(monkeypatch):
    """Number of requests of this process by operation."""
    from aiobotocore.client import AioBaseClient

    made, call = Counter(), AioBaseClient._make_api_call

    def count(self, operation, params):
        made[operation] += 1
        return call(self, operation, params)

    monkeypatch.setattr(AioBaseClient, '_make_api_call', count)
    return made


def kept(root, name):
    """Return a file about a data set, without times."""
    content = json.loads(fileio.get(f'{report_folder(str(root))}/{name}'))
    for one in content['sets'].values():
        assert all(one.pop('stamps', ' '))
        for row in one.get('files', {}).values():
            assert row.pop('stamp')
        one.pop('when', None)
    return content


def open_set(task):
    task.dataset.full_init()
    return task.dataset


def test_a_set_in_a_store_is_reported_as_a_local_one(
    gta, pairs, files, more, truncate, stored, requests, capsys
):
    more(12)
    truncate(pairs / 'images/00000.png')
    truncate(pairs / 'labels/00001.png')
    files.label(pairs / 'labels/00002.png', files.label_of([7, 77]))
    files.image(pairs / 'images/00003.png', 5, 5)
    (pairs / 'labels/00004.png').unlink()
    (pairs / 'images/00005.png').unlink()
    files.image(pairs / 'images/00007.png', seed=8)
    (pairs / 'clouds_skip.txt').write_text('images/00009.png\n')
    address = stored()
    (local,) = verify([gta(expected=12)], workers=1)
    requests.clear()
    (found,) = verify([gta(expected=12, data_root=address)], workers=1)
    assert sorted(f.kind for f in found.findings) == sorted(
        'count image label ids size no_label orphan duplicate'.split()
    )
    assert found.findings == local.findings
    # Each of 9 pairs is read once, and what there is beside them.
    reads, beside = 2 * 9, requests['GetObject'] - 2 * 9
    assert set(found.stamps) == set(local.stamps)
    assert len(found.stamps) == reads and beside <= 8
    assert requests['ListObjectsV2'] + requests['HeadObject'] <= 20
    assert requests['PutObject'] == 2
    for name in ('clouds_verify.json', 'clouds_statistics.json'):
        assert kept(address, name) == kept(pairs, name)
    assert f'{address}/clouds_verify.json' in reports_text([found])
    # Training finds the report there.
    dataset = gta(expected=12, data_root=address).dataset
    assert changes_since(report_of(dataset), dataset) == 0
    with pytest.raises(UserError, match=f'{address}/clouds_verify.json'):
        check_verified(dataset, 'train')
    with pytest.raises(SystemExit):
        main(['verify', 'gta5', '--data-root', address, '--workers', '1'])
    shown = capsys.readouterr().out
    assert '--accept' in shown and '--fix' not in shown
    requests.clear()
    with pytest.raises(SystemExit):
        main(['verify', 'gta5', '--data-root', address, '--fix'])
    assert 'in a store, where --fix moves no files' in capsys.readouterr().err
    assert requests['GetObject'] <= 1
    # The same files: nothing is read again.
    with pytest.raises(SystemExit, match='0'):
        main(['verify', 'gta5', '--data-root', f'{address}/', '--accept'])
    assert requests['GetObject'] <= 8
    check_verified(gta(expected=24966, data_root=address).dataset, 'train')


def test_processes_share_the_verification_of_a_store(
    gta, pairs, more, truncate, stored
):
    more(5)
    truncate(pairs / 'labels/00001.png')
    (pairs / 'labels/00002.png').unlink()
    address = stored()

    def run():
        return verify([gta(data_root=address)], shared=True, lease=1)

    (local,) = verify([gta()], workers=1)
    (shared,) = share_after_a_kill(run, address, SampleCheck, '__call__')
    assert shared.findings == local.findings
    for name in ('clouds_verify.json', 'clouds_statistics.json'):
        assert kept(address, name) == kept(pairs, name)


def test_class_statistics_are_kept_in_the_store(gta, pairs, stored, requests):
    address = stored()
    verify([gta(data_root=address)], workers=1)
    dataset = open_set(gta(data_root=address))
    requests.clear()
    found = class_pixels(dataset, workers=1)
    assert (found == class_pixels(open_set(gta()), workers=1)).all()
    assert requests['GetObject'] == 1 and not requests['PutObject']
    # A label that was replaced is counted again, alone.
    other = (pairs / 'labels/00001.png').read_bytes()
    backend = fileio.get_file_backend(address)
    backend.put(other + b'more', f'{address}/labels/00001.png')
    requests.clear()
    assert (class_pixels(dataset, workers=1) == found).all()
    assert requests['GetObject'] == 3 and requests['PutObject'] == 1
    # One that was removed: what was kept of it is not used.
    assert changes_since(report_of(dataset), dataset) == 1
    backend.remove(f'{address}/clouds_verify.json')
    requests.clear()
    check_labels(dataset, 'train')
    assert requests['GetObject'] == 2


def test_a_store_that_cannot_be_written(
    gta, stored, s3_account, tmp_path_factory, monkeypatch
):
    import s3fs

    async def refuse(self, *args, **kwargs):
        raise PermissionError('Access Denied')

    address = stored()
    monkeypatch.setattr(s3fs.S3FileSystem, '_pipe_file', refuse)
    s3_account()
    (report,) = verify([gta(data_root=address)], workers=1)
    assert report.images == 3
    assert f'--report-dir DIR keeps reports elsewhere:\n  {address}' in (
        reports_text([report])
    )
    assert report_of(gta(data_root=address).dataset) is None
    found = class_pixels(open_set(gta(data_root=address)), workers=1)
    assert np.array_equal(found.sum(1), [180] * 3)
    elsewhere = tmp_path_factory.mktemp('reports')
    monkeypatch.setenv(REPORT_DIR_VARIABLE, str(elsewhere))
    verify([gta(data_root=address)], workers=1)
    assert len(list(elsewhere.glob('gta5-*/clouds_*.json'))) == 2
    report = report_of(gta(data_root=address).dataset)
    assert str(elsewhere) in report.kept_at


def test_a_prepared_set_in_a_store(gta, pairs, files, stored):
    for path in (pairs / 'labels').iterdir():
        label = files.label_of([0, 1, 13, 255])
        files.label(path.with_stem(f'{path.stem}_labelTrainIds'), label)
        path.unlink()
    made = Manifest(
        name='gta5', splits={'train': 4}, left_out=['images/9.png']
    )
    write_manifest(pairs, made)
    (pairs / 'left.txt').write_text('00001\n')
    address = stored()
    reports = [
        verify([gta(expected=4, data_root=root, skip='left.txt')], workers=1)
        for root in (str(pairs), address)
    ]
    ((local,), (found,)) = reports
    assert found.findings == local.findings == [] and found.images == 2
    assert found.set_aside == 1 and found.pixels == local.pixels
    other = fileio.get_file_backend(address)
    other.put(b'{', f'{address}/clouds_dataset.json')
    with pytest.raises(DataError, match='s3://.*clouds_dataset.json is dam'):
        gta(data_root=address)


def test_images_and_labels_in_two_places(gta, stored, s3_account):
    import s3fs

    address = stored()
    apart = dict(
        img_path=f'{address}/images', seg_map_path=f'{address}/labels'
    )
    (report,) = verify([gta(data_root=None, data_prefix=apart)], workers=1)
    assert report.findings == [] and report.root == address
    bucket = f'{address.split("/")[2]}-2'
    s3fs.S3FileSystem().mkdir(bucket)
    apart['seg_map_path'] = f's3://{bucket}/labels'
    (report,) = verify([gta(data_root=None, data_prefix=apart)], workers=1)
    assert 'in different stores or buckets' in report.findings[0].message


def test_mistakes_about_stores(gta, stored, s3_account, monkeypatch):
    address = stored()
    backend = fileio.get_file_backend(address)
    backend.put(b'{"format": 0}', f'{address}/clouds_verify.json')
    with pytest.raises(DataError, match='s3://.*verify.json is not a report'):
        report_of(gta(data_root=address).dataset)
    monkeypatch.delenv('AWS_ACCESS_KEY_ID')
    s3_account()
    # Not: a damaged report, to be deleted.
    with pytest.raises(UserError, match='no credentials'):
        report_of(gta(data_root=address).dataset)


def test_an_image_set_in_a_store_is_read(stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bank')
    prompts = folder / 'prompts.txt'
    prompts.write_text('night\n')
    bank = f'{stored()}/bank'
    generate_images(
        folder / 'bank', prompts=prompts, num=2, size=(64, 32), copy_to=bank,
    )  # fmt: skip
    dataset = GeneratedDataset(bank=bank, lazy_init=True, pipeline=[])
    (report,) = verify([Task('train generated', dataset, True)], workers=1)
    assert report.findings == [] and report.sizes == {'64x32': 2}
