"""Rules of the filter, against values computed by hand."""

import numpy as np
import pytest

from clouds_mmseg.image_filter.measures import pixel_loss
from clouds_mmseg.image_filter.rules import (
    FilterRule,
    class_limits,
    difference_hash,
    filtered_label,
    is_blank,
    near_copies,
    similarity_limit,
)
from clouds_mmseg.utils.errors import UserError


def test_loss_is_the_cross_entropy_of_shares():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 2, (3, 4, 5)).astype(np.float32)
    scores[:, 0, 0] = 0
    label = rng.integers(0, 3, (4, 5)).astype(np.uint8)
    label[1, 1] = 255
    loss = pixel_loss(scores, label)
    for y in range(4):
        for x in range(5):
            own = label[y, x]
            if own == 255:
                expected = 0
            else:
                total = max(scores[:, y, x].sum(), 1e-6)
                expected = -np.log(max(scores[own, y, x] / total, 1e-6))
            assert loss[y, x] == pytest.approx(expected, rel=2e-3, abs=1e-6)


def test_pixels_above_k_times_the_mean_of_their_class_go():
    label = np.array([[0, 0, 1], [1, 255, 0]], np.uint8)
    loss = np.array([[1.0, 3.0, 0.1], [0.3, 0.0, 2.0]], np.float16)
    sums = np.array([[6.0, 0.4, 0.0]])
    counts = np.array([[3, 2, 0]])
    means, limits = class_limits(sums, counts, 1.25)
    assert means[:2].tolist() == [2.0, 0.2] and np.isnan(means[2])
    # 3 > 2.5; 0.3 > 0.25; the others stay, and 255 stays 255.
    result = filtered_label(label, loss, limits)
    assert result.tolist() == [[0, 255, 1], [255, 255, 0]]
    assert label[0, 1] == 0


def test_near_copies_are_told_from_the_first_of_them():
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (16, 17))
    other = rng.integers(0, 256, (16, 17))
    near = grey.copy()
    near[3, 5] = 255 - near[3, 5]
    hashes = dict(enumerate(map(difference_hash, (grey, other, near, grey))))
    copies = near_copies(hashes, 0.01)
    assert {number: first for number, (first, _) in copies.items()} == {
        2: 0,
        3: 0,
    }
    assert copies[3][1] == 0 and 0 < copies[2][1] <= 2 / 256
    assert set(near_copies(hashes, 0.0)) == {3}
    # Every image resembles any other at the largest distance.
    assert set(near_copies(hashes, 1.0)) == {1, 2, 3}
    assert near_copies({}, 0.5) == {}


def test_a_hash_does_not_depend_on_brightness():
    grey = np.random.default_rng(2).integers(0, 100, (16, 17))
    assert difference_hash(grey) == difference_hash(2 * grey + 20)


def test_outliers_of_the_similarity_are_off_topic():
    rule = FilterRule()
    values = [0.30, 0.31, 0.29, 0.30, 0.32, 0.28]
    limit = similarity_limit([*values, 0.05], rule)
    assert 0.05 < limit < min(values)
    assert similarity_limit(values, FilterRule(min_similarity=0.3)) == 0.3
    assert similarity_limit([], rule) is None
    assert is_blank(1.0) and not is_blank(10.0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(k=0), 'above 0, got 0'),
        (dict(k=-1.25), 'above 0'),
        (dict(k=float('nan')), 'above 0'),
        (dict(min_kept=1.5), r'--min-kept\) must lie in \[0, 1\], got 1.5'),
        (dict(min_confidence=-0.1), r'--min-confidence\)'),
        (dict(duplicates=2), r'--duplicates\)'),
        (dict(min_similarity=-1), r'--min-similarity\)'),
        (dict(min_kept=float('nan')), r'--min-kept\)'),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        FilterRule(**options)
