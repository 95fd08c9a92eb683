"""Exchange with CVAT."""

import io
import json
import zipfile
import zlib

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.registry import DATASETS
from PIL import Image
from tiny_run import CLASSES, PALETTE

from clouds_mmseg.bridges import cvat
from clouds_mmseg.bridges.review import read_review
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.command import main


@pytest.fixture
def folder(export):
    return export('cvat', '--worst', 3)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, content):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return path


def png(array, mode=None):
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, format='png')
    return stream.getvalue()


def labels_in(path, folder):
    return {
        image.name: label
        for image, label in cvat.read_cvat(path, read_review(folder))
    }


def test_the_archive_is_that_of_the_format(folder, reviewer, images):
    review = read_review(folder)
    content = members(folder / 'cvat.zip')
    lines = content['labelmap.txt'].decode().splitlines()
    assert lines[1] == 'background:0,0,0::'
    assert lines[2:] == [
        f'{name}:{",".join(map(str, color))}::'
        for name, color in zip(CLASSES, PALETTE, strict=True)
    ]
    names = content['ImageSets/Segmentation/default.txt'].decode().split()
    assert names == [image.name[:-4] for image in review.images]
    for image in review.images:
        mask = content[f'SegmentationClass/{image.name}']
        expected = np.array(PALETTE)[reviewer(images / image.name).labels]
        found = np.array(Image.open(io.BytesIO(mask)))
        assert np.array_equal(found, expected)
        stored = content[f'JPEGImages/{image.name}']
        assert stored == (images / image.name).read_bytes()
    constructor = json.loads((folder / 'cvat_labels.json').read_text())
    assert constructor[0] == dict(name='ground', color='#785a3c')


def test_corrected_labels_become_a_data_set(
    folder, reviewer, images, tmp_path, capsys
):
    content = members(folder / 'cvat.zip')
    names = [image.name for image in read_review(folder).images]
    # As CVAT: its own colours, palette files, no images; one is left out.
    text = 'background:0,0,0::\nbox:9,9,9::\nsky:1,0,0::\nground:0,1,0::\n'
    palette = [0, 0, 0, 9, 9, 9, 1, 0, 0, 0, 1, 0]
    expected, corrected = {}, {'labelmap.txt': text}
    for name in names[:2]:
        label = reviewer(images / name).labels.copy()
        label[5:9] = 2
        label[20:22, 3:8] = 255
        expected[name] = label
        index = np.array([3, 2, 1])[np.minimum(label, 2)]
        index[label == 255] = 0
        picture = Image.fromarray(index.astype(np.uint8), 'P')
        picture.putpalette(palette)
        stream = io.BytesIO()
        picture.save(stream, format='png')
        corrected[f'SegmentationClass/{name}'] = stream.getvalue()
        assert stream.getvalue() != content[f'SegmentationClass/{name}']
    back = write(tmp_path / 'back.zip', corrected)
    out = tmp_path / 'corrected'
    words = ('review', 'import', folder, back, '--out', out)
    main([str(word) for word in words])
    said = capsys.readouterr().out
    assert '2 labelled images' in said
    assert f'not in {back}: {names[2]}' in said

    cfg = Config.fromfile(out / 'dataset.py').corrected
    cfg.pipeline = [
        dict(type='LoadSegImage'),
        dict(type='LoadSegLabels'),
        dict(type='PackDGInputs'),
    ]
    dataset = DATASETS.build(cfg)
    assert len(dataset) == 2 and list(dataset.metainfo['classes']) == list(
        CLASSES
    )
    for index in range(2):
        sample = dataset[index]['data_samples']
        name = sample.img_path.rpartition('/')[2]
        found = sample.gt_sem_seg.data[0].numpy()
        assert np.array_equal(found, expected[name])


def test_a_class_may_be_called_background(folder, tmp_path, reviewer, images):
    path = folder / 'review.json'
    path.write_text(path.read_text().replace('"ground"', '"background"'))
    content = members(folder / 'cvat.zip')
    content['labelmap.txt'] = (
        content['labelmap.txt']
        .replace(b'ground:120,90,60::\n', b'')
        .replace(b'backbackground', b'background')
    )
    black = {}
    for name, value in content.items():
        if name.startswith('SegmentationClass/'):
            array = np.array(Image.open(io.BytesIO(value)))
            array[(array == PALETTE[0]).all(-1)] = 0
            value = png(array)
        black[name] = value
    found = labels_in(write(tmp_path / 'a.zip', black), folder)
    assert len(found) == 3
    for name, label in found.items():
        assert np.array_equal(label, reviewer(images / name).labels)


def test_what_must_not_be_read(folder, tmp_path, monkeypatch):
    content = members(folder / 'cvat.zip')
    masks = [n for n in content if n.startswith('SegmentationClass/')]
    mask = masks[0]
    grey = np.zeros((32, 32, 3), np.uint8)
    grey[3, 4] = 77

    def changed(**changes):
        changes = {k.replace('mask', mask): v for k, v in changes.items()}
        return {k: v for k, v in {**content, **changes}.items() if v}

    for files, message in (
        ({**content, '../evil.py': 'x'}, r"'\.\./evil\.py' leads out"),
        ({**content, '/etc/x': 'x'}, "'/etc/x' is no relative path"),
        ({**content, 'a\\b': 'x'}, 'is no relative path'),
        (changed(mask=png(grey)), rf'{mask}: 1 pixels have the colour \(77'),
        (changed(mask=png(grey[:9])), rf'{mask} is 32x9, its image 32x32'),
        (changed(mask=b'\x89PNG'), f'{mask} is no image'),
        (changed(mask=content[mask][:200]), f'{mask} is no image'),
        (
            {**content, 'SegmentationClass/x.png': b''},
            r'SegmentationClass/x\.png is of an image that was not',
        ),
        (
            {k: v for k, v in content.items() if k != 'labelmap.txt'},
            r'holds no labelmap\.txt; export the task',
        ),
        (
            {k: v for k, v in content.items() if k not in masks},
            'holds no SegmentationClass',
        ),
        ({**content, 'labelmap.txt': 'sky 1 2 3'}, 'name:red,green,blue'),
        ({**content, 'labelmap.txt': 'a:1,1,1::\nb:1,1,1::'}, 'one colour'),
        (
            {
                **content,
                'labelmap.txt': content['labelmap.txt'].replace(
                    b'ground', b'moon'
                ),
            },
            "the label 'moon', which is no class",
        ),
    ):
        path = write(tmp_path / 'bad.zip', files)
        with pytest.raises(UserError, match=message) as caught:
            labels_in(path, folder)
        assert str(path) in str(caught.value)

    (tmp_path / 'no.zip').write_text('no')
    with pytest.raises(UserError, match=r'no\.zip is no zip'):
        labels_in(tmp_path / 'no.zip', folder)
    with pytest.raises(UserError, match='No such file'):
        labels_in(tmp_path / 'nothing.zip', folder)
    # Damage that the checksum of a member tells.
    data = bytearray((folder / 'cvat.zip').read_bytes())
    data[data.find(content[mask]) + 60] ^= 1
    (tmp_path / 'flipped.zip').write_bytes(data)
    with pytest.raises(UserError, match='cannot be read.*CRC'):
        labels_in(tmp_path / 'flipped.zip', folder)
    monkeypatch.setattr(cvat, '_MOST_BYTES', 10)
    with pytest.raises(UserError, match='above the limit of 10'):
        labels_in(folder / 'cvat.zip', folder)


def test_a_small_file_of_many_pixels_is_not_decoded(folder, tmp_path):
    """Its header tells its size."""
    content = members(folder / 'cvat.zip')
    mask = next(n for n in content if n.startswith('SegmentationClass/'))
    bomb = bytearray(png(np.zeros((4, 4), np.uint8)))
    bomb[16:24] = (100_000).to_bytes(4, 'big') * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, 'big')
    path = write(tmp_path / 'bomb.zip', {**content, mask: bytes(bomb)})
    with pytest.raises(UserError, match=rf'{mask} .*100000x100000'):
        labels_in(path, folder)


def test_names_that_the_format_cannot_hold(folder):
    review = read_review(folder)
    review.classes[0] = 'a:b'
    with pytest.raises(UserError, match="'a:b' cannot be a label"):
        cvat.write_cvat(folder, review, None)
