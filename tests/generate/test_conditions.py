"""Palettes, borders, edges, and labels that do not fit."""

import json

import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.generate.backends import list_sources
from clouds_mmseg.generate.conditions import (
    Conditioning,
    draw_edges,
    find_labels,
    ignore_borders,
    read_palette,
    read_train_ids,
)
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.errors import GenerationError


def test_a_drawn_label_has_the_colours_of_its_palette():
    label = np.array([[0, 10], [18, 255]], np.uint8)
    drawn = read_palette('cityscapes').draw(label)
    assert drawn.tolist() == [
        [PALETTE[0], PALETTE[10]], [PALETTE[18], [0, 0, 0]],
    ]  # fmt: skip


def test_colours_of_ade20k():
    from mmseg.datasets import ADE20KDataset

    meta = ADE20KDataset.METAINFO
    palette = read_palette('ade20k')
    assert set(palette.colours) == set(range(19)) - {CLASSES.index('train')}
    names = [name.strip() for name in meta['classes']]
    for ours, theirs in (
        ('road', 'road'), ('vegetation', 'tree'), ('motorcycle', 'minibike'),
    ):  # fmt: skip
        colour = meta['palette'][names.index(theirs)]
        assert list(palette.colours[CLASSES.index(ours)]) == colour
    (merged,) = palette.merged()
    assert merged.startswith('person and rider have one colour')


def test_palettes_of_files(tmp_path):
    path = tmp_path / 'p.json'
    path.write_text(json.dumps({'road': [1, 2, 3], 'train': [4, 5, 6]}))
    palette = read_palette(str(path))
    assert palette.colours == {0: (1, 2, 3), 16: (4, 5, 6)}
    assert palette.unknown(np.array([[0, 1, 255]], np.uint8)) == [1]
    path.write_text(json.dumps([[1, 2, 3], [4, 5, 6]]))
    assert read_palette(str(path), ['a', 'b']).colours[1] == (4, 5, 6)
    for content, message in (
        ('{"road": [1, 2]}', 'class name -> '),
        ('{"road": [1, 2, 256]}', 'integers in 0..255'),
        ('nothing', 'must be JSON'),
        ('{"raod": [1, 2, 3]}', 'colours of raod, which are no classes'),
        ('{}', 'for none of the classes'),
    ):
        path.write_text(content)
        with pytest.raises(GenerationError, match=message):
            read_palette(str(path))
    with pytest.raises(GenerationError, match='neither cityscapes nor ade20k'):
        read_palette('coco')


def test_bands_at_borders_are_ignored():
    label = np.zeros((5, 9), np.uint8)
    label[:, 4:] = 7
    assert ignore_borders(label, 0) is label
    out = ignore_borders(label, 2)
    assert out[0].tolist() == [0, 0, 255, 255, 255, 255, 7, 7, 7]
    # The edges of the image are no borders.
    assert (ignore_borders(np.full((4, 4), 3, np.uint8), 3) == 3).all()


def test_edges_are_white_on_black():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    drawn = np.asarray(draw_edges(Image.fromarray(image)))
    assert set(np.unique(drawn)) == {0, 255}
    assert drawn[5:-5, 14:18].any() and not drawn[:, :10].any()


def test_labels_are_found_beside_their_images(tmp_path):
    for folder, name in (
        ('images', 'a/1_leftImg8bit.png'),
        ('labels', 'a/1_gtFine_labelTrainIds.png'),
        ('labels', 'a/1_gtFine_color.png'),
    ):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    images = list_sources(tmp_path / 'images')
    labels = tmp_path / 'labels'
    found = find_labels(
        labels, images, image_end='_leftImg8bit.png',
        label_end='_gtFine_labelTrainIds.png',
    )  # fmt: skip
    path = str(labels / 'a/1_gtFine_labelTrainIds.png')
    assert found.labels == {'a/1_leftImg8bit.png': path}
    alone = find_labels(labels, label_end='_labelTrainIds.png')
    assert alone.images == [('a/1_gtFine_labelTrainIds.png', path)]
    with pytest.raises(GenerationError, match='1 of 1 images of --source'):
        find_labels(labels, images)
    with pytest.raises(GenerationError, match='ends otherwise'):
        find_labels(labels, images, image_end='_rgb.png')
    with pytest.raises(GenerationError, match='no file \\*.tif'):
        find_labels(labels, label_end='.tif')
    with pytest.raises(GenerationError, match='there is no such folder'):
        find_labels(tmp_path / 'none')


def conditioning(tmp_path, label, **options):
    path = tmp_path / '0.png'
    Image.fromarray(label).save(path)
    return Conditioning(find_labels(tmp_path), **options), str(path)


def test_classes_that_the_palette_does_not_know(tmp_path):
    label = np.array([[0, 16], [255, 1]], np.uint8)
    # Told before the first image, whatever the labels hold.
    with pytest.raises(GenerationError, match='no colour for train. Give a'):
        conditioning(tmp_path, np.zeros((2, 2), np.uint8))
    drawer, path = conditioning(tmp_path, label, unknown_classes='error')
    with pytest.raises(
        GenerationError, match='ade20k has no colour for train, which the'
    ):
        drawer.read_label(path)
    drawer, _ = conditioning(tmp_path, label, unknown_classes='ignore')
    read = drawer.read_label(path)
    assert read.tolist() == [[0, 255], [255, 1]]
    drawn = np.asarray(drawer.draw(read, None, (4, 4)))
    assert not drawn[0, 3].any() and drawn[0, 0].any()
    assert drawer.recipe()['unknown_classes'] == 'ignore'


def test_ids_that_are_no_classes(tmp_path):
    drawer, path = conditioning(
        tmp_path, np.array([[0, 33]], np.uint8), palette='cityscapes'
    )
    with pytest.raises(GenerationError, match='has the ids 33; the classes'):
        drawer.read_label(path)
    Image.fromarray(np.array([[0, 999]], np.uint16)).save(tmp_path / '1.png')
    with pytest.raises(GenerationError, match='has the id 999'):
        read_train_ids(str(tmp_path / '1.png'))
    (tmp_path / '2.png').write_bytes(b'no image')
    with pytest.raises(GenerationError, match='the label .*2.png'):
        read_train_ids(str(tmp_path / '2.png'))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(control='pose'), '--control must be one of segmentation'),
        (dict(control='edges'), 'give their folder as --source'),
        (dict(control='edges', palette='ade20k'), '--palette ade20k belongs'),
        (dict(control='depth'), '--control depth needs --depth-model'),
        (dict(depth_model='x'), '--depth-model x belongs to --control depth'),
        (dict(ignore_border=-1), '--ignore-border must be in 0..100'),
        (dict(unknown_classes='no'), '--unknown-classes must be error or'),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(GenerationError, match=message):
        conditioning(tmp_path, np.zeros((2, 2), np.uint8), **options)
