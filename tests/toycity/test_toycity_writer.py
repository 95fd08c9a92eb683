import json

import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.toycity import dataset as writer
from clouds_mmseg.toycity import render_scene, write_toycity
from clouds_mmseg.toycity.dataset import DOMAINS, MANIFEST, PLAN, Sample
from clouds_mmseg.utils.cityscapes import LABEL_ID_TO_TRAIN_ID, PALETTE
from clouds_mmseg.utils.errors import UserError


def contents(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def test_files_lie_where_the_real_datasets_have_them(toycity):
    found = set(contents(toycity))
    expected = {MANIFEST}
    for split, count in (('source', 4), ('source_val', 2)):
        for i in range(1, count + 1):
            expected.add(f'{split}/images/{i:05d}.png')
            expected.add(f'{split}/labels/{i:05d}.png')
    for i in range(2):
        name = f'val/toyville/toyville_{i:06d}_000019'
        expected.add(f'clear/leftImg8bit/{name}_leftImg8bit.png')
        expected.add(f'clear/gtFine/{name}_gtFine_labelTrainIds.png')
        for condition in ('fog', 'night', 'rain', 'snow'):
            name_ = f'{condition}/val/GOPR0001/GOPR0001_frame_{i + 1:06d}'
            expected.add(f'acdc/rgb_anon/{name_}_rgb_anon.png')
            expected.add(f'acdc/gt/{name_}_gt_labelTrainIds.png')
    assert found == expected


def test_manifest_says_what_is_there(toycity):
    manifest = json.loads((toycity / MANIFEST).read_text())
    assert manifest['size'] == [96, 48] and manifest['seed'] == 3
    assert manifest['images'] == {
        'source': 4, 'source_val': 2, 'clear': 2, 'fog': 2, 'night': 2,
        'rain': 2, 'snow': 2,
    }  # fmt: skip
    assert not (toycity / PLAN).exists()


def test_source_labels_are_palette_pictures_of_label_ids(toycity):
    sample = Sample('source', 1)
    picture = Image.open(toycity / sample.label)
    assert picture.mode == 'P'
    ids = np.array(picture)
    _, label = render_scene(sample.seed(3), 'source', (96, 48))
    table = np.full(256, 255)
    for label_id, train_id in LABEL_ID_TO_TRAIN_ID.items():
        table[label_id] = train_id
    assert np.array_equal(table[ids], label)
    assert picture.convert('RGB').getpixel((48, 47)) == tuple(
        PALETTE[label[47, 48]]
    )


@pytest.mark.parametrize('domain', DOMAINS[2:])
def test_target_labels_are_grey_pictures_of_train_ids(toycity, domain):
    sample = Sample(domain, 0)
    picture = Image.open(toycity / sample.label)
    image, label = render_scene(sample.seed(3), domain, (96, 48))
    assert picture.mode == 'L'
    assert np.array_equal(np.array(picture), label)
    assert np.array_equal(np.array(Image.open(toycity / sample.image)), image)


def test_no_two_pictures_share_a_seed():
    seeds = [Sample(d, i).seed(s) for d in DOMAINS for i in range(40)
             for s in (0, 1)]  # fmt: skip
    assert len(set(seeds)) == len(seeds)


def test_bytes_depend_neither_on_workers_nor_on_counts(
    toycity, small, tmp_path
):
    small['num_source'] = 6
    assert write_toycity(tmp_path, **small, workers=3)
    first, second = contents(toycity), contents(tmp_path)
    common = set(first) & set(second) - {MANIFEST}
    assert len(common) == 2 * 16
    assert all(first[name] == second[name] for name in common)


def test_complete_root_is_left_alone(toycity, small):
    before = {p: p.stat().st_mtime_ns for p in toycity.rglob('*')}
    assert write_toycity(toycity, **small) is False
    assert {p: p.stat().st_mtime_ns for p in toycity.rglob('*')} == before


def test_interrupted_run_continues(toycity, small, tmp_path, monkeypatch):
    rendered = []

    def broken(seed, style, size):
        if len(rendered) == 7:
            raise KeyboardInterrupt
        rendered.append(seed)
        return render_scene(seed, style, size)

    with monkeypatch.context() as patch:
        patch.setattr(writer, 'render_scene', broken)
        with pytest.raises(KeyboardInterrupt):
            write_toycity(tmp_path, **small, workers=1)
    assert not (tmp_path / MANIFEST).exists()
    kept = tmp_path / Sample('source', 0).label
    stamp = kept.stat().st_mtime_ns
    # A kill between the two files of a pair, and one while writing.
    (tmp_path / Sample('source', 3).label).unlink()
    (tmp_path / 'source/images/.00004-abcdefgh.png').write_bytes(b'half')
    rendered.clear()
    monkeypatch.setattr(
        writer, 'render_scene',
        lambda *args: rendered.append(args[0]) or render_scene(*args),
    )  # fmt: skip
    assert write_toycity(tmp_path, **small, workers=1)
    assert len(rendered) == 16 - 6
    assert kept.stat().st_mtime_ns == stamp
    assert contents(tmp_path) == contents(toycity)


def test_error_in_a_worker_reaches_the_caller(small, tmp_path):
    folder = tmp_path / 'clear/gtFine'
    assert write_toycity(tmp_path, **small, workers=1)
    for path in folder.rglob('*.png'):
        path.unlink()
    for path in sorted(folder.rglob('*'), reverse=True):
        path.rmdir()
    folder.rmdir()
    folder.write_text('in the way')
    with pytest.raises(OSError, match='gtFine'):
        write_toycity(tmp_path, **small, workers=2)
    assert not (tmp_path / MANIFEST).exists()


def test_missing_picture_is_made_again(toycity, small, tmp_path):
    write_toycity(tmp_path, **small, workers=1)
    (tmp_path / Sample('rain', 1).image).unlink()
    assert write_toycity(tmp_path, **small, workers=2)
    assert contents(tmp_path) == contents(toycity)


def test_other_arguments_are_refused_and_named(toycity, small):
    before = contents(toycity)
    small.update(seed=4, size=(64, 32))
    with pytest.raises(UserError) as error:
        write_toycity(toycity, **small)
    message = str(error.value)
    assert 'seed is 3, not 4' in message
    assert 'size is [96, 48], not [64, 32]' in message
    assert str(toycity) in message and '--overwrite' in message
    assert contents(toycity) == before


def test_overwrite_deletes_only_its_own_files(small, tmp_path):
    write_toycity(tmp_path, **small, workers=1)
    mine = tmp_path / 'source/images/mine.png'
    mine.write_bytes(b'mine')
    small.update(num_source=2, num_source_val=1, num_target=1, seed=9)
    assert write_toycity(tmp_path, **small, workers=1, overwrite=True)
    assert mine.read_bytes() == b'mine'
    names = sorted(p.name for p in (tmp_path / 'source/images').iterdir())
    assert names == ['00001.png', '00002.png', 'mine.png']
    sample = Sample('snow', 0)
    image, _ = render_scene(sample.seed(9), 'snow', (96, 48))
    assert np.array_equal(np.array(Image.open(tmp_path / sample.image)), image)


def test_foreign_data_is_never_touched(small, tmp_path):
    real = tmp_path / 'acdc/rgb_anon/fog/val/GOPR0475'
    real.mkdir(parents=True)
    with pytest.raises(UserError, match='holds acdc but no toycity.json'):
        write_toycity(tmp_path, **small, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ['acdc']


def test_root_that_is_a_file_is_refused(small, tmp_path):
    path = tmp_path / 'file'
    path.write_text('text')
    with pytest.raises(UserError, match='is a file'):
        write_toycity(path, **small)


@pytest.mark.parametrize('text', ['{', '[]', '{"images": {"source": 1}}',
                                  '{"images": 3}'])  # fmt: skip
def test_broken_manifest_is_named(small, tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match='toycity.json is not a manifest'):
        write_toycity(tmp_path, **small)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('num_source', 0),
        ('num_source_val', 2.0),
        ('num_target', -1),
        ('seed', -1),
        ('seed', True),
        ('workers', 0),
        ('size', (8, 8)),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(
    tmp_path, name, value
):
    root = tmp_path / 'new'
    with pytest.raises(UserError, match=f'{name} must be') as error:
        write_toycity(root, **{name: value})
    assert repr(value) in str(error.value)
    assert not root.exists()
