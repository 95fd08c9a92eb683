"""tools/benchmark.py loader, at sizes of seconds."""

import json
import runpy

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope

from benchmark import image_formats as module
from benchmark.decoders import READERS
from benchmark.files import (
    IMAGE_FORMATS,
    SETS,
    Mosaic,
    encode,
    suffix,
    synthetic_image,
)
from benchmark.loading import throughput

QUICK = ['--repeats', 1, '--images', 2, '--crop', 32, '--workers', 0]
SMALL = [*QUICK, '--size', '96x64']


@pytest.fixture(autouse=True)
def scope():
    """As the tool sets it."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def bench(repo_root, tmp_path):
    """Run the tool in this process; returns speeds, and rows of parts."""
    main = runpy.run_path(str(repo_root / 'tools' / 'benchmark.py'))['main']

    def run(*words):
        path = tmp_path / 'report.json'
        main(['loader', *map(str, words), '--out', str(path)])
        rows = json.loads(path.read_text())['rows']
        parts = [row for row in rows if 'part' in row]
        return [row for row in rows if 'part' not in row], parts

    return run


@pytest.fixture
def photos(tmp_path):
    """Two photographs, which are none."""
    folder = tmp_path / 'photos' / 'below'
    folder.mkdir(parents=True)
    for seed in range(2):
        cv2.imwrite(
            str(folder / f'{seed}.png'), synthetic_image((48, 36), seed)
        )
    return folder.parent


@pytest.mark.parametrize('name', SETS)
def test_image_formats_and_decoders_are_compared(bench, name):
    rows, parts = bench('--sets', name, *SMALL)
    first = rows[0]
    files = SETS[name]
    assert (first['storage'], first['labels']) == (files.image, files.label)
    assert first['decoder'] == 'cv2' and first['ratio'] == 1
    assert {r['storage'] for r in rows} == {files.image, *IMAGE_FORMATS}
    assert {r['labels'] for r in rows[1:]} == {'prepared'}
    decoders = {'cv2', 'mmseg', 'pillow', 'torchvision', 'numpy'}
    assert {r['decoder'] for r in rows} == decoders
    for row in rows:
        assert row['images_per_second'] > 0 and row['MB'] > 0
        speed = row['ratio'] * first['images_per_second']
        assert speed == pytest.approx(row['images_per_second'])
    names = [r['part'] for r in parts]
    assert names[:2] == ['LoadSegImage', 'LoadSegLabels']
    assert names[-1] == 'PackDGInputs'


def test_chosen_image_formats_and_workers(bench, photos):
    words = ['--sets', 'gta5', '--storages', 'bmp', '--photos', photos]
    rows, _ = bench(*SMALL, '--workers', 0, 1, '--clock', 'cpu', *words)
    found = [(r['storage'], r['labels'], r['workers']) for r in rows]
    assert found == [
        ('png', 'palette', 0),
        ('png', 'palette', 1),
        ('png', 'prepared', 0),
        ('png', 'prepared', 1),
        ('bmp', 'prepared', 0),
        ('bmp', 'prepared', 1),
    ]
    # Each number of workers is compared with itself.
    assert [r['ratio'] for r in rows[:2]] == [1, 1]


def test_stock_transforms_are_the_reference(bench):
    words = ['--sets', 'bdd100k', '--storages', 'bmp', '--against', 'plain']
    rows, parts = bench(*SMALL, *words)
    assert [(r['decoder'], r['storage']) for r in rows] == [
        ('mmseg', 'jpg'),
        ('cv2', 'jpg'),
        ('cv2', 'jpg'),
        ('cv2', 'bmp'),
    ]
    assert rows[0]['ratio'] == 1
    assert {r['decoder'] for r in parts} == {'mmseg', 'cv2'}


def test_the_sets_of_a_config_are_loaded_as_they_lie(bench, tiny_config):
    rows, parts = bench('--config', tiny_config, *QUICK, 1)
    assert [(r['name'], r['workers'], r['ratio']) for r in rows] == [
        ('FolderDataset day', 0, 1),
        ('FolderDataset day', 1, 1),
    ]
    assert parts


def test_sets_take_turns_and_the_median_counts(monkeypatch):
    order, speeds = [], iter([1.0, 2.0, 9.0, 4.0, 2.0, 12.0])

    def load(dataset, **options):
        order.append(dataset)
        return next(speeds)

    monkeypatch.setattr(module, 'throughput', load)
    cases = [(dict(name='a'), 'A'), (dict(name='b'), 'B')]
    rows = module.compare(cases, images=2, workers=[0], repeats=3)
    assert ''.join(order) == 'ABABAB'
    assert rows[0]['images_per_second'] == 2 and rows[0]['spread'] == 8
    assert rows[0]['fastest'] == 9
    assert rows[1]['ratio'] == 2 and rows[1]['spread'] == 10


def test_all_that_is_compared_gets_the_same_crops(tmp_path):
    cases = module.format_cases(
        'gta5', tmp_path, count=2, crop=32, size=(96, 64), formats=['webp']
    )
    seen = []
    for _, dataset in cases:
        pack = dataset.pipeline.transforms[-1]
        dataset.pipeline.transforms[-1] = lambda sample, pack=pack: (
            seen.append(sample['img'].copy()) or pack(sample)
        )
        throughput(dataset, images=2, workers=0)
    seen = np.array(seen)
    assert len(seen) == 12
    assert (seen[:4] == seen[4:8]).all() and (seen[:4] == seen[8:]).all()


@pytest.mark.parametrize(
    'storage', ['png', *(name for name in IMAGE_FORMATS if name != 'jpg')]
)
def test_image_formats_lose_nothing(tmp_path, storage):
    image = synthetic_image((40, 24), 0)
    path = tmp_path / f'0{suffix(storage)}'
    path.write_bytes(encode(image, storage))
    if storage == 'jxl':
        pytest.skip('read through Pillow')
    read = READERS['numpy'] if storage == 'npy' else cv2.imread
    assert (read(str(path)) == image).all()


def test_decoders_read_the_same_pixels(tmp_path):
    cv2.imwrite(str(tmp_path / '0.png'), synthetic_image((40, 24), 0))
    sample = dict(img_path=str(tmp_path / '0.png'))
    load = [
        dict(type='LoadSegImage'),
        dict(type='LoadSegImage', imdecode_backend='pillow'),
        dict(type='LoadToCompare', decoder='torchvision'),
    ]
    images = [Compose([step])(dict(sample))['img'] for step in load]
    assert (images[0] == images[1]).all() and (images[0] == images[2]).all()


def test_synthetic_images_take_the_room_of_photographs():
    image = synthetic_image((957, 526), 3)
    bits = {
        storage: 8 * len(encode(image, storage)) / image[..., 0].size
        for storage in ('png', 'webp')
    }
    # GTA5 and Cityscapes as published: 9 and 8 bits a pixel.
    assert 8 < bits['png'] < 10.5
    assert 0.6 < bits['webp'] / bits['png'] < 0.85


def test_a_mosaic_of_photographs_covers_the_image(photos):
    draw = Mosaic(photos)
    assert draw((200, 100), 0).shape == (100, 200, 3)
    # It begins with the photograph that is asked for.
    first = [draw((96, 72), seed) for seed in (0, 1, 2)]
    assert (first[0] == first[2]).all() and (first[0] != first[1]).any()


@pytest.mark.parametrize(
    'words, said',
    [
        (['--sets', 'gta6'], '--sets gta6: known are gta5'),
        (['--storages', 'zip'], '--storages zip: known are png-fast'),
        (['--config', 'absent.py'], '--config absent.py'),
        (['--photos', 'absent'], '--photos absent holds no'),
    ],
)
def test_mistakes_are_one_line(run_tool, capsys, words, said):
    assert run_tool('benchmark.py', 'loader', *words) == 1
    assert said in capsys.readouterr().err.splitlines()[0]
