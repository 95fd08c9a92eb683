"""A run of seconds: three classes of 32x32 images, a ResNet-18 of width 8."""

import hashlib
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

CLASSES = ('ground', 'sky', 'box')
PALETTE = [[120, 90, 60], [80, 140, 220], [220, 40, 40]]
DOMAINS = ('day', 'dusk')
RUNTIME = (
    Path(__file__).resolve().parents[1] / 'configs/_base_/default_runtime.py'
)

_TEXT = """
_base_ = {runtime!r}
classes = {classes!r}
palette = {palette!r}
pipeline = [
    dict(type='LoadSegImage'),
    dict(type='LoadSegLabels'),
    dict(type='PackDGInputs'),
]


def _set(domain, split):
    return dict(
        type='FolderDataset',
        domain=domain,
        data_root={root!r} + '/' + domain + '_' + split,
        metainfo=dict(classes=classes, palette=palette),
        pipeline=pipeline,
    )


model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[128.0] * 3,
        std=[64.0] * 3,
        bgr_to_rgb=True,
        size=(32, 32),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='BN'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=64,
        channels=8,
        num_convs=1,
        # A resumed run does not repeat the random numbers of dropout.
        dropout_ratio=0,
        num_classes=len(classes),
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=_set('day', 'train'),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ConcatDataset',
        datasets=[_set('day', 'val'), _set('dusk', 'val')],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='DGIoUMetric', domains=['day', 'dusk'], protocol='native'
)
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.5, begin=0, end=4, by_epoch=False)
]
default_hooks = dict(checkpoint=dict(interval=2))
custom_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2, width=128),
    dict(type='ResultsHook'),
]
env_cfg = dict(cudnn_benchmark=False)
# Functions cannot be dumped with a config.
del _set
"""


def write_images(folder, count, seed, dark=1.0):
    """Write images of a sky, a ground and one box, with their labels."""
    rng = np.random.default_rng(seed)
    folder = Path(folder)
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        label = np.zeros((32, 32), np.uint8)
        label[: rng.integers(10, 18)] = 1
        y, x = rng.integers(8, 20, 2)
        label[y : y + 8, x : x + 8] = 2
        label[:, 0] = 255
        image = np.array(PALETTE + [[0, 0, 0]])[np.minimum(label, 3)] * dark
        image = image + rng.normal(0, 8, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            folder / 'images' / f'{index:03d}.png'
        )
        Image.fromarray(label).save(folder / 'labels' / f'{index:03d}.png')


def write_data(root):
    """Write day_train, day_val and dusk_val below a folder."""
    write_images(Path(root) / 'day_train', 6, 0)
    write_images(Path(root) / 'day_val', 3, 1)
    write_images(Path(root) / 'dusk_val', 3, 2, dark=0.4)
    return Path(root)


def write_config(path, root):
    """Write the config as a file, for the tools."""
    Path(path).write_text(
        _TEXT.format(
            runtime=str(RUNTIME),
            classes=CLASSES,
            palette=PALETTE,
            root=str(root),
        )
    )
    return Path(path)


def read_config(path, work_dir, **changes):
    """Read a config; changes are dotted keys with __ for the dots."""
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir)
    # mmengine's singletons are found by this name: one per runner.
    cfg.experiment_name = f'test_{next(_numbers)}'
    cfg.merge_from_dict(
        {key.replace('__', '.'): value for key, value in changes.items()}
    )
    return cfg


_numbers = iter(range(10**6))


def write_labelled_bank(root, data):
    """Make an image bank of the images and labels of day_train.

    As clouds generate --mode label2img makes one, with two variants of each
    label map, and labels for evaluation too.
    """
    from clouds_mmseg.generate.image_bank import ImageBank

    source = Path(data) / 'day_train'
    info = dict(source_root=str(source / 'images'))
    recipe = dict(backend='tiny', sources=6)
    bank = ImageBank(root, recipe, info=info, num=12)
    for index in range(12):
        name = f'{index // 2:03d}.png'
        payload = (source / 'images' / name).read_bytes()
        label = (source / 'labels' / name).read_bytes()
        entry = dict(
            prompt='une rue, l’été', seed=index, source=name, width=32,
            height=32, bytes=len(payload),
            sha256=hashlib.sha256(payload).hexdigest(),
        )  # fmt: skip
        bank.add(index, payload, entry, label=label, training_label=label)
    assert bank.finish()
    bank.close()
    return Path(root)


def read_bank_config(path, work_dir, bank, **changes):
    """Read a config that trains on an image bank and its labels."""
    cfg = read_config(
        path, work_dir, val_cfg=None, val_evaluator=None, **changes
    )
    cfg.val_dataloader, cfg.custom_hooks = None, []
    cfg.train_dataloader.dataset = dict(
        type='KeyedDataset',
        datasets=[
            dict(
                type='GeneratedDataset',
                bank=str(bank),
                labels=True,
                metainfo=dict(classes=CLASSES, palette=PALETTE),
                pipeline=[
                    dict(type='LoadSegImage'),
                    dict(type='LoadSegLabels'),
                    dict(type='RandomFlip', prob=0.5),
                    dict(type='PackDGInputs'),
                ],
            )
        ],
    )
    return cfg
