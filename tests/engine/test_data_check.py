import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from tiny_run import CLASSES

from clouds_mmseg.datasets import FolderDataset
from clouds_mmseg.engine.data_check import (
    check_classes,
    check_dataset,
    check_domains,
    check_ignored,
    check_overlap,
    check_same_classes,
    domain_counts,
    leaf_datasets,
)
from clouds_mmseg.utils.errors import UserError


class Leaf:
    def __init__(self, domain, count):
        if domain:
            self.domain = domain
        self.count = count
        self.opened = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.opened.append(index)


class Wrapper:
    def __init__(self, dataset):
        self.dataset = dataset


class Concat:
    def __init__(self, *datasets):
        self.datasets = list(datasets)


class Metric:
    def __init__(self, *domains):
        self.domains = list(domains) or None


def test_leaves_are_found_below_wrappers():
    a, b, c = Leaf('a', 1), Leaf('b', 2), Leaf('a', 4)
    tree = Concat(Wrapper(a), Concat(b, Wrapper(Wrapper(c))))
    assert list(leaf_datasets(tree)) == [a, b, c]
    assert domain_counts(tree) == {'a': 5, 'b': 2}
    assert domain_counts(Leaf(None, 3)) == {'Leaf': 3}


def test_the_first_sample_of_each_is_opened():
    a, b = Leaf('a', 1), Leaf('b', 2)
    check_dataset(Concat(a, b), 'val')
    assert a.opened == b.opened == [0]


def test_an_empty_dataset_is_an_error():
    leaf = Leaf('a', 0)
    leaf.data_prefix = dict(img_path='/data/a')
    leaf.img_suffix = '.jpg'
    with pytest.raises(UserError, match=r'train .*empty.*\.jpg under /data'):
        check_dataset(Concat(Leaf('b', 1), leaf), 'train')


def test_domains_are_compared():
    tree = Concat(Leaf('day', 1), Leaf(None, 1))
    check_domains(tree, [Metric(), Metric('day'), object()], 'val')
    with pytest.raises(UserError, match="'day'.*test_evaluator.*'dusk'"):
        check_domains(tree, [Metric('dusk')], 'test')


def test_datasets_without_classes_are_not_compared():
    check_classes(Leaf('a', 1), object(), 'train')


class Sorting(Metric):
    def __init__(self, joined=(), sources=()):
        self.domains = None
        self.joined_domains = list(joined)
        self.source_domains = list(sources)
        self.ignore_index = 255


def test_domains_whose_results_would_become_one():
    twice = Concat(Leaf('night', 1), Leaf('day', 1), Leaf('night', 2))
    with pytest.raises(UserError, match="two test datasets have .*'night'"):
        check_domains(twice, [Sorting()], 'test')
    check_domains(twice, [Sorting(joined=['night'])], 'test')
    check_domains(twice, [object()], 'test')
    case = Concat(Leaf('night', 1), Leaf('Night', 1))
    with pytest.raises(UserError, match="'night' and 'Night'.*in case only"):
        check_domains(case, [Sorting(joined=['night', 'Night'])], 'val')


@pytest.fixture
def folder(tiny_data):
    init_default_scope('mmseg')

    def make(name, domain='day', pack='PackDGInputs', **options):
        steps = ('LoadSegImage', 'LoadSegLabels', pack)
        return FolderDataset(
            domain=domain,
            data_root=str(tiny_data / name),
            metainfo=dict(classes=CLASSES),
            pipeline=[dict(type=step) for step in steps],
            **options,
        )

    return make


def test_a_pipeline_that_loses_the_domain(folder):
    dataset = folder('day_val', pack='PackSegInputs')
    with pytest.raises(UserError, match="end it with dict.type='PackDGInputs"):
        check_domains(dataset, [Sorting()], 'val')
    check_domains(dataset, [object()], 'val')
    check_domains(folder('day_val'), [Sorting()], 'val')


def test_what_is_ignored_is_the_same_everywhere(folder):
    model, metric = torch.nn.Module(), Sorting()
    model.decode_head, model.data_preprocessor = Metric(), Metric()
    dataset = folder('day_val')
    check_ignored(dataset, model, [metric], 'train')
    model.data_preprocessor.seg_pad_val = 0
    with pytest.raises(UserError, match='seg_pad_val is 0, but pixels'):
        check_ignored(dataset, model, [metric], 'train')
    check_ignored(dataset, model, [metric], 'val')
    metric.ignore_index = 0
    with pytest.raises(UserError, match='val_evaluator.ignore_index is 0'):
        check_ignored(dataset, model, [metric], 'val')


def test_images_of_training_among_the_tested(folder, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    try:
        train, other = folder('day_train'), folder('dusk_val', 'dusk')
        check_overlap(train, Concat(other), [Sorting()], 'val')
        assert not caplog.text
        same = folder('day_train', 'again', skip=['000'])
        check_overlap(train, Concat(other, same), [Sorting()], 'val')
        assert '5 of 5 images of the val domain again' in caplog.text
        caplog.clear()
        check_overlap(train, same, [Sorting(sources=['again'])], 'val')
        assert not caplog.text
        check_overlap(train, folder('day_val'), [Sorting()], 'val')
        assert 'the domain day is trained on' in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_classes_in_another_order():
    trained, tested = Leaf('a', 1), Leaf('b', 1)
    trained.metainfo = dict(classes=('road', 'car'))
    tested.metainfo = dict(classes=['road', 'car'])
    check_same_classes(trained, tested, 'val')
    tested.metainfo = dict(classes=('car', 'road'))
    with pytest.raises(UserError, match=r"class 0 is \['car'\] there"):
        check_same_classes(trained, tested, 'val')
    tested.metainfo = dict(classes=('road',))
    with pytest.raises(UserError, match=r'class 1 is \[\] there'):
        check_same_classes(trained, tested, 'val')
    check_same_classes(trained, Leaf('c', 1), 'val')


def test_sets_of_different_classes_are_not_joined(build, tiny_data):
    runner = build()
    datasets = runner._val_dataloader['dataset']['datasets']
    datasets[1]['metainfo'] = dict(classes=('ground', 'box', 'sky'))
    with pytest.raises(UserError, match='val datasets differ in classes'):
        runner.val()
