"""The lookup from file ids to class indices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clouds_mmseg.datasets.labels import (
    UNDEFINED,
    apply_label_table,
    build_label_table,
)
from clouds_mmseg.utils.errors import UserError

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
# Ids of 8 bits in the one half of the cases, of 16 bits in the other.
cases = st.sampled_from(
    [(255, np.uint8), (255, np.uint16), (255, np.int32)]
    + [(65535, np.uint16), (65535, np.int32), (2000, np.uint16)]
).flatmap(
    lambda case: st.tuples(
        st.dictionaries(
            st.integers(0, case[0]), st.integers(0, 253), max_size=30
        ),
        st.sets(st.integers(0, case[0]), max_size=30),
        hnp.arrays(case[1], SHAPES, elements=st.integers(0, case[0])),
    )
)


@given(cases)
def test_equals_a_loop_over_pixels(case):
    ids, ignored, raw = case
    ignored = ignored - set(ids)
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


def test_ids_of_16_bits():
    raw = np.array([[7000, 1000, 33001, 255, 0]], np.uint16)
    table = build_label_table({7000: 0, 33001: 4}, [255, 0, 1000])
    mapped, undefined = apply_label_table(raw, table)
    assert mapped.tolist() == [[0, 255, 4, 255, 255]] and not undefined
    # 7000 cut to 8 bits is 88.
    raw = np.array([[88, 65535]], np.uint16)
    assert apply_label_table(raw, table) == (None, [88, 65535])
    # Tables of 8-bit ids, and with them the reports beside data, stay.
    assert build_label_table({255: 3}).shape == (256,)


@pytest.mark.parametrize('number', [256, 40000, -1])
def test_ids_that_8_bits_cannot_hold(number):
    raw = np.array([[0, number]], np.int32)
    table = build_label_table({0: 0}, [255])
    # 40000 and -1 would become defined ids when cut to 8 bits.
    assert apply_label_table(raw, table) == (None, [number])


def test_marker_is_no_class():
    assert UNDEFINED == 254
    with pytest.raises(UserError, match='0..253'):
        build_label_table({0: 254})
    with pytest.raises(UserError, match='outside 0..65535'):
        build_label_table({65536: 0})
    with pytest.raises(UserError, match='outside 0..65535'):
        build_label_table({}, [-1])
    with pytest.raises(UserError, match='at the same time'):
        build_label_table({3: 0}, [3])


@pytest.mark.parametrize('ignored', [(), (255,), (20, 255)])
def test_files_of_train_ids_are_taken_as_they_are(ignored):
    table = build_label_table({index: index for index in range(19)}, ignored)
    rng = np.random.default_rng(0)
    for ids in ([0, 18], [255], [3, 255], [19], [18, 254], [20, 255]):
        raw = rng.choice(np.array(ids, np.uint8), (6, 8))
        raw.setflags(write=False)
        mapped, undefined = apply_label_table(raw, table)
        wrong = [i for i in ids if table[i] == UNDEFINED]
        assert undefined == wrong
        if not wrong:
            assert np.array_equal(mapped, table[raw])
            mapped[0, 0] = 0
