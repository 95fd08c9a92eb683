"""Conversions whose account is complete."""

import torch

from clouds_mmseg.conversion.convert import complete, from_ours, to_ours
from clouds_mmseg.conversion.layouts import detect
from clouds_mmseg.conversion.target_spec import spec_from_weights


def convert(weights, kind='auto'):
    """To ours, compared with the model that they seem to be."""
    layout = detect(weights, kind)
    result = to_ours(weights, layout)
    spec, model = spec_from_weights(
        result.weights,
        backbone=bool(layout.backbone),
        renamed=layout.kind != 'mmseg',
    )
    result.check(spec, 'the file', model)
    accounted = {old for old, _ in result.renamed} | set(result.unused)
    assert accounted == set(weights)
    assert set(result.weights) | set(result.absent) == set(spec)
    return result


def back(ours, kind, fill=None):
    layout = detect(ours)
    result = from_ours(ours, layout, kind)
    complete(result, layout, kind, fill)
    assert {old for old, _ in result.renamed} | set(result.unused) == set(ours)
    assert set(result.weights) | set(result.absent) == set(result.spec)
    return result


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        same = found[key] is value or torch.equal(found[key], value)
        assert same, key
