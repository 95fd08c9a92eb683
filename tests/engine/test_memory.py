"""Memory of a run, and of predictions, does not grow with their number."""

import numpy as np
import torch
from memory_growth import growth_of_calls, growth_of_training

from clouds_mmseg.predict import Segmenter


def grows(growth):
    """Name what grows: by an object in ten steps, or 20 KiB a step."""
    limits = dict(tensors=0.1, objects=0.5, KiB=20)
    return [name for name, limit in limits.items() if growth[name] > limit]


def test_training_and_predictions_keep_nothing(tmp_path, tiny_data):
    growth = growth_of_training(tmp_path, tiny_data, 200)
    assert not grows(growth), growth
    segmenter = Segmenter.from_pretrained(str(tmp_path / 'work/iter_200.pth'))
    image = np.zeros((32, 32, 3), np.uint8)
    growth = growth_of_calls(lambda index: segmenter(image), 500)
    assert not grows(growth), growth


def test_what_is_kept_is_seen():
    kept = []
    growth = growth_of_calls(lambda index: kept.append(torch.zeros(4)), 40)
    assert grows(growth) == ['tensors', 'objects']
    growth = growth_of_calls(
        lambda index: kept.append(bytearray(b'1') * 1_000_000), 40
    )
    assert 'KiB' in grows(growth)
    assert not grows(growth_of_calls(lambda index: torch.zeros(4), 40))
