"""Ids of the user's own, and COCO's run-length encoding."""

import json

import numpy as np
import pytest

from clouds_mmseg.predict.formats import (
    coco_of,
    decode_rle,
    encode_rle,
    read_label_ids,
)
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import UserError


def test_label_ids_of_cityscapes():
    table = read_label_ids('cityscapes', CLASSES)
    assert table.dtype == np.uint8
    assert table[CLASSES.index('road')] == 7
    assert table[CLASSES.index('bicycle')] == 33
    assert table[255] == 255
    with pytest.raises(UserError, match='cityscapes has no id for tram'):
        read_label_ids('cityscapes', ['road', 'tram'])


def test_ids_of_a_file(tmp_path):
    path = tmp_path / 'ids.json'
    path.write_text(json.dumps(dict(road=3, car=1000)))
    table = read_label_ids(path, ['car', 'road'])
    assert table.dtype == np.uint16 and table[:2].tolist() == [1000, 3]
    yaml = tmp_path / 'ids.yml'
    for file, text, message in (
        (path, '{"road": 3}', 'has no id for car'),
        (path, '{"road": 3, "car": 1, "caar": 2}', "perhaps 'car'"),
        (path, '{"road": 3, "car": 1.5}', "'car' has the id 1.5; ids are"),
        (path, '{"road": true, "car": 1}', "'road' has the id True"),
        (path, '{"road": -1, "car": 1}', "'road' has the id -1"),
        (path, '["road"]', 'must hold {class name: id}'),
        (yaml, 'road: 3\nroad: 4\ncar: 1', "'road' stands twice"),
        (yaml, 'road: [', 'is no YAML'),
        (yaml, '1: 2\nroad: 3\ncar: 1', "names '1', which is no class"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_label_ids(file, ['car', 'road'])
    with pytest.raises(UserError, match='none.json cannot be read'):
        read_label_ids(tmp_path / 'none.json', ['car'])
    path.write_text('{"car": 255}')
    with pytest.raises(UserError, match='255 marks the pixels without'):
        read_label_ids(path, ['car'])


def test_runs_are_those_of_coco():
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    # Columns: 00, 10, 11.
    assert encode_rle(mask) == dict(size=[2, 3], counts=[2, 1, 1, 2])
    assert encode_rle(~mask)['counts'] == [0, 2, 1, 1, 2]
    assert encode_rle(mask & False)['counts'] == [6]


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 1.0])
def test_masks_come_back(share):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (7, 1), (13, 17)):
        mask = rng.random(size) < share
        assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_an_image_in_the_format_of_coco():
    labels = np.array([[0, 0, 1], [0, 255, 1]], np.uint8)
    found = coco_of(labels, ['a', 'b', 'c'], np.arange(256), 'x.png')
    assert found['images'] == [
        dict(id=1, file_name='x.png', height=2, width=3)
    ]
    assert [one['name'] for one in found['categories']] == ['a', 'b', 'c']
    a, b = found['annotations']
    assert (a['category_id'], a['area'], a['bbox']) == (0, 3, [0, 0, 2, 2])
    assert (b['category_id'], b['area'], b['bbox']) == (1, 2, [2, 0, 1, 2])
    json.dumps(found)
