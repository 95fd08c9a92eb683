"""Fakes of the sets that are small or have labels of their own."""

import json

import cv2
import numpy as np
from prepare_bytes import (
    SAME,
    TRAIN_IDS,
    WIDTH,
    image_bytes,
    label_bytes,
    spread,
)
from prepare_fake import Fake


def dark_zurich():
    """Its validation archive."""
    fake = Fake([dict(type='DarkZurichDGDataset')], dict(val=1), 'train_ids')
    archive = 'Dark_Zurich_val_anon.zip'
    where = 'val/night/GOPR0356/GOPR0356_frame_000321'
    fake.add(
        (archive, archive),
        f'rgb_anon/{where}_rgb_anon.png',
        f'gt/{where}_gt_labelTrainIds.png',
        TRAIN_IDS,
        SAME,
    )
    files = fake.archives[archive]
    files[f'gt/{where}_gt_labelIds.png'] = label_bytes(spread([7]))
    files[f'gt/{where}_gt_invGray.png'] = label_bytes(spread([0]))
    files['rgb_anon/val_ref/day/GOPR0356_ref/a_rgb_anon.png'] = image_bytes(3)
    return fake


def nighttime_driving():
    """Its test archive."""
    fake = Fake(
        [dict(type='NighttimeDrivingDataset')], dict(test=2), 'train_ids'
    )
    archive = 'NighttimeDrivingTest.zip'
    root = 'NighttimeDrivingTest'
    for n in range(2):
        fake.add(
            (archive, archive),
            f'{root}/leftImg8bit/test/night/0_{n}_leftImg8bit.png',
            f'{root}/gtCoarse_daytime_trainvaltest/test/night/'
            f'0_{n}_gtCoarse_labelTrainIds.png',
            TRAIN_IDS,
            SAME,
            seed=n,
        )
    return fake


def foggy_zurich():
    """One labelled image beside one without label."""
    fake = Fake([dict(type='FoggyZurichDataset')], dict(testv2=1), 'train_ids')
    archive = 'Foggy_Zurich.zip'
    where = 'GP010229/1508040913.0_frame_000955.png'
    fake.add(
        (archive, archive),
        f'Foggy_Zurich/RGB/{where}',
        f'Foggy_Zurich/gt_labelTrainIds/{where}',
        TRAIN_IDS,
        SAME,
    )
    files = fake.archives[archive]
    files[f'Foggy_Zurich/gt_labelIds/{where}'] = label_bytes(spread([7]))
    files[f'Foggy_Zurich/gt_color/{where}'] = image_bytes(1)
    files['Foggy_Zurich/RGB/GOPR0229/unlabelled.png'] = image_bytes(2)
    return fake


def wilddash2(archive='wd_public_v2p0.zip'):
    """Panoptic labels, or the ids of the older release."""
    panoptic = 'v2p0' in archive
    fake = Fake(
        [dict(type='WildDash2Dataset')],
        dict(public=2),
        'panoptic' if panoptic else 'label_ids',
    )
    # Label id -> train id, a sample of the makers' label policy.
    table = {
        7: 0,
        41: 0,
        52: 1,
        45: 5,
        18: 255,
        35: 13,
        34: 14,
        58: 17,
        0: 255,
    }
    names = {
        7: 'road',
        41: 'manhole',
        52: 'curb',
        45: 'trafficsignframe',
        18: 'polegroup',
        35: 'van',
        34: 'pickup',
        58: 'autorickshaw',
        0: 'unlabeled',
    }
    annotations = []
    files = fake.archives.setdefault(archive, {})
    for n in range(2):
        stem = f'ar000{n}_100000'
        fake.add(
            (archive, archive),
            f'images/{stem}.jpg',
            f'labels/{stem}.png',
            list(table),
            table,
            seed=n,
        )
        if not panoptic:
            continue
        del files[f'labels/{stem}.png']
        ids = spread(list(table), n).astype(np.int64)
        # Two segments of each class, with numbers above 16 bits.
        number = (ids + 1) * 70001 + np.arange(WIDTH) % 2
        number[ids == 0] = 0
        rgb = np.stack([number >> s & 255 for s in (0, 8, 16)], -1)
        files[f'panoptic/{stem}.png'] = cv2.imencode(
            '.png', rgb[..., ::-1].astype(np.uint8)
        )[1].tobytes()
        annotations.append(
            dict(
                file_name=f'{stem}.png',
                image_id=stem,
                segments_info=[
                    dict(id=(i + 1) * 70001 + half, category_id=i)
                    for i in table
                    for half in (0, 1)
                ],
            )
        )
    if panoptic:
        files['panoptic.json'] = json.dumps(
            dict(
                images=[],
                annotations=annotations,
                categories=[
                    dict(id=i, name=name, isthing=1)
                    for i, name in names.items()
                ],
            )
        ).encode()
    return fake


def urbansyn():
    """Images and labels of different names."""
    fake = Fake([dict(type='UrbanSynDataset')], dict(train=2), 'train_ids')
    for n in (1, 2):
        fake.add(
            ('rgb.zip', 'ss.zip'),
            f'rgb/rgb_{n:04d}.png',
            f'ss/ss_{n:04d}.png',
            range(20),
            SAME,
            seed=n,
        )
    return fake
