import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds_mmseg.conversion.layouts import (
    CLIP,
    HEAD,
    LEGACY_HEAD,
    RESNET,
    SWIN,
    KeyTable,
)
from clouds_mmseg.conversion.target_spec import infer_head_arguments
from clouds_mmseg.utils.errors import UserError

TABLES = [HEAD, CLIP, RESNET, SWIN]


@settings(max_examples=200, deadline=None)
@given(
    table=st.sampled_from(TABLES),
    place=st.integers(0, 10_000),
    numbers=st.lists(st.integers(0, 40), min_size=2, max_size=2),
    rest=st.sampled_from(['', '.weight', '.bias', '.running_mean']),
)
def test_every_part_comes_back(table, place, numbers, rest):
    rule = list(table.rules)[place % len(table.rules)]
    key = rule.format(*numbers) + rest
    there = table(key)
    assert there == table.rules[rule].format(*numbers) + rest
    assert table.inverse()(there) == key
    longer = table.with_prefixes('a.b.', 'c.')
    assert longer(f'a.b.{key}') == f'c.{there}'
    assert longer(key) is None


@pytest.mark.parametrize('name', ['rn50', 'rn101', 'convnext_large'])
def test_no_two_weights_get_one_name(reference_dir, name):
    path = reference_dir / f'clouds_official_{name}_keys.json'
    heads = [
        key.removeprefix('sem_seg_head.')
        for key in json.loads(path.read_text())
        if key.startswith('sem_seg_head.')
    ]
    renamed = {HEAD(key) for key in heads}
    assert None not in renamed and len(renamed) == len(heads) == 292


def test_whole_segments_are_compared():
    assert HEAD('predictor.decoder_normal.weight') is None
    assert HEAD('pixel_decoder.layer_12.weight') is None
    assert HEAD('predictor.transformer_ffn_layers.12.norm.bias') == (
        'transformer_decoder.layers.12.norms.2.bias'
    )
    assert LEGACY_HEAD('predictor.static_query.weight') == 'query_feat.weight'


def test_tables_are_joined():
    table = KeyTable({'a.{}': 'x.{}'}) | KeyTable({'b': 'y'})
    assert (table('a.3.w'), table('b'), table('c')) == ('x.3.w', 'y', None)


@pytest.mark.parametrize('table', TABLES)
def test_no_part_hides_a_later_one(table):
    for column in (list(table.rules), list(table.rules.values())):
        for place, rule in enumerate(column):
            pattern = re.escape(rule).replace(r'\{\}', '.+') + r'\..+'
            hidden = [p for p in column[place:] if re.fullmatch(pattern, p)]
            assert not hidden, (rule, hidden)


def test_what_is_no_head_is_named():
    with pytest.raises(UserError, match='query_feat.weight is missing'):
        infer_head_arguments({'backbone.weight': (1,)})
