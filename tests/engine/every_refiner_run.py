"""``tools/train.py`` with every refiner in one run.

python every_refiner_run.py CONFIG --work-dir WORK_DIR
"""

import os
import runpy
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS, MODELS

from clouds_mmseg.models.segmentors.pseudo_labels import refine_label

# Of models of transformers that take points.
FAMILIES = ('sam', 'sam_hq', 'sam2', 'edgetam', 'sam3_video')
TRAIN = Path(__file__).resolve().parents[2] / 'tools' / 'train.py'
_TEXT = """
_base_ = './self_training.py'
train_cfg = dict(warmup_iters=1, max_iters=3, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
custom_hooks = [
    dict(type='EMATeacherHook', interval=1),
    dict(
        type='SAMRefineHook',
        refiner=dict(type='EveryRefiner', refiners={refiners!r}),
        picture_interval=None,
    ),
    dict(type='StopHook'),
]
"""


@MODELS.register_module()
class EveryRefiner:
    """Refiners in turn, each on the label of the one before."""

    uses_confidence = True

    def __init__(self, refiners):
        self.refiners = [MODELS.build(refiner) for refiner in refiners]
        (self.classes,) = (
            x.classes for x in self.refiners if hasattr(x, 'classes')
        )

    def to(self, device):
        """Move each."""
        self.refiners = [refiner.to(device) for refiner in self.refiners]
        return self

    def __call__(self, image, label, confidence):
        """Fill what a refiner ignores, so that the next has a label."""
        for refiner in self.refiners:
            refined = refine_label(refiner, image, label, confidence)
            label = torch.where(refined == 255, label, refined)
        return label


def every_refiner(promptable, cache, families=FAMILIES):
    """Return the configs of all refiners, with weights of small models."""
    # Run as a script, this file finds them below.
    from tiny_run import CLASSES
    from tiny_sam import build_tiny_sam

    sizes = dict(min_area=40, points_per_component=2)
    words = dict(
        zip(CLASSES, (['road'], ['sky'], ['car', 'van']), strict=True)
    )
    sam = cache.parent / 'sam.pth'
    if not sam.exists():
        torch.save(build_tiny_sam().state_dict(), sam)
    refiners = [
        dict(type='SAMRefiner', variant='vit_b', checkpoint=str(sam), **sizes),
        dict(type='SuperpixelRefiner'),
        dict(type='MajorityVoteRefiner', superpixels=dict(), ties='rare'),
    ]
    for family in families:
        path = str(promptable(family))
        refiners.append(dict(type='PromptableRefiner', weights=path, **sizes))
    refiners.append(
        dict(
            type='MajorityVoteRefiner',
            weights=str(promptable('sam2')),
            points_per_side=4,
            min_quality=0.0,
            min_stability=0.0,
        )
    )
    refiners.append(
        dict(
            type='ConceptRefiner',
            weights=str(promptable('sam3_video')),
            words=words,
            fusion='uncertain',
            threshold=0.1,
            word_batch=2,
        )
    )
    return [
        dict(refiner, cache_dir=str(cache / str(number)))
        for number, refiner in enumerate(refiners)
    ]


class StoppedError(Exception):
    """A run ended as if it had been killed."""


@HOOKS.register_module()
class StopHook(Hook):
    """End the run in the iteration that STOP_AT in the environment names."""

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        if str(runner.iter + 1) == os.environ.get('STOP_AT'):
            raise StoppedError


def write_every_refiner(folder, refiners):
    """Write a config beside self_training.py; return its path."""
    path = Path(folder) / 'every_refiner.py'
    path.write_text(_TEXT.format(refiners=refiners))
    return path


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from segment_anything import sam_model_registry
    from tiny_sam import build_tiny_sam

    sam_model_registry['vit_b'] = build_tiny_sam
    torch.set_num_threads(1)
    sys.argv[0] = str(TRAIN)
    runpy.run_path(str(TRAIN), run_name='__main__')
