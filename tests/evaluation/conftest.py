"""Predictions and labels in the form in which a metric gets them."""

import pytest
import torch

import clouds_mmseg  # noqa: F401


@pytest.fixture
def samples():
    """Make a list of data samples from (domain, prediction, label)."""

    def make(entries):
        return [
            dict(
                pred_sem_seg=dict(data=torch.as_tensor(prediction)[None]),
                gt_sem_seg=dict(data=torch.as_tensor(label)[None]),
                domain=domain,
                img_path=f'/data/{domain}/{number}.png',
            )
            for number, (domain, prediction, label) in enumerate(entries)
        ]

    return make
