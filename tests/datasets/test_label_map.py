import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmseg.registry import DATASETS

from clouds_mmseg.datasets import folder
from clouds_mmseg.datasets.label_map import map_labels, read_names
from clouds_mmseg.utils.errors import UserError

NAMES = dict(void=(0,), road=(1,), marking=(2, 7), car=(3,), tree=(4,))


def test_names_make_up_classes():
    ids, left = map_labels(
        ['road', 'car'], NAMES, {'road': ['marking', 'road']}
    )
    assert ids == {2: 0, 7: 0, 1: 0, 3: 1}
    assert left == dict(void=(0,), tree=(4,))


def test_one_name_and_none():
    ids, left = map_labels(
        ['plants', 'bus'], NAMES, dict(plants='tree', bus=[])
    )
    assert ids == {4: 0}
    assert set(left) == {'void', 'road', 'marking', 'car'}


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_every_id_has_the_class_that_takes_its_name(owners):
    """Name i goes to class owners[i]; 3 stands for none."""
    names = read_names([f'n{i}' for i in range(len(owners))])
    label_map = {
        f'c{c}': [f'n{i}' for i, o in enumerate(owners) if o == c]
        for c in range(3)
    }
    ids, left = map_labels(['c0', 'c1', 'c2'], names, label_map)
    assert ids == {i: o for i, o in enumerate(owners) if o < 3}
    assert sorted(left.values()) == [
        (i,) for i, o in enumerate(owners) if o == 3
    ]


@pytest.mark.parametrize(
    ('classes', 'label_map', 'message'),
    [
        (
            ['road', 'cars'],
            None,
            "'cars' is no name of the label files; perhaps 'car'. There are: "
            'void, road, marking, car, tree. Say in label_map',
        ),
        (
            ['road'],
            dict(road=['rode', 'lane']),
            r"label_map\['road'\] has names that do not exist: 'rode', "
            "'lane'; perhaps 'road'",
        ),
        (
            ['road'],
            dict(raod=['road']),
            "label_map has classes that do not exist: 'raod'; perhaps 'road'",
        ),
        (
            ['road', 'street'],
            dict(street=['road']),
            "the name 'road' belongs to two classes: 'road' and 'street'",
        ),
    ],
)
def test_mistakes_are_named(classes, label_map, message):
    with pytest.raises(UserError, match=message):
        map_labels(classes, NAMES, label_map)


def test_tables_of_names(tmp_path):
    assert read_names(['road', 'car']) == dict(road=(0,), car=(1,))
    assert read_names(dict(road=7, car=[1, 2])) == dict(road=(7,), car=(1, 2))
    path = tmp_path / 'names.json'
    path.write_text(json.dumps({'lane marking': 3}))
    assert read_names(str(path)) == {'lane marking': (3,)}


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['road', 'car', 'road'], 'names has twice: road'),
        (dict(road=1, car=[2, 1]), "id 1 is both 'road' and 'car'"),
        (dict(road=65536), "'road' has the id 65536"),
        (dict(road=True), "'road' has the id True"),
        (dict(), 'must be a table name -> id'),
        ('nowhere.json', 'nowhere.json does not exist'),
    ],
)
def test_wrong_tables(names, message):
    with pytest.raises(UserError, match=message):
        read_names(names)


def build(root, **options):
    return DATASETS.build(
        dict(
            type='FolderDataset',
            domain='mine',
            data_root=str(root),
            metainfo=dict(classes=['road', 'car']),
            pipeline=[dict(type='LoadSegImage'), dict(type='LoadSegLabels')],
            **options,
        )
    )


def test_labels_are_read_by_name(tmp_path, files, monkeypatch):
    said = []
    folder._say.cache_clear()
    monkeypatch.setattr(
        folder, 'print_log', lambda text, **kwargs: said.append(text)
    )
    files.image(tmp_path / 'images/1.png')
    ids = files.label_of([0, 1, 2, 3, 4, 255])
    files.label(tmp_path / 'labels/1.png', ids)
    options = dict(
        names=dict(void=0, road=1, marking=2, car=3, tree=4),
        label_map=dict(road=['marking', 'road']),
    )
    dataset = build(tmp_path, **options)
    build(tmp_path, **options)
    table = np.array([255, 0, 0, 1, 255])
    expected = np.where(ids == 255, 255, table[np.minimum(ids, 4)])
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], expected)
    # Of one set that is opened for val and for test there is one line.
    assert len(said) == 1
    assert 'no class takes void, tree: ignored' in said[0]


def test_ids_without_a_name_are_still_an_error(tmp_path, files):
    files.image(tmp_path / 'images/1.png')
    files.label(tmp_path / 'labels/1.png', files.label_of([1, 3, 9]))
    dataset = build(tmp_path, names=dict(road=1, car=3))
    with pytest.raises(UserError, match='ids outside the classes: 9'):
        dataset[0]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(names=['road', 'car'], ids={1: 0}), 'names or ids, not both'),
        (dict(label_map=dict(road=['road'])), 'label_map .* needs names'),
    ],
)
def test_arguments_that_exclude_each_other(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **options)
