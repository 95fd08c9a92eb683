import pytest

from clouds_mmseg.engine.data_check import (
    check_classes,
    check_dataset,
    check_domains,
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
