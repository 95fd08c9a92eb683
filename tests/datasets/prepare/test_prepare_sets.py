"""Each set: from its archives, or unpacked, to samples of its class."""

import json
import os

import numpy as np
import pytest
from mmseg.registry import DATASETS
from prepare_fake import write_archives, write_files
from prepare_fakes import MAKERS, set_name

from clouds_mmseg.data_tools.prepare.run import Options, prepare_dataset
from clouds_mmseg.datasets.driving import SETS
from clouds_mmseg.datasets.prepared import MANIFEST

ONE = Options(workers=1)
PIPELINE = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]


def samples_of(fake, out):
    """Name of an image file -> train ids that its dataset class reads."""
    found = {}
    for cfg in fake.datasets:
        dataset = DATASETS.build(
            dict(
                cfg,
                data_root=str(out),
                pipeline=PIPELINE,
                # Packing the index collects garbage, which takes a second.
                serialize_data=False,
            )
        )
        for sample in map(dataset.__getitem__, range(len(dataset))):
            sample = sample['data_samples']
            name = os.path.basename(sample.img_path)
            found[name] = sample.gt_sem_seg.data[0].numpy()
    return found


def check_prepared(fake, out, name):
    found = samples_of(fake, out)
    assert found
    for image, train_ids in found.items():
        np.testing.assert_array_equal(train_ids, fake.expected[image], image)
    kept = json.loads((out / MANIFEST).read_text())
    assert kept['format'] == 1 and kept['made_by'] == 'prepare_dataset'
    assert kept['name'] == name and kept['complete'] is True
    assert kept['splits'] == fake.splits
    assert kept['label_source'] == fake.source
    assert kept['resize_short'] is None and kept['left_out'] == []
    return kept


@pytest.mark.parametrize('fake_name', MAKERS)
def test_from_the_official_archives(tmp_path, fake_name):
    fake, name = MAKERS[fake_name](), set_name(fake_name)
    src = write_archives(tmp_path / 'downloads', fake)
    out = tmp_path / 'data' / name
    result = prepare_dataset(name, [src], out, ONE)
    assert check_prepared(fake, out, name)['link'] is False
    assert result.existing == 0
    links = [p for p in out.rglob('*') if p.is_symlink()]
    assert not links and not (out / '.unpacked').exists()
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*.png')}
    again = prepare_dataset(name, [src], out, ONE)
    assert (again.created, again.existing) == (0, result.created)
    assert {p: p.stat().st_mtime_ns for p in out.rglob('*.png')} == before


@pytest.mark.parametrize('fake_name', MAKERS)
def test_from_folders_by_links(tmp_path, fake_name):
    fake, name = MAKERS[fake_name](), set_name(fake_name)
    # As `unzip X.zip -d X` leaves them, which is one more level.
    src = tmp_path / 'my downloads é'
    for archive, files in fake.archives.items():
        write_files(src / archive.removesuffix('.zip'), files)
    published = {p: p.read_bytes() for p in src.rglob('*') if p.is_file()}
    out = tmp_path / 'out'
    result = prepare_dataset(name, [src], out, ONE)
    assert check_prepared(fake, out, name)['link'] is True
    images = [p for p in out.rglob('*') if p.suffix == '.jpg']
    images = images or [p for p in out.rglob('*.png') if 'Ids' not in p.name]
    assert images and all(p.is_symlink() for p in images)
    again = prepare_dataset(name, [src], out, ONE)
    assert (again.created, again.existing) == (0, result.created)
    assert {p: p.read_bytes() for p in published} == published


@pytest.mark.parametrize('fake_name', MAKERS)
def test_in_place(tmp_path, fake_name):
    """Unpacked to data/NAME already: labels are added, nothing changes."""
    fake, name = MAKERS[fake_name](), set_name(fake_name)
    out = write_files(tmp_path / name, fake.files())
    published = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
    prepare_dataset(name, [out], out, ONE)
    check_prepared(fake, out, name)
    assert {p: p.read_bytes() for p in published} == published
    assert prepare_dataset(name, [out], out, ONE).created == 0
    check_prepared(fake, out, name)


def test_all_sets_have_a_fake():
    assert {set_name(n) for n in MAKERS} == set(SETS)
