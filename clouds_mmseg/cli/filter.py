"""Filtering of a generated image set on the command line."""

import argparse
import copy

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.conversion.convert_file import read_with_meta
from clouds_mmseg.generate.image_bank import Shard
from clouds_mmseg.image_filter import FilterRule, FilterSummary, filter_bank
from clouds_mmseg.image_filter.filter_bank import SHEET_FILE
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.config_file import (
    find_config,
    parse_config_text,
    read_file,
)
from clouds_mmseg.utils.image_set import read_bank
from clouds_mmseg.utils.packed_set import refuse_packed
from clouds_mmseg.weights.frozen_backbone import require_registered
from clouds_mmseg.weights.load import find_checkpoint


def run_filter(
    args: argparse.Namespace,
    bank: str,
    rule: FilterRule,
    *,
    clip: tuple[str, str | None] | None,
    shard: Shard | None,
) -> list[str]:
    """Filter an image set with the options of the command.

    Args:
        args: ``checkpoint``, ``config``, ``device``, ``teacher``,
            ``labels``, ``shared``, ``lease``, ``workers``, ``sheet``.
        bank: Folder of the set.
        rule: What is left out.
        clip: Model and weights, if they are named.
        shard: Share of this process.

    Returns:
        Lines about the result.
    """
    # A wrong folder is told before the model is loaded.
    found = read_bank(bank)
    refuse_packed(bank)
    segmenter = Segmenter.from_pretrained(
        args.checkpoint,
        config=args.config,
        device=args.device,
        teacher=args.teacher,
    )
    datasets = []
    if found['recipe'].get('sources') and args.labels is None:
        datasets = training_datasets(args.checkpoint, args.config)
    summary = filter_bank(
        bank,
        segmenter,
        checkpoint=args.checkpoint,
        rule=rule,
        teacher=args.teacher,
        datasets=datasets,
        labels=args.labels,
        clip=clip,
        shard=shard,
        shared=args.shared,
        lease=args.lease,
        workers=args.workers,
        sheet=args.sheet,
    )
    return summary_lines(summary, bank, args.sheet > 0)


def training_datasets(
    checkpoint: str, config: str | None
) -> list[BaseSegDataset]:
    """Build the training datasets of a model, without transforms.

    Args:
        checkpoint: Of the model, whose config is read without executing it.
        config: A file in place of it.

    Returns:
        Not opened; empty if the config has no training data.
    """
    if config is not None:
        cfg = read_file(find_config(config, '--config'))
    else:
        file = find_checkpoint(checkpoint)
        _, meta, _ = read_with_meta(file)
        cfg = Config(parse_config_text(meta.get('cfg')) or {})
    loader = cfg.get('train_dataloader')
    if not loader:
        return []
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    leaves = [
        dict(leaf, lazy_init=True, pipeline=[])
        for leaf in dataset_configs(copy.deepcopy(loader['dataset']))
        if leaf.get('type') != 'GeneratedDataset'
    ]
    if config is None:
        require_registered(leaves, f'the config in {file}')
    return [DATASETS.build(leaf) for leaf in leaves]


def summary_lines(summary: FilterSummary, bank: str, sheet: bool) -> list[str]:
    """Describe the result of a filter.

    Args:
        summary: The result.
        bank: Folder of the image set.
        sheet: Whether there is a contact sheet.
    """
    if not summary.complete:
        return [f'{bank}: measured; other processes have the rest']
    lines = [f'{bank}: {summary.used} of {summary.num} images are used']
    lines += [
        f'  {count} left out: {why}'
        for why, count in summary.reasons.most_common()
    ]
    unlabelled = summary.num - summary.labelled
    if unlabelled:
        lines.append(
            f'  {unlabelled} without a label (or blank): judged by the '
            "model's confidence"
        )
    if summary.kept_pixels is not None:
        lines.append(
            f'  {100 * summary.kept_pixels:.1f} % of the labelled pixels of '
            'the used images are left'
        )
    if not summary.compared:
        lines.append('  images off their prompts were not looked for: no CLIP')
    if sheet:
        lines.append(f'  look at {bank}/{SHEET_FILE}')
    if summary.share is not None:
        lines.append(f'  {summary.share}')
    lines.append(f'  all again: clouds filter {bank} --undo')
    return lines
