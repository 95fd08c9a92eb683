"""One data set as many domains, from a folder or as it is read."""

import numpy as np
import pytest
from mmseg.registry import DATASETS

from clouds_mmseg.robustness.run import make_corruptions
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.remote import upload

PIPELINE = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]
CHOICE = dict(corruptions=['gaussian_noise', 'pixelate'], severities=[1, 4])


@pytest.fixture
def city(tmp_path, files):
    """Two images of 40x48 in Cityscapes' layout."""
    root = tmp_path / 'cityscapes'
    for number in range(2):
        stem = f'bonn/bonn_00000{number}_000019'
        files.image(
            root / f'leftImg8bit/val/{stem}_leftImg8bit.png', 40, 48, number
        )
        files.label(
            root / f'gtFine/val/{stem}_gtFine_labelTrainIds.png',
            np.full((40, 48), number),
        )
    return root


@pytest.fixture
def folder(city, tmp_path):
    out = tmp_path / 'cityscapes_c'
    make_corruptions(city / 'leftImg8bit/val', out, workers=1, **CHOICE)
    return out


def build(city, **options):
    inner = dict(
        type='CityscapesDGDataset', data_root=str(city), pipeline=PIPELINE
    )
    cfg = dict(type='CorruptedDataset', dataset=inner, **CHOICE)
    return DATASETS.build(cfg | options)


def test_a_folder_and_the_fly_give_the_same(city, folder):
    made, read = build(city), build(city, folder=str(folder))
    assert [d.domain for d in made.datasets] == [
        'clean',
        *('gaussian_noise_1', 'gaussian_noise_4'),
        *('pixelate_1', 'pixelate_4'),
    ]
    assert len(made) == len(read) == 10
    for index in range(10):
        one, other = made[index], read[index]
        assert one['inputs'].equal(other['inputs'])
        one, other = one['data_samples'], other['data_samples']
        assert one.domain == other.domain
        assert one.gt_sem_seg.data.equal(other.gt_sem_seg.data)
    # The clean image, and then what was made of it.
    assert not made[0]['inputs'].equal(made[2]['inputs'])
    assert made[2]['data_samples'].gt_sem_seg.data.unique().tolist() == [0]
    assert read[2]['data_samples'].img_path.startswith(
        str(folder / 'gaussian_noise/1/bonn')
    )


def test_a_folder_in_a_store(city, folder, s3_folder):
    for path in folder.rglob('*.*'):
        upload(path, f'{s3_folder}/set/{path.relative_to(folder)}')
    local = build(city, folder=str(folder))
    stored = build(city, folder=f'{s3_folder}/set')
    assert len(stored) == 10
    for index in (0, 3, 9):
        one, other = local[index], stored[index]
        assert one['inputs'].equal(other['inputs'])
        assert one['data_samples'].domain == other['data_samples'].domain
    path = stored[2]['data_samples'].img_path
    assert path.startswith(f'{s3_folder}/set/gaussian_noise/1/bonn')
    with pytest.raises(DataError, match='s3://.*corruptions.json does not'):
        build(city, folder=s3_folder)
    with pytest.raises(UserError, match='^s3://nowhere/.* no such bucket'):
        build(city, folder='s3://nowhere/set')


def test_colours_keep_their_places(city):
    clean, brighter = build(
        city, corruptions=['contrast'], severities=[1]
    ).datasets
    clean, flat = clean[0]['inputs'].float(), brighter[0]['inputs'].float()
    mean = clean.mean((1, 2), keepdim=True)
    assert ((clean - mean) * 0.4 + mean - flat).abs().max() <= 1


def test_without_the_clean_images(city):
    assert len(build(city, clean=False)) == 8


def test_another_seed_of_the_folder(city, folder):
    with pytest.raises(DataError, match='made with seed 0, but seed=1'):
        build(city, folder=str(folder), seed=1)


def test_a_folder_that_lacks_domains(city, folder):
    with pytest.raises(DataError, match='lack gaussian_noise_5, pixelate_5'):
        build(city, folder=str(folder), severities=[1, 5])


def test_a_folder_of_other_images(city, folder, files):
    stem = 'bonn/bonn_000007_000019'
    files.image(city / f'leftImg8bit/val/{stem}_leftImg8bit.png', 40, 48)
    files.label(
        city / f'gtFine/val/{stem}_gtFine_labelTrainIds.png',
        np.zeros((40, 48)),
    )
    with pytest.raises(DataError, match='lack 1 of the 3 images'):
        build(city, folder=str(folder))


def test_no_folder_there(city, tmp_path):
    with pytest.raises(DataError, match='corruptions.json does not exist'):
        build(city, folder=str(tmp_path))


def test_a_damaged_set_file(city, folder):
    (folder / 'corruptions.json').write_text('{"format": 7}')
    with pytest.raises(DataError, match='has format 7, not 1'):
        build(city, folder=str(folder))
    (folder / 'corruptions.json').write_text('{')
    with pytest.raises(DataError, match='cannot be read'):
        build(city, folder=str(folder))


def test_wrong_arguments(city):
    with pytest.raises(UserError, match='unknown corruptions: mist'):
        build(city, corruptions=['mist'])
    nested = dict(type='ConcatDataset', datasets=[])
    with pytest.raises(UserError, match='one image folder'):
        build(city, dataset=nested)
