import shutil

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmseg.datasets import PhotoMetricDistortion

from clouds_mmseg.datasets import (
    DataError,
    DiffusionAugment,
    FastPhotoMetricDistortion,
    FolderDataset,
    KeepCleanView,
    PackDGInputs,
)
from clouds_mmseg.datasets.transforms import diffusion_augment
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import read_entries


def results(**more):
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return dict(
        img=image, img_path='a.png', domain='generated', img_shape=(6, 8),
        ori_shape=(6, 8), **more,
    )  # fmt: skip


def test_the_clean_view_is_not_changed_by_later_steps():
    before = results()
    steps = Compose(
        [
            dict(type='KeepCleanView'),
            dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackDGInputs'),
        ]
    )
    np.random.seed(0)
    sample = steps(results())['data_samples']
    clean = sample.clean_img.data.numpy().transpose(1, 2, 0)
    assert clean.dtype == np.uint8 and np.array_equal(clean, before['img'])
    assert sample.flip_direction == 'horizontal'


def test_a_step_that_works_in_place_does_not_reach_it():
    kept = KeepCleanView()(results())
    kept['img'][:] = 0
    assert kept['clean_img'].any()


def test_a_clean_view_behind_a_flip_is_refused():
    with pytest.raises(UserError, match='before RandomFlip'):
        KeepCleanView()(results(flip=True))
    assert 'clean_img' in KeepCleanView()(results(flip=False))


def test_a_clean_view_before_a_crop_is_refused():
    kept = KeepCleanView()(results())
    kept['img'] = kept['img'][:4]
    with pytest.raises(UserError, match='after the steps that resize, crop'):
        PackDGInputs()(kept)


def test_without_the_step_there_is_no_clean_view():
    assert 'clean_img' not in PackDGInputs()(results())['data_samples']


def both_distortions(image, seed):
    """What mmseg and ours make of an image, and the next random number."""
    found = []
    for kind in (PhotoMetricDistortion, FastPhotoMetricDistortion):
        np.random.seed(seed)
        image_of_kind = kind()(dict(img=image.copy()))['img']
        found.append((image_of_kind, np.random.rand()))
    return found


def test_colours_change_exactly_as_in_mmseg():
    rng = np.random.default_rng(0)
    changed = 0
    for seed in range(60):
        image = rng.integers(0, 256, (24, 40, 3), np.uint8)
        if seed % 2:
            # A crop is a view of a larger image.
            image = image[3:20, 5:31]
        (theirs, after), (ours, also_after) = both_distortions(image, seed)
        assert ours.dtype == np.uint8 and np.array_equal(theirs, ours)
        assert after == also_after
        changed += not np.array_equal(ours, image)
    assert changed > 50


def test_colours_of_float_images_change_as_in_mmseg():
    image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    (theirs, _), (ours, _) = both_distortions(image, 4)
    assert np.array_equal(theirs, ours)


@pytest.fixture
def restyled(tmp_path):
    """Bank with two variants of each of two images in ``source/images``."""
    from PIL import Image

    images = tmp_path / 'source' / 'images'
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        pixels = rng.integers(0, 256, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(images / f'{name}.png')
    prompts = tmp_path / 'p.txt'
    prompts.write_text('night\nfog\nsnow\n')
    generate_images(
        tmp_path / 'bank', prompts=prompts, num=4, mode='img2img',
        source=images,
    )  # fmt: skip
    return tmp_path


def load(path):
    return Compose([dict(type='LoadSegImage')])(dict(img_path=str(path)))


def test_replaces_by_a_variant_of_the_same_image(restyled):
    augment = DiffusionAugment(str(restyled / 'bank'), prob=1.0)
    entries = read_entries(restyled / 'bank').values()
    for name in ('a.png', 'b.png'):
        fitting = {
            str(restyled / 'bank' / e['file'])
            for e in entries
            if e['source'] == name
        }
        seen = set()
        np.random.seed(0)
        for _ in range(20):
            done = augment(load(restyled / 'source/images' / name))
            seen.add(done['variant_path'])
            expected = load(done['variant_path'])['img']
            assert np.array_equal(done['img'], expected)
            assert done['img_path'].endswith(name)
        assert seen == fitting and len(seen) == 2
    assert augment.without_variant == 0 and augment.drawn == 40


def test_probability_and_seed(restyled):
    augment = DiffusionAugment(str(restyled / 'bank'), prob=0.25)
    path = restyled / 'source/images/a.png'

    def replaced():
        np.random.seed(1)
        return ['variant_path' in augment(load(path)) for _ in range(400)]

    first = replaced()
    assert first == replaced()
    # Four standard deviations around 100.
    assert 65 < sum(first) < 135
    never = DiffusionAugment(str(restyled / 'bank'), prob=0.0)
    assert 'variant_path' not in never(load(path))
    always = DiffusionAugment(str(restyled / 'bank'), prob=1.0)
    assert 'variant_path' in always(load(path))


def test_the_draws_do_not_depend_on_the_bank(restyled):
    augment = DiffusionAugment(str(restyled / 'bank'), prob=0.5)
    states = []
    for folder in ('source/images', 'bank/images'):
        np.random.seed(3)
        name = 'a.png' if folder.startswith('source') else '000000.png'
        augment(load(restyled / folder / name))
        states.append(np.random.rand())
    assert states[0] == states[1]


def test_images_without_variant_are_counted(restyled, monkeypatch):
    logged = []
    monkeypatch.setattr(
        diffusion_augment, 'print_log', lambda text, **_: logged.append(text)
    )
    other = restyled / 'other' / 'a.png'
    other.parent.mkdir()
    other.write_bytes((restyled / 'source/images/a.png').read_bytes())
    augment = DiffusionAugment(str(restyled / 'bank'), prob=1.0)
    before = load(other)['img']
    for _ in range(25):
        done = augment(load(other))
    # The same name in another folder is another image.
    assert np.array_equal(done['img'], before)
    assert 'variant_path' not in done
    assert augment.without_variant == 25
    assert [text.split()[1] for text in logged] == ['1', '10']


def test_a_set_made_from_other_images_is_refused(restyled):
    def dataset(root, **options):
        augment = dict(
            type='DiffusionAugment', bank=str(restyled / 'bank'), **options
        )
        return FolderDataset(
            domain='day',
            data_root=str(restyled / root),
            data_prefix=dict(img_path='images'),
            metainfo=dict(classes=('a', 'b'), palette=[[0] * 3, [9] * 3]),
            pipeline=[dict(type='LoadSegImage'), augment],
        )

    assert len(dataset('source')) == 2
    shutil.copytree(restyled / 'source', restyled / 'other')
    with pytest.raises(DataError) as caught:
        len(dataset('other'))
    said = str(caught.value)
    assert 'FolderDataset (domain day): none of its 2 images has a' in said
    assert f'{restyled}/bank, which was made from those below' in said
    assert f'the first image is {restyled}/other/images/a.png' in said
    other = str(restyled / 'other/images')
    assert len(dataset('other', source_root=other)) == 2
    # Half of the images with variants is what a small set has.
    (restyled / 'other/images/a.png').rename(restyled / 'other/images/c.png')
    assert len(dataset('other', source_root=other)) == 2


def test_a_variant_of_another_size_is_refused(restyled):
    augment = DiffusionAugment(str(restyled / 'bank'), prob=1.0)
    loaded = load(restyled / 'source/images/a.png')
    loaded['img'] = loaded['img'][:8]
    with pytest.raises(DataError, match='is 24x16, its source .* is 24x8'):
        augment(loaded)


def test_moved_sources(restyled, monkeypatch):
    (restyled / 'source').rename(restyled / 'moved')
    bank = str(restyled / 'bank')
    with pytest.raises(DataError, match=r'source_root=\.\.\.'):
        DiffusionAugment(bank)
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(restyled))
    augment = DiffusionAugment(
        'data/bank', prob=1.0, source_root='data/moved/images'
    )
    done = augment(load(restyled / 'moved/images/a.png'))
    assert 'variant_path' in done
    assert 'sources=2' in repr(augment)


def test_bad_banks(tmp_path, restyled):
    with pytest.raises(UserError, match='prob must lie in'):
        DiffusionAugment(str(restyled / 'bank'), prob=1.5)
    with pytest.raises(DataError, match='does not exist'):
        DiffusionAugment(str(tmp_path / 'none'))
    prompts = tmp_path / 'p.txt'
    generate_images(tmp_path / 'scenes', prompts=prompts, num=1, size=(48, 32))
    with pytest.raises(DataError, match='--mode img2img'):
        DiffusionAugment(str(tmp_path / 'scenes'))
