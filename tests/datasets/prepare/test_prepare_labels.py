"""Labels that need more than a table: polygons, panoptic, Vistas' config."""

import json

import cv2
import numpy as np
import pytest
from mmseg.datasets.mapillary import MapillaryDataset_v1, MapillaryDataset_v2
from prepare_bytes import (
    IDD,
    SYNTHIA,
    VISTAS,
    idd_polygons,
    label_bytes,
    polygons,
    spread,
    vistas_config,
)
from prepare_fake import write_archives, write_files
from prepare_fakes import MAKERS

from clouds_mmseg.data_tools.prepare import rules
from clouds_mmseg.data_tools.prepare.convert import (
    CHECK_TRAIN_IDS,
    PanopticConverters,
    PolygonConverter,
    TableConverter,
    converter_of_config,
    draw_polygons,
    shrink,
)
from clouds_mmseg.data_tools.prepare.run import Options, prepare_dataset
from clouds_mmseg.datasets import DataError, IDDDataset
from clouds_mmseg.datasets.labels import (
    CITYSCAPES_IDS,
    CLASSES_OF_VISTAS,
    IDD_IDS,
    IGNORED_OF_VISTAS,
    SYNTHIA_IDS,
    VISTAS_IDS,
    WILDDASH2_CLASSES,
    WILDDASH2_TO_CITYSCAPES,
)
from clouds_mmseg.utils.cityscapes import CLASSES

ONE = Options(workers=1)


def train_ids(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_polygons_and_label_ids_make_the_same_labels():
    drawn, ids = polygons()
    from_polygons = draw_polygons(drawn, 'x.json')
    from_ids = TableConverter.of(CITYSCAPES_IDS)(label_bytes(ids), 'x.png')
    np.testing.assert_array_equal(from_polygons, from_ids)
    assert {0, 10, 11, 13, 255} == set(np.unique(from_polygons))


def test_polygons_of_an_unknown_class():
    content = json.loads(polygons()[0])
    content['objects'][1]['label'] = 'hovercraft'
    with pytest.raises(DataError, match='y.json.*classes: hovercraft'):
        draw_polygons(json.dumps(content).encode(), 'y.json')
    with pytest.raises(DataError, match='z.json cannot be drawn'):
        draw_polygons(b'{"imgHeight": 3', 'z.json')


def test_cityscapes_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, 'find_spec', lambda name: None)
    fake = MAKERS['cityscapes']()
    src = write_archives(tmp_path / 'src', fake)
    result = prepare_dataset('cityscapes', src, tmp_path / 'a', ONE)
    assert result.manifest.label_source == 'label_ids'
    files = fake.files()
    only = {k: v for k, v in files.items() if not k.endswith('labelIds.png')}
    write_files(tmp_path / 'polygons', only)
    with pytest.raises(DataError, match=r"install 'clouds_mmseg\[data\]'"):
        prepare_dataset('cityscapes', tmp_path / 'polygons', tmp_path / 'b')
    # Train ids that were made before serve without it.
    made = {
        k.replace('labelIds', 'labelTrainIds'): v
        for k, v in files.items()
        if not k.endswith('polygons.json')
    }
    write_files(tmp_path / 'made', made)
    result = prepare_dataset(
        'cityscapes', tmp_path / 'made', tmp_path / 'c', ONE
    )
    assert result.manifest.label_source == 'train_ids'


def test_the_names_of_vistas_mean_the_published_ids():
    config = json.loads(vistas_config('1.2'))['labels']
    names = [label['name'] for label in config]
    assert len(names) == len(MapillaryDataset_v1.METAINFO['classes']) == 66
    by_name = {
        index: CLASSES.index(CLASSES_OF_VISTAS['1.2'][name])
        for index, name in enumerate(names)
        if name in CLASSES_OF_VISTAS['1.2']
    }
    assert by_name == VISTAS_IDS.train_ids == VISTAS
    count = len(CLASSES_OF_VISTAS['2.0']) + len(IGNORED_OF_VISTAS['2.0'])
    assert count == len(MapillaryDataset_v2.METAINFO['classes']) == 124
    assert not set(CLASSES_OF_VISTAS['2.0']) & IGNORED_OF_VISTAS['2.0']
    assert set(CLASSES_OF_VISTAS['2.0'].values()) == set(CLASSES)


def test_vistas_labels_follow_the_config_not_their_position(tmp_path):
    fake = MAKERS['mapillary']()
    names = sorted({*CLASSES_OF_VISTAS['1.2'], *IGNORED_OF_VISTAS['1.2']})[
        ::-1
    ]
    (files,) = fake.archives.values()
    files['config_v1.2.json'] = vistas_config('1.2', names)
    src = write_archives(tmp_path / 'src', fake)
    prepare_dataset('mapillary', src, tmp_path / 'out', ONE)
    raw = spread(range(66), 1)
    expected = [
        CLASSES.index(CLASSES_OF_VISTAS['1.2'][n])
        if n in CLASSES_OF_VISTAS['1.2']
        else 255
        for n in names
    ]
    (path,) = (tmp_path / 'out/validation/labels').iterdir()
    np.testing.assert_array_equal(
        train_ids(path), np.array(expected, np.uint8)[raw]
    )


def test_unknown_classes_of_vistas_are_listed():
    names = sorted({*CLASSES_OF_VISTAS['1.2'], *IGNORED_OF_VISTAS['1.2']})
    config = vistas_config('1.2', [*names, 'object--drone', 'nature--lava'])
    with pytest.raises(DataError) as caught:
        converter_of_config(config, 'config_v1.2.json', '1.2')
    text = str(caught.value)
    assert '2 classes' in text
    assert 'object--drone' in text and 'nature--lava' in text
    few = vistas_config('1.2', names[:20])
    with pytest.raises(DataError, match='no class that is .*sky'):
        converter_of_config(few, 'c', '1.2')
    with pytest.raises(DataError, match='is no config'):
        converter_of_config(b'[1', 'c', '1.2')


def test_vistas_2_0_labels(tmp_path):
    src = write_archives(tmp_path / 'src', MAKERS['mapillary_v2']())
    result = prepare_dataset(
        'mapillary',
        src,
        tmp_path / 'out',
        Options(workers=1, label_version='2.0'),
    )
    assert result.manifest.label_source == 'config_v2.0.json'
    names = sorted({*CLASSES_OF_VISTAS['2.0'], *IGNORED_OF_VISTAS['2.0']})
    found = train_ids(next((tmp_path / 'out/training/labels').iterdir()))
    raw = spread(range(124), 0)
    for name, expected in {
        'construction--flat--road': 0,
        'marking--discrete--stop-line': 0,
        'marking--discrete--crosswalk-zebra': 255,
        'human--person--person-group': 11,
        'object--traffic-light--cyclists': 6,
        'object--traffic-sign--back': 255,
        'construction--structure--garage': 255,
    }.items():
        assert set(found[raw == names.index(name)]) == {expected}, name
    with pytest.raises(DataError, match='made from config_v2.0.json, now'):
        prepare_dataset('mapillary', src, tmp_path / 'out', ONE)


def test_vistas_without_its_config(tmp_path):
    fake = MAKERS['mapillary']()
    (files,) = fake.archives.values()
    del files['config_v1.2.json']
    src = write_archives(tmp_path / 'src', fake)
    with pytest.raises(DataError, match='there is no config_v1.2.json'):
        prepare_dataset('mapillary', src, tmp_path / 'out', ONE)
    files['config.json'] = vistas_config('1.2')
    src = write_archives(tmp_path / 'old', fake)
    result = prepare_dataset('mapillary', src, tmp_path / 'out', ONE)
    assert result.manifest.label_source == 'config.json'


def test_wilddash_classes():
    assert len(WILDDASH2_CLASSES) == len(set(WILDDASH2_CLASSES)) == 81
    assert set(WILDDASH2_TO_CITYSCAPES) < set(WILDDASH2_CLASSES)
    assert set(WILDDASH2_TO_CITYSCAPES.values()) == set(CLASSES)
    # Up to 33, without groups of poles, they are the ids of Cityscapes.
    for index in range(34):
        name = WILDDASH2_CLASSES[index]
        here = WILDDASH2_TO_CITYSCAPES.get(name)
        there = int(
            TableConverter.of(CITYSCAPES_IDS)(
                label_bytes(np.full((1, 1), index)), 'x'
            )[0, 0]
        )
        assert (CLASSES.index(here) if here else 255) == there, name


def test_idd_classes():
    assert len(IDD_IDS.names) == len(set(IDD_IDS.names)) == 40
    assert IDD_IDS.train_ids == IDD
    # Every class of Cityscapes has a counterpart.
    assert sorted(IDD.values()) == [*range(19)]


def test_polygons_of_idd():
    convert = PolygonConverter.of(IDD_IDS)
    drawn, expected = idd_polygons()
    np.testing.assert_array_equal(convert(drawn, 'x.json'), expected)
    assert {0, 9, 13, 255} == set(np.unique(expected))
    content = json.loads(drawn)
    content['objects'][0]['label'] = 'hovercraft'
    with pytest.raises(DataError, match="y.json cannot.*'hovercraft'"):
        convert(json.dumps(content).encode(), 'y.json')
    with pytest.raises(DataError, match='z.json cannot be drawn'):
        convert(b'{"imgHeight": 3', 'z.json')


def test_idd_in_another_image_format(tmp_path):
    """Its images have two suffixes; the copies have one."""
    src = write_archives(tmp_path / 'src', MAKERS['idd']())
    out = tmp_path / 'out'
    prepare_dataset('idd', src, out, Options(workers=1, recode='bmp'))
    dataset = IDDDataset(data_root=str(out), pipeline=[], serialize_data=False)
    assert dataset.img_suffix == '_leftImg8bit.bmp' and len(dataset) == 2


def test_panoptic_files_that_do_not_fit():
    with pytest.raises(DataError, match='is no panoptic annotation'):
        PanopticConverters(b'{}', 'panoptic.json')
    content = dict(
        categories=[dict(id=3, name='ufo')], annotations=[], images=[]
    )
    with pytest.raises(DataError, match='does not have: ufo'):
        PanopticConverters(json.dumps(content).encode(), 'panoptic.json')
    content['categories'][0]['name'] = 'road'
    converters = PanopticConverters(json.dumps(content).encode(), 'p.json')
    pixels = cv2.imencode('.png', np.full((2, 2, 3), 9, np.uint8))[1].tobytes()
    with pytest.raises(DataError, match='a.png has segments'):
        converters.for_file('a')(pixels, 'a.png')
    with pytest.raises(DataError, match='a.png cannot be decoded'):
        converters.for_file('a')(b'x', 'a.png')


def test_sixteen_bits_are_read_as_such():
    converter = TableConverter.of(SYNTHIA_IDS, 'first')
    raw = spread(range(23))
    expected = np.vectorize(lambda i: SYNTHIA.get(i, 255))(raw)
    np.testing.assert_array_equal(
        converter(label_bytes(raw, 'synthia'), 'x'), expected
    )
    with pytest.raises(DataError, match='ids outside the classes: 300'):
        converter(label_bytes(spread([3, 300]), 'synthia'), 'x')
    with pytest.raises(DataError, match='ids outside the classes: 19'):
        CHECK_TRAIN_IDS(label_bytes(spread([3, 19])), 'x')


def test_shrinking_keeps_ids():
    label = np.kron(
        np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((4, 4))
    )
    small = shrink(label.astype(np.uint8), 3, label=True)
    np.testing.assert_array_equal(small, np.arange(12).reshape(3, 4))
    assert shrink(small, 3, label=True) is small
