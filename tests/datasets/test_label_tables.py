"""The lookup from file ids to class indices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clouds_mmseg.datasets.label_table import (
    UNDEFINED,
    apply_label_table,
    build_label_table,
)

tables = st.dictionaries(st.integers(0, 255), st.integers(0, 253), max_size=30)
labels = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.integers(0, 255),
)


@given(tables, st.sets(st.integers(0, 255), max_size=30), labels)
def test_equals_a_loop_over_pixels(ids, ignored, raw):
    ignored -= set(ids)
    table = build_label_table(ids, ignored)
    mapped, undefined = apply_label_table(raw, table)
    unknown = {int(i) for i in raw.ravel()} - set(ids) - ignored
    assert undefined == sorted(unknown)
    if unknown:
        assert mapped is None
        return
    assert mapped.dtype == np.uint8 and mapped.shape == raw.shape
    for got, number in zip(mapped.ravel(), raw.ravel(), strict=True):
        assert got == ids.get(int(number), 255)


@pytest.mark.parametrize('number', [256, 40000, -1])
def test_ids_that_8_bits_cannot_hold(number):
    raw = np.array([[0, number]], np.int32)
    table = build_label_table({0: 0}, [255])
    # 40000 and -1 would become defined ids when cut to 8 bits.
    assert apply_label_table(raw, table) == (None, [number])


def test_marker_is_no_class():
    assert UNDEFINED == 254
    with pytest.raises(ValueError, match='0..253'):
        build_label_table({0: 254})
    with pytest.raises(ValueError, match='outside 0..255'):
        build_label_table({256: 0})
    with pytest.raises(ValueError, match='outside 0..255'):
        build_label_table({}, [-1])
    with pytest.raises(ValueError, match='at the same time'):
        build_label_table({3: 0}, [3])
