"""Fakes of all sets, in their official layouts and encodings."""

import numpy as np
import prepare_targets
from prepare_bytes import (
    CITYSCAPES,
    IDD,
    SAME,
    SYNTHIA,
    TRAIN_IDS,
    VISTAS,
    idd_polygons,
    image_bytes,
    label_bytes,
    polygons,
    spread,
    vistas_config,
)
from prepare_fake import Fake


def _gta5():
    fake = Fake([dict(type='GTA5Dataset')], dict(train=3), 'label_ids')
    for n in (1, 2, 3):
        part = 1 if n < 3 else 2
        fake.add(
            (f'{part:02d}_images.zip', f'{part:02d}_labels.zip'),
            f'images/{n:05d}.png',
            f'labels/{n:05d}.png',
            range(35),
            CITYSCAPES,
            'palette',
            n,
        )
    return fake


def _synthia():
    fake = Fake([dict(type='SYNTHIADataset')], dict(train=2), 'label_ids')
    archive = 'SYNTHIA_RAND_CITYSCAPES.zip'
    for n in range(2):
        fake.add(
            (archive, archive),
            f'RAND_CITYSCAPES/RGB/{n:07d}.png',
            f'RAND_CITYSCAPES/GT/LABELS/{n:07d}.png',
            range(23),
            SYNTHIA,
            'synthia',
            n,
        )
        files = fake.archives[archive]
        files[f'RAND_CITYSCAPES/GT/COLOR/{n:07d}.png'] = image_bytes(n)
        files[f'RAND_CITYSCAPES/Depth/Depth/{n:07d}.png'] = image_bytes(n)
    return fake


def _cityscapes():
    fake = Fake(
        [
            dict(type='CityscapesDGDataset', split='train'),
            dict(type='CityscapesDGDataset', split='val'),
        ],
        dict(test=1, train=2, val=1),
        'polygons',
    )
    images = fake.archives.setdefault('leftImg8bit_trainvaltest.zip', {})
    labels = fake.archives.setdefault('gtFine_trainvaltest.zip', {})
    images['README'] = labels['README'] = b'Cityscapes'
    drawn, ids = polygons()
    for n, (split, city) in enumerate(
        [
            ('train', 'aachen'),
            ('train', 'ulm'),
            ('val', 'munster'),
            ('test', 'bonn'),
        ]
    ):
        stem = f'{split}/{city}/{city}_00000{n}_000019'
        name = f'leftImg8bit/{stem}_leftImg8bit.png'
        images[name] = image_bytes(n)
        labels[f'gtFine/{stem}_gtFine_polygons.json'] = drawn
        labels[f'gtFine/{stem}_gtFine_labelIds.png'] = label_bytes(ids)
        labels[f'gtFine/{stem}_gtFine_color.png'] = image_bytes(n)
        labels[f'gtFine/{stem}_gtFine_instanceIds.png'] = label_bytes(ids)
        fake.expected[name.rpartition('/')[2]] = np.vectorize(CITYSCAPES.get)(
            ids
        )
    return fake


def _bdd100k():
    fake = Fake(
        [dict(type='BDD100KDGDataset')],
        dict(test=1, train=1, val=1),
        'train_ids',
    )
    names = ('bdd100k_images_10k.zip', 'bdd100k_sem_seg_labels_trainval.zip')
    for n, split in enumerate(['train', 'val']):
        stem = f'7d06fef{n}-f7be05a6'
        fake.add(
            names,
            f'bdd100k/images/10k/{split}/{stem}.jpg',
            f'bdd100k/labels/sem_seg/masks/{split}/{stem}.png',
            TRAIN_IDS,
            SAME,
            seed=n,
        )
        colours = f'bdd100k/labels/sem_seg/colormaps/{split}/{stem}.png'
        fake.archives[names[1]][colours] = image_bytes(n)
    fake.archives[names[0]][
        'bdd100k/images/10k/test/ac6d4f42-00000000.jpg'
    ] = image_bytes(9, 'jpg')
    return fake


def _mapillary(version='1.2'):
    fake = Fake(
        [
            dict(type='MapillaryDGDataset', split='training'),
            dict(type='MapillaryDGDataset'),
        ],
        dict(testing=1, training=1, validation=1),
        'config_v1.2.json',
    )
    archive = f'mapillary-vistas-dataset_public_v{version}.zip'
    inside = '' if version == '1.2' else 'v1.2/'
    for n, split in enumerate(['training', 'validation']):
        key = f'_1Gn_xkw7sa_i9GU4mkxx{n}'
        fake.add(
            (archive, archive),
            f'{split}/images/{key}.jpg',
            f'{split}/{inside}labels/{key}.png',
            range(66),
            VISTAS,
            'palette',
            n,
        )
        files = fake.archives[archive]
        if version == '2.0':
            files[f'{split}/v2.0/labels/{key}.png'] = label_bytes(
                spread(range(124), n), 'palette'
            )
            files['config_v2.0.json'] = vistas_config('2.0')
        files[f'{split}/{inside}instances/{key}.png'] = label_bytes(
            spread(range(66))
        )
    files['config_v1.2.json'] = vistas_config('1.2')
    files['testing/images/Test0000000000000000_0.jpg'] = image_bytes(9, 'jpg')
    return fake


def _acdc():
    conditions = ('fog', 'night', 'rain', 'snow')
    fake = Fake(
        [dict(type='ACDCDataset', condition=c) for c in conditions],
        dict(test=4, train=4, val=4),
        'train_ids',
    )
    names = ('rgb_anon_trainvaltest.zip', 'gt_trainval.zip')
    for n, condition in enumerate(conditions):
        for m, split in enumerate(['train', 'val', 'test']):
            where = f'{condition}/{split}/GOPR047{m}/GOPR047{m}_frame_{n:06d}'
            image = f'rgb_anon/{where}_rgb_anon.png'
            if split == 'test':
                fake.archives[names[0]][image] = image_bytes(n)
                continue
            label = f'gt/{where}_gt_labelTrainIds.png'
            fake.add(names, image, label, TRAIN_IDS, SAME, seed=10 * n + m)
            labels = fake.archives[names[1]]
            labels[f'gt/{where}_gt_labelColor.png'] = image_bytes(n)
            labels[f'gt/{where}_gt_labelIds.png'] = label_bytes(spread([7]))
            labels[f'gt/{where}_gt_invIds.png'] = label_bytes(spread([0]))
        where = f'{condition}/val_ref/GOPR0471/GOPR0471_frame_{n:06d}'
        fake.archives[names[0]][f'rgb_anon/{where}_rgb_ref_anon.png'] = (
            image_bytes(n)
        )
    return fake


def _idd():
    """Both parts: PNG with polygons, JPEG with what the makers' tool left."""
    fake = Fake(
        [
            dict(type='IDDDataset', split='train'),
            dict(type='IDDDataset', split='val'),
        ],
        dict(test=1, train=1, val=2),
        'label_ids, polygons, train_ids',
    )
    part_1 = 'idd-segmentation.zip', 'IDD_Segmentation'
    part_2 = 'idd-20k-II.zip', 'idd20kII'
    drawn, labels = idd_polygons()
    pairs = (
        (part_1, 'train/119/005506', 'png', 'polygons.json'),
        (part_2, 'val/259/frame0014', 'jpg', 'labelids.png'),
        (part_2, 'val/259/frame0029', 'jpg', 'labelcsTrainIds.png'),
    )
    for seed, ((archive, root), stem, suffix, kind) in enumerate(pairs):
        image = f'{root}/leftImg8bit/{stem}_leftImg8bit.{suffix}'
        label = f'{root}/gtFine/{stem}_gtFine_{kind}'
        own = kind == 'labelids.png'
        ids = range(40) if own else TRAIN_IDS
        table = IDD if own else SAME
        fake.add((archive, archive), image, label, ids, table, seed=seed)
        files = fake.archives[archive]
        if kind == 'polygons.json':
            files[label] = drawn
            # Preferred to what was made from them.
            made = label.replace(kind, 'labelids.png')
            files[made] = label_bytes(spread([0]))
            fake.expected[image.rpartition('/')[2]] = labels
        other = label.replace(kind, 'labellevel3Ids.png')
        files[other] = label_bytes(spread([3]))
    test = 'idd20kII/leftImg8bit/test/1/frame0000_leftImg8bit.jpg'
    files[test] = image_bytes(9, 'jpg')
    return fake


MAKERS = dict(
    gta5=_gta5,
    synthia=_synthia,
    cityscapes=_cityscapes,
    bdd100k=_bdd100k,
    mapillary=_mapillary,
    mapillary_v2=lambda: _mapillary('2.0'),
    acdc=_acdc,
    dark_zurich=prepare_targets.dark_zurich,
    nighttime_driving=prepare_targets.nighttime_driving,
    foggy_zurich=prepare_targets.foggy_zurich,
    wilddash2=prepare_targets.wilddash2,
    wilddash2_beta=lambda: prepare_targets.wilddash2('wd_public_02.zip'),
    urbansyn=prepare_targets.urbansyn,
    idd=_idd,
)


def set_name(fake_name):
    """The name of the set on the command line."""
    return fake_name.removesuffix('_v2').removesuffix('_beta')
