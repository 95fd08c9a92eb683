"""Options of ``tools/test.py`` applied to a config."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.evaluation.submission import (
    SERVERS,
    check_names,
    rules_of,
)
from clouds_mmseg.robustness.corruptions import CLEAN, check_choice, domain_of
from clouds_mmseg.utils.device import warn_of_emulated_bf16
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError, read_image

# Type of a dataset -> server that has its test labels.
_SERVER_OF = dict(CityscapesDGDataset='cityscapes', ACDCDataset='acdc')
# Transforms that need labels, or change the evaluated size.
_LABEL_STEPS = ('LoadSegLabels', 'LoadAnnotations', 'EvaluateAtInputSize')


def disable_reinit(cfg: Config) -> None:
    """Remove ``load_cfg.reinit``, which applies to training only.

    Args:
        cfg: Changed in place.
    """
    names = (cfg.get('load_cfg') or {}).pop('reinit', None)
    if names:
        print_log(
            f'load_cfg.reinit={names} is for training: the test takes every '
            'weight from the checkpoint',
            level=logging.WARNING,
        )


def write_predictions(cfg: Config, folder: str) -> None:
    """Make the metric write predictions as PNG files of class indices.

    Args:
        cfg: Changed in place.
        folder: Output folder.
    """
    evaluators = cfg.test_evaluator
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    for evaluator in evaluators:
        evaluator['output_dir'] = folder


def show_visualizations(
    cfg: Config,
    *,
    folder: str | None = None,
    show: bool = False,
    wait_time: float = 0.0,
) -> None:
    """Draw every test image with label and prediction.

    Args:
        cfg: Changed in place: its ``PredictionPicturesHook``, or a new one
            where there is none.
        folder: Output folder. Defaults to the folder of the run.
        show: Open a window for each image.
        wait_time: Seconds that a window stays.
    """
    hooks = cfg.get('custom_hooks') or []
    hook: dict[str, Any] = dict(type='PredictionPicturesHook')
    for found in hooks:
        if found['type'] == hook['type']:
            hook = dict(found)
    hook.update(per_domain=None, on_test=True, show=show, wait_time=wait_time)
    if folder is not None:
        hook['out_dir'] = folder
    others = [h for h in hooks if h['type'] != hook['type']]
    cfg.custom_hooks = [*others, ConfigDict(hook)]


def enable_tta(cfg: Config) -> None:
    """Average the predictions over test-time augmentations.

    A config's own ``tta_pipeline`` replaces the pipeline of each test
    dataset. Without one, each image is also seen mirrored.

    Args:
        cfg: Changed in place.

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


def predict_in_bf16(cfg: Config) -> None:
    """Test in mixed precision (bfloat16), in place.

    mmengine's loops call this ``fp16`` and take the precision from torch,
    whose default on CUDA is float16.
    """
    warn_of_emulated_bf16()
    cfg.test_cfg.fp16 = True
    torch.set_autocast_dtype('cuda', torch.bfloat16)


def apply_corruption_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the options of ``add_corruption_arguments``.

    Args:
        cfg: Changed in place where ``--corrupt`` is given.
        args: The options, and ``show_dir`` and ``show``.

    Raises:
        UserError: An option contradicts another or is wrong.
    """
    if args.corrupt is None:
        for name in ('corrupted_images', 'corruptions', 'severities'):
            if getattr(args, name) is not None:
                raise UserError(
                    f'--{name.replace("_", "-")} needs --corrupt DOMAIN: the '
                    'test set that is corrupted'
                )
        return
    if (args.show or args.show_dir) and args.corrupted_images is None:
        raise UserError(
            '--show and --show-dir draw the images from their files; with '
            '--corrupt give --corrupted-images too (write them with '
            'clouds corrupt)'
        )
    corrupt_test_set(
        cfg,
        args.corrupt,
        folder=args.corrupted_images,
        corruptions=args.corruptions,
        severities=args.severities,
    )


def corrupt_test_set(
    cfg: Config,
    domain: str,
    *,
    folder: str | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
) -> None:
    """Replace the test sets by one of them under every corruption.

    Args:
        cfg: Changed in place: ``test_dataloader`` and ``test_evaluator``.
        domain: Domain of the test set that is corrupted.
        folder: Where ``tools/make_corruptions.py`` wrote its images; None
            corrupts them as they are read.
        corruptions: Names of corruptions or categories. Defaults to all
            fifteen.
        severities: Defaults to 1..5.

    Raises:
        UserError: No test set has the domain, or a corruption or severity is
            unknown.
    """
    corruptions, severities = check_choice(corruptions, severities)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    found = {
        domain_of_config(leaf): leaf
        for leaf in dataset_configs(cfg.test_dataloader.dataset)
    }
    if domain not in found:
        raise UserError(
            f'--corrupt {domain}: the config tests on '
            + ', '.join(str(name) for name in found)
            + '; name one of them'
        )
    cfg.test_dataloader = ConfigDict(
        cfg.test_dataloader,
        dataset=ConfigDict(
            type='CorruptedDataset',
            dataset=found[domain],
            folder=folder,
            corruptions=list(corruptions),
            severities=list(severities),
        ),
    )
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, (list, tuple)):
        evaluator = evaluator[0]
    kept = {
        key: value
        for key, value in evaluator.items()
        if key not in ('type', 'domains', 'source_domains')
    }
    cfg.test_evaluator = ConfigDict(
        kept,
        type='CorruptionMetric',
        domains=[
            CLEAN,
            *(domain_of(c, s) for c in corruptions for s in severities),
        ],
    )
    _limit_visualization(cfg, folder)


def _limit_visualization(cfg, folder):
    """Visualize one image per domain, and none of on-the-fly corruptions.

    The hook reads images from files, which would be the clean ones.
    """
    for hook in cfg.get('custom_hooks') or []:
        if hook['type'] == 'PredictionPicturesHook':
            hook['on_test'] = folder is not None
            hook['per_domain'] = 1


def domain_of_config(leaf: ConfigDict) -> str:
    """Return the domain of a dataset without opening its files.

    Args:
        leaf: Config of a dataset.

    Returns:
        Its domain, or its type if it has none.
    """
    dataset = DATASETS.build(dict(leaf, lazy_init=True))
    return getattr(dataset, 'domain', None) or leaf['type']


def apply_export_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the option of ``add_export_arguments``.

    Args:
        cfg: Changed in place.
        args: ``format_only``, ``out``, ``corrupt``.

    Raises:
        UserError: The options contradict each other, or see
            :func:`export_test_set`.
    """
    if args.corrupt is not None:
        raise UserError(
            '--format-only and --corrupt exclude each other: servers score '
            'the images as they are'
        )
    export_test_set(cfg, args.format_only, folder=args.out)


def export_test_set(
    cfg: Config, split: str = 'test', *, folder: str | None = None
) -> None:
    """Make a run write submissions for test servers instead of scores.

    Test sets with a known server are kept, at the given split and without
    labels. Names, number and size of the images are checked beforehand.

    Args:
        cfg: Changed in place: ``test_dataloader``, ``test_evaluator`` and
            ``custom_hooks``.
        split: ``'test'``, or ``'val'`` for a rehearsal.
        folder: Output folder. Defaults to ``<work_dir>/submission``.

    Raises:
        UserError: No test set has a server, or its images are not those of
            the server.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    leaves = list(dataset_configs(cfg.test_dataloader.dataset))
    kept = [leaf for leaf in leaves if leaf['type'] in _SERVER_OF]
    if not kept:
        raise UserError(
            '--format-only writes submissions to the servers of '
            + ' and '.join(rules.title for rules in SERVERS.values())
            + ', but the config tests on '
            + ', '.join(leaf['type'] for leaf in leaves)
            + '; --out FOLDER writes the predictions of any data set as PNG '
            'files'
        )
    if len(kept) < len(leaves):
        left = [domain_of_config(x) for x in leaves if x not in kept]
        print_log(
            f'--format-only leaves out {", ".join(left)}: no server known',
            logger='current',
        )
    exported = [_without_labels(leaf, split) for leaf in kept]
    servers = _check_images(exported, split)
    cfg.test_dataloader = ConfigDict(
        cfg.test_dataloader,
        dataset=ConfigDict(type='ConcatDataset', datasets=exported),
    )
    cfg.test_evaluator = ConfigDict(
        type='SubmissionMetric',
        servers=servers,
        out_dir=str(folder or Path(cfg.work_dir) / 'submission'),
        split=split,
    )
    # Without scores, results.json of the last evaluation is kept.
    cfg.custom_hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if hook['type'] != 'ResultsHook'
    ]


def _without_labels(leaf, split):
    """Return the config of a test set at a split, without its labels."""
    if leaf.get('data_prefix') or leaf.get('ann_file'):
        raise UserError(
            f'--format-only asks {leaf["type"]} for the images of its '
            f'{split} split, but the config sets data_prefix or ann_file by '
            'hand; leave them out and lay the images out as published'
        )
    leaf = ConfigDict(leaf)
    prefix = DATASETS.get(leaf['type']).PREFIX['img_path']
    fields = dict(split=split, condition=leaf.get('condition'))
    leaf.update(
        split=split,
        data_prefix=dict(img_path=prefix.format(**fields)),
        expected=None,
        pipeline=[s for s in leaf.pipeline if s['type'] not in _LABEL_STEPS],
    )
    return leaf


def _size_of(path):
    try:
        return read_image(path).shape[:2]
    except ImageFileError as error:
        raise UserError(f'--format-only: {error}') from error


def _check_images(leaves, split) -> dict[str, str]:
    """Compare names, number and size of the images with the rules.

    Returns:
        Domain -> server.
    """
    servers, images = {}, {}
    for leaf in leaves:
        dataset = DATASETS.build(leaf)
        server = _SERVER_OF[leaf['type']]
        servers[dataset.domain] = server
        images.setdefault(server, []).extend(
            dataset.get_data_info(i)['img_path'] for i in range(len(dataset))
        )
    for server, paths in images.items():
        rules = rules_of(server, split)
        problems = check_names(
            [f'{Path(path).stem}.png' for path in paths], rules, split=split
        )
        height, width = _size_of(paths[0])
        if (width, height) != rules.size:
            problems.append(
                f'{paths[0]} has {width}x{height} pixels, the images of '
                f'{rules.title} have {rules.size[0]}x{rules.size[1]}'
            )
        if problems:
            raise UserError(
                f'--format-only: these are not the {split} images of '
                f'{rules.title}, and its server would refuse the '
                'predictions:\n' + '\n'.join(f'  {line}' for line in problems)
            )
    return servers
