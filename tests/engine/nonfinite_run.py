"""Trainings that meet NaN, and one of two processes as a script.

    torchrun --nproc-per-node 2 nonfinite_run.py CONFIG WORK_DIR SKIPS

What each process ends with goes to WORK_DIR/end_RANK.json.
"""

import hashlib
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.registry import MODELS, TRANSFORMS
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_run import read_config  # noqa: E402

import clouds_mmseg  # noqa: E402, F401

CHECK = 'default_hooks__nonfinite_check__max_skipped_steps'
PIPELINE = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PoisonForTest', name='003'),
    dict(type='PackDGInputs'),
]
EXACT = dict(
    train_cfg__type='ExactTrainLoop',
    train_dataloader__dataset__pipeline=PIPELINE,
    train_cfg__val_interval=100,
    default_hooks__checkpoint__interval=1,
)


class PoisonForTest(BaseTransform):
    """Put a value that no image has into the image of a name."""

    def __init__(self, name, value=math.nan):
        self.name = name
        self.value = value

    def transform(self, results):
        results['img'] = results['img'].astype(np.float32)
        if self.name in results['img_path'].rpartition('/')[2]:
            results['img'][3:5, 3:5] = self.value
        return results


class LossForTest(nn.Module):
    """Cross entropy, scaled, plus `value` in one iteration."""

    def __init__(self, at=2, value=math.nan, scale=1.0):
        super().__init__()
        self.at, self.value, self.scale = at, value, scale
        self.calls = 0
        self.loss_name = 'loss_test'

    def forward(self, logits, label, **kwargs):
        self.calls += 1
        loss = nn.functional.cross_entropy(logits, label, ignore_index=255)
        # A gradient that is finite beside a loss that is not.
        other = self.value if self.calls == self.at else 0.0
        return loss * self.scale + other


def register():
    """Make both known by name, until the returned function is called."""
    TRANSFORMS.register_module(module=PoisonForTest)
    MODELS.register_module(module=LossForTest)

    def undo():
        del TRANSFORMS.module_dict['PoisonForTest']
        del MODELS.module_dict['LossForTest']

    return undo


def main(config, work_dir, skips):
    from clouds_mmseg.cli.config import build_runner

    torch.set_num_threads(1)
    register()
    cfg = read_config(
        config,
        work_dir,
        **EXACT,
        **{CHECK: int(skips)},
        train_cfg__max_iters=6,
        train_dataloader__batch_size=1,
        launcher='pytorch',
    )
    cfg.experiment_name = 'two'
    rank = int(os.environ['RANK'])
    runner = build_runner(cfg)
    error = None
    try:
        runner.train()
    except Exception as caught:
        error = f'{type(caught).__name__}: {caught}'
    digest = hashlib.sha256()
    for value in runner.model.module.decode_head.parameters():
        digest.update(value.detach().numpy().tobytes())
    end = dict(
        error=error,
        iteration=runner.iter,
        skipped=runner.message_hub.get_info('skipped_steps'),
        weights=digest.hexdigest(),
    )
    Path(work_dir, f'end_{rank}.json').write_text(json.dumps(end))


if __name__ == '__main__':
    main(*sys.argv[1:])
