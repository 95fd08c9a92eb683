"""What the options of tools/test.py do to a config."""

import logging

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log

from clouds_mmseg.engine.launch import dataset_configs
from clouds_mmseg.utils.device import warn_of_emulated_bf16
from clouds_mmseg.utils.errors import UserError


def take_every_weight(cfg):
    """Let nothing begin anew: a config may say so for its training.

    Args:
        cfg (Config): Changed in place: ``load_cfg.reinit`` goes.
    """
    names = (cfg.get('load_cfg') or {}).pop('reinit', None)
    if names:
        print_log(
            f'load_cfg.reinit={names} is for training: the test takes every '
            'weight from the checkpoint',
            level=logging.WARNING,
        )


def write_predictions(cfg, folder):
    """Let the metric write predictions as PNG files of class indices.

    Args:
        cfg (Config): Changed in place.
        folder (str): Where they go.
    """
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    for evaluator in evaluators:
        evaluator['output_dir'] = folder


def show_pictures(cfg, *, folder=None, show=False, wait_time=0.0):
    """Draw every test image with label and prediction.

    Args:
        cfg (Config): Changed in place: its ``PredictionPicturesHook``, or
            a new one where there is none.
        folder (str, optional): Where the pictures go. Defaults to the
            folder of the run.
        show (bool): Open a window for each.
        wait_time (float): Seconds that a window stays.
    """
    hooks = cfg.get('custom_hooks') or []
    hook = dict(type='PredictionPicturesHook')
    for found in hooks:
        if found['type'] == hook['type']:
            hook = dict(found)
    hook.update(per_domain=None, on_test=True, show=show, wait_time=wait_time)
    if folder is not None:
        hook['out_dir'] = folder
    others = [h for h in hooks if h['type'] != hook['type']]
    cfg.custom_hooks = [*others, ConfigDict(hook)]


def enable_tta(cfg):
    """Average the predictions over test-time augmentations.

    A config's own ``tta_pipeline`` replaces the pipeline of each test
    dataset. Without one, each image is also seen mirrored.

    Args:
        cfg (Config): Changed in place.

    Raises:
        UserError: A test pipeline does not end with packing the inputs, or
            the model has one class.
    """
    head = cfg.model.get('decode_head') or {}
    if head.get('num_classes') == 1:
        raise UserError(
            '--tta averages the scores of classes, and a model of one class '
            'has a threshold instead; test it without --tta'
        )
    for dataset in dataset_configs(cfg.test_dataloader.dataset):
        if cfg.get('tta_pipeline'):
            dataset.pipeline = cfg.tta_pipeline
            continue
        *steps, pack = dataset.pipeline
        if not pack['type'].startswith('Pack'):
            raise UserError(
                '--tta mirrors images before the last step of the test '
                f'pipeline, which should pack the inputs but is '
                f'{pack["type"]!r}; give the config a tta_pipeline'
            )
        flips = [dict(type='RandomFlip', prob=p) for p in (0.0, 1.0)]
        dataset.pipeline = [
            *steps,
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
    tta_model = cfg.get('tta_model') or dict(type='SegTTAModel')
    cfg.model = ConfigDict(**tta_model, module=cfg.model)


def predict_in_bf16(cfg):
    """Test in mixed precision (bfloat16), in place.

    mmengine's loops call this ``fp16`` and take the precision from torch,
    whose default on CUDA is float16.

    Args:
        cfg (Config): The config.
    """
    warn_of_emulated_bf16()
    cfg.test_cfg.fp16 = True
    torch.set_autocast_dtype('cuda', torch.bfloat16)
