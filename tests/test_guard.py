"""What users rely on stays: names, weights, configs, options, numbers.

A expected change is recorded by ``python tests/guard.py --write``.
"""

import json

import guard
import pytest


@pytest.fixture(scope='module')
def recorded():
    return json.loads(guard.FILE.read_text())


def test_names_in_registries(recorded):
    assert not guard.differences(recorded['registered'], guard.registered())


def test_configs_and_models(recorded):
    sections, models, tables = guard.configs()
    lines = guard.differences(recorded['sections'], sections)
    lines += guard.differences(recorded['models'], models)
    lines += guard.differences(recorded['tables'], tables)
    assert not lines, '\n'.join(lines)


def test_options_of_tools(recorded):
    lines = guard.differences(recorded['options'], guard.tool_options())
    assert not lines, '\n'.join(lines)


def test_losses_of_toycity(recorded):
    # Processors differ in the last bits; on one of them the losses are
    # equal, which `python tests/guard.py` tells.
    old, new = (
        [float.fromhex(loss) for loss in losses]
        for losses in (recorded['losses'], guard.toycity_losses())
    )
    assert new == pytest.approx(old, rel=1e-4)
