"""A self-training run of seconds, as a script that can kill itself.

    python self_training_run.py CONFIG WORK_DIR [--resume] [--kill-at N]
        [--source-only] [--distributed] [--plus] [--features FOLDER]
        [--total N] [--tower] [--sharded] [--iterations N]

Losses go to WORK_DIR/losses_RANK.txt, one exact number an iteration. With
DDP, the iterations that exchange gradients go to WORK_DIR/exchanges_RANK.txt.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.hooks import Hook  # noqa: E402
from tiny_run import CLASSES, PALETTE, read_config, write_config  # noqa: E402
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (  # noqa: E402, E501
    allreduce_hook,
)

import clouds_mmseg  # noqa: E402, F401
from clouds_mmseg.generate.run import generate_images  # noqa: E402

_TEXT = """
_base_ = './tiny.py'
model = dict(
    type='SelfTrainingSegmentor',
    teacher_decay=0.5,
    label_threshold=0.05,
    data_preprocessor=dict(size=(32, 64)),
    backbone=dict(
        _delete_=True,
        type='FrozenTIMMBackbone',
        model_name='test_resnet',
        weights=None,
    ),
    decode_head=dict(
        _delete_=True,
        type='CLOUDSHead',
        num_classes=3,
        num_groups=8,
        feat_channels=32,
        out_channels=32,
        num_queries=6,
        num_encoder_layers=1,
        num_decoder_layers=2,
        encoder_ffn_channels=32,
        decoder_ffn_channels=32,
        loss=dict(num_points=64),
    ),
)
train_dataloader = dict(
    num_workers={workers},
    dataset=dict(
        _delete_=True,
        type='KeyedDataset',
        datasets=[
            dict(
                type='FolderDataset',
                domain='day',
                data_root={root!r} + '/day_train',
                metainfo=dict(classes={classes!r}, palette={palette!r}),
                pipeline=[
                    dict(type='LoadSegImage'),
                    dict(type='LoadSegLabels'),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PhotoMetricDistortion'),
                    dict(type='PackDGInputs'),
                ],
            ),
            dict(
                type='GeneratedDataset',
                bank={bank!r},
                metainfo=dict(classes={classes!r}, palette={palette!r}),
                pipeline=[
                    dict(type='LoadSegImage'),
                    dict(type='KeepCleanView'),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PhotoMetricDistortion'),
                    dict(type='PackDGInputs'),
                ],
            ),
        ],
    ),
)
train_cfg = dict(
    _delete_=True,
    type='SelfTrainingLoop',
    warmup_iters=3,
    max_iters=10,
    generated_share=0.5,
    val_interval=10,
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3),
    clip_grad=dict(max_norm=1.0),
)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=2), logger=dict(interval=5)
)
custom_hooks = [
    dict(type='EMATeacherHook', interval=2),
    dict(type='PseudoLabelReportHook', interval=5),
    dict(
        type='SAMRefineHook',
        refiner=dict(type='SuperpixelRefiner', purity=0.6),
        picture_interval=4,
        width=64,
    ),
]
runner_type = 'SelfTrainingRunner'
banks = [dict(out={bank!r}, num=5)]
load_cfg = dict(allow_missing=['teacher.'])
"""


# Every part that the official recipe does not have, and a second source.
PLUS = {
    'model.teacher_ramp_up': True,
    'model.teacher_views': ['flip', 1.5],
    'model.label_method': 'transport',
    'model.soft_labels': True,
    'model.label_weight': 'region',
    'model.label_dice': False,
    'model.mixing': dict(type='ClassMix', prob=0.8, rare_temperature=0.1),
    'model.student_views': [
        dict(type='ColorJitter'),
        dict(type='BlockMask', block=8, ratio=0.3),
    ],
    'train_cfg.generated_share': None,
    'train_cfg.generated_beside': 2,
}


def add_source(cfg):
    """Train on two labelled domains, and draw their rare classes."""
    first, generated = cfg.train_dataloader.dataset.datasets
    root = Path(first.data_root).parent
    other = dict(first, domain='dusk', data_root=str(root / 'dusk_val'))
    sources = dict(
        type='LabelledSources',
        datasets=[first, other],
        shares=[0.7, 0.3],
        rare_class=dict(temperature=0.3, min_pixels=20),
    )
    cfg.train_dataloader.dataset.datasets = [sources, generated]
    # And evaluate the average of the student: the teacher is another one.
    cfg.default_hooks.ema = dict(type='EMAHook', begin_iter=5, momentum=0.1)


def train_tower(cfg):
    """Train a ViT of six blocks, and a teacher with its own."""
    cfg.model.backbone = dict(
        type='TIMMTower', model_name='test_vit', frozen=False
    )
    # Two batches an update; the last of an even number of iterations is one.
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=-1)


def drop_self_training(cfg):
    """Leave the warm-up alone: no bank, no teacher."""
    cfg.model.type = 'DGSegmentor'
    del cfg.model['teacher_decay'], cfg.model['label_threshold']
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.datasets[0]
    cfg.train_cfg = dict(type='ExactTrainLoop', max_iters=6, val_interval=6)
    cfg.custom_hooks = []
    cfg.runner_type = 'DGRunner'


def write_bank(folder):
    """Make a bank of five small scenes."""
    prompts = Path(folder) / 'prompts.txt'
    prompts.write_text('a street in the rain\na street at night\n')
    out = Path(folder) / 'bank'
    generate_images(
        out, prompts=prompts, num=5, size=(64, 32), contact_sheet=False
    )
    return out


def write_self_training(folder, data, bank, workers=0):
    """Write tiny.py and self_training.py into a folder."""
    write_config(Path(folder) / 'tiny.py', data)
    path = Path(folder) / 'self_training.py'
    path.write_text(
        _TEXT.format(
            root=str(data),
            bank=str(bank),
            classes=CLASSES,
            palette=PALETTE,
            workers=workers,
        )
    )
    return path


class RecordLosses(Hook):
    """Write each loss exactly, and die when told to."""

    priority = 'LOWEST'

    def __init__(self, path, kill_at=None):
        self.path = path
        self.kill_at = kill_at

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        with open(self.path, 'a') as stream:
            loss = float(outputs['loss']).hex()
            stream.write(f'{runner.iter + 1} {loss}\n')
        if runner.iter + 1 == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class RecordExchanges(Hook):
    """Write the iterations in which DDP averages gradients, once a bucket."""

    def __init__(self, path):
        self.path = path

    def before_train(self, runner):
        def exchange(group, bucket):
            with open(self.path, 'a') as stream:
                stream.write(f'{runner.iter + 1}\n')
            return allreduce_hook(group, bucket)

        runner.model.register_comm_hook(None, exchange)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--resume', action='store_true')
    parser.add_argument('--kill-at', type=int)
    parser.add_argument('--source-only', action='store_true')
    parser.add_argument('--distributed', action='store_true')
    parser.add_argument('--plus', action='store_true')
    parser.add_argument('--features')
    parser.add_argument('--tower', action='store_true', help='train a ViT')
    parser.add_argument('--sharded', action='store_true')
    parser.add_argument('--total', type=int, help='images of a whole batch')
    parser.add_argument('--iterations', type=int, help='instead of ten')
    args = parser.parse_args()
    torch.set_num_threads(1)
    from clouds_mmseg.cli.config import build_runner

    cfg = read_config(args.config, args.work_dir, resume=args.resume)
    if args.source_only:
        drop_self_training(cfg)
    if args.plus:
        cfg.merge_from_dict(PLUS)
        add_source(cfg)
    if args.features:
        cfg.default_hooks.feature_cache = dict(
            type='FeatureCacheHook', cache_dir=args.features
        )
    if args.tower:
        train_tower(cfg)
    if args.sharded:
        cfg.model_wrapper_cfg = dict(type='FullyShardedDataParallel2')
    if args.total:
        cfg.total_batch_size = args.total
        del cfg.train_dataloader['batch_size']
        # Of four processes with an image each, some have none generated.
        cfg.train_cfg.generated_share = 0.5
        cfg.train_cfg.generated_beside = None
    if args.iterations:
        cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = args.iterations
    if args.distributed:
        cfg.launcher = 'pytorch'
    runner = build_runner(cfg)
    rank = runner.rank
    path = args.work_dir / f'losses_{rank}.txt'
    runner.register_hook(RecordLosses(path, args.kill_at))
    if args.distributed and not args.sharded:
        path = args.work_dir / f'exchanges_{rank}.txt'
        runner.register_hook(RecordExchanges(path))
    model = runner.train()
    if args.distributed:
        state = {} if args.sharded else model.module.state_dict()
        torch.save(state, args.work_dir / f'state_{rank}.pth')


if __name__ == '__main__':
    main()
