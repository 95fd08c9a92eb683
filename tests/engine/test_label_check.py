"""What is found out about labels and datasets before training begins."""

import json
import logging

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from clouds_mmseg.datasets.verify import Task, accept, keep, verify
from clouds_mmseg.engine.data_check import check_dataset, check_labels
from clouds_mmseg.utils.errors import UserError

STEPS = [dict(type='LoadSegImage'), dict(type='LoadSegLabels')]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


@pytest.fixture
def said(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield caplog
    logger.removeHandler(caplog.handler)


def write(root, *rows, repeat=1):
    """Write images with labels that have these ids."""
    for number, ids in enumerate(list(rows) * repeat):
        for kind, shape in (('images', (8, 8, 3)), ('labels', (8, 8))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            pixels = np.resize(np.array(ids, np.uint8), shape)
            Image.fromarray(pixels).save(root / kind / f'{number:03d}.png')
    return root


def folder(root, classes=('bg', 'fg'), kind='FolderDataset', **options):
    options = dict(domain='mine', pipeline=STEPS) | options
    if kind == 'FolderDataset':
        options['metainfo'] = dict(classes=list(classes))
    return DATASETS.build(dict(type=kind, data_root=str(root), **options))


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_masks_of_0_and_255_stop_the_run(tmp_path, split):
    write(tmp_path, [0, 255, 255], [0, 0, 255])
    with pytest.raises(UserError) as caught:
        check_dataset(folder(tmp_path), split)
    text = str(caught.value)
    assert "'fg' occurs in no label, and 49 % of the pixels are 255" in text
    assert "names={'bg': 0, 'fg': 255}" in text


def test_what_the_error_advises_works(tmp_path, said):
    write(tmp_path, [0, 255, 255], [0, 0, 255])
    names = {'bg': 0, 'fg': 255}
    check_dataset(folder(tmp_path, names=names), 'train')
    assert not said.text
    # Ignoring 255 on purpose.
    check_dataset(folder(tmp_path, ignored=[255]), 'train')
    assert 'fg: occur in no label' in said.text


def test_verification_finds_it_and_its_acceptance_counts(tmp_path, said):
    write(tmp_path, [0, 255, 255], [0, 0, 255])
    dataset = folder(tmp_path, lazy_init=True)
    reports = verify([Task('mine', dataset, True)], workers=1)
    assert [f.kind for f in reports[0].open_errors] == ['mask_255']
    with pytest.raises(UserError, match='neither fixed nor'):
        check_dataset(folder(tmp_path), 'train')
    accept(reports)
    keep(reports)
    check_dataset(folder(tmp_path), 'train')


def test_a_class_that_no_label_shows(tmp_path, said):
    write(tmp_path, [0, 1], [0, 1, 1])
    check_labels(folder(tmp_path, 'abc'), 'train')
    assert 'c: occur in no label' in said.text
    said.clear()
    # Test sets lack classes; so does a label_map that says so.
    check_labels(folder(tmp_path, 'abc'), 'val')
    names, label_map = dict(a=0, b=1), dict(c=[])
    check_labels(
        folder(tmp_path, 'abc', names=names, label_map=label_map), 'train'
    )
    assert not said.text


def test_another_source_may_show_it(tmp_path, said):
    first = folder(write(tmp_path / 'a', [0, 1]), 'abc')
    second = folder(write(tmp_path / 'b', [0, 2]), 'abc')

    class Both:
        datasets = [first, second]

    check_labels(Both(), 'train')
    assert not said.text


def test_published_sets_lack_classes_and_nobody_complains(tmp_path, said):
    write(tmp_path, [3, 4, 0])
    prefix = dict(img_path='images', seg_map_path='labels')
    dataset = folder(tmp_path, kind='SYNTHIADataset', data_prefix=prefix)
    check_labels(dataset, 'train')
    assert not said.text


def test_ids_that_count_from_one(tmp_path, said):
    write(tmp_path, [0, 1, 2, 3])
    with pytest.raises(UserError) as caught:
        check_labels(folder(tmp_path, 'abc'), 'train')
    assert "names={'a': 1, 'b': 2, 'c': 3}, ignored=[0]" in str(caught.value)
    names = {'a': 1, 'b': 2, 'c': 3}
    check_labels(folder(tmp_path, 'abc', names=names, ignored=[0]), 'train')
    assert not said.text
    write(tmp_path, [1, 2])
    check_labels(folder(tmp_path, 'abc'), 'train')
    assert 'a: occur in no label. Do the ids' in said.text


def test_more_than_half_ignored(tmp_path, said):
    write(tmp_path, [0, 1, 255, 255, 255])
    check_labels(folder(tmp_path), 'train')
    assert '59 % of the pixels in the labels belong to no class' in said.text


def test_the_background_of_one_class_is_not_ignored(tmp_path, said):
    write(tmp_path, [0, 255, 255])
    check_labels(folder(tmp_path, ['fg'], ignored=[255]), 'train')
    names = dict(names={'fg': 255}, ignored=[0])
    check_labels(folder(tmp_path, ['fg'], **names), 'train')
    assert not said.text
    # Masks of 0 and 255: which of them is the class?
    check_labels(folder(tmp_path, ['fg']), 'train')
    assert "the id 0 is 'fg' here, and 255 (66 % of the pixels)" in said.text
    assert "names={'fg': 255}, ignored=[0]; if it is" in said.text
    assert 'belong to no class' not in said.text


def test_a_look_is_bounded_and_uses_what_was_counted(tmp_path, monkeypatch):
    from clouds_mmseg.datasets.verify import label_look

    dataset = folder(write(tmp_path, [0, 1], repeat=6))
    count = label_look.look_at_labels(dataset, seconds=0)
    assert (count.seen, count.total) == (1, 6)
    verify([Task('mine', folder(tmp_path, lazy_init=True), True)], workers=1)
    monkeypatch.setattr(label_look, 'SampleCheck', lambda *a: None)
    count = label_look.look_at_labels(dataset)
    assert (count.seen, count.total) == (6, 6)
    assert count.pixels[[0, 1]].tolist() == [192, 192]
    kept = json.loads((tmp_path / 'clouds_statistics.json').read_text())
    assert kept['sets']
