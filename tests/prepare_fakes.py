"""Small fakes of the official downloads, in their layouts and encodings."""

import io
import json
import zipfile
from dataclasses import dataclass, field

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image, ImageDraw

from clouds_mmseg.datasets.prepare.vistas_classes import (
    CLASSES_OF_VISTAS,
    IGNORED,
)

HEIGHT, WIDTH = 12, 20

# The tables of DESIGN, written independently of the package's.
CITYSCAPES = {c.id: c.trainId for c in cityscapes_labels if c.id >= 0}
SYNTHIA = {
    int(a): int(b)
    for a, b in (
        pair.split(':')
        for pair in '3:0 4:1 2:2 21:3 5:4 7:5 15:6 9:7 6:8 16:9 1:10 10:11 '
        '17:12 8:13 18:14 19:15 20:16 12:17 11:18'.split()
    )
}
VISTAS = {
    int(source): int(pair.split(':')[1])
    for pair in '13,24,41:0 2,15:1 17:2 6:3 3:4 45,47:5 48:6 50:7 30:8 29:9 '
    '27:10 19:11 20,21,22:12 55:13 61:14 54:15 58:16 57:17 52:18'.split()
    for source in pair.split(':')[0].split(',')
}
TRAIN_IDS = [*range(19), 255]
SAME = {i: i for i in TRAIN_IDS}


def image_bytes(seed=0, suffix='png', size=(HEIGHT, WIDTH)):
    """A random picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return cv2.imencode(f'.{suffix}', pixels)[1].tobytes()


def spread(ids, seed=0, size=(HEIGHT, WIDTH)):
    """Lay ids out over a label, so that each occurs."""
    return np.roll(np.resize(np.array(ids, np.uint16), size), seed)


def label_bytes(ids, kind='grey'):
    """A label file: grey, palette, or 16 bits in three channels."""
    if kind == 'synthia':
        # File order R, G, B = class, instance, nothing; OpenCV takes B, G, R.
        pixels = np.zeros((*ids.shape, 3), np.uint16)
        pixels[..., 2] = ids
        pixels[..., 1] = 40000
        return cv2.imencode('.png', pixels)[1].tobytes()
    image = Image.fromarray(ids.astype(np.uint8))
    if kind == 'palette':
        # Colours unlike the indices: whoever reads colours is found out.
        image.putpalette([(7 * i + 99) % 256 for i in range(768)])
    out = io.BytesIO()
    image.save(out, 'png')
    return out.getvalue()


def vistas_config(version, names=None):
    """A config_v*.json; the official lists are in alphabetical order."""
    names = names or sorted({*CLASSES_OF_VISTAS[version], *IGNORED[version]})
    labels = [
        dict(
            name=name,
            readable=name.rpartition('--')[2],
            color=[0, 0, 0],
            instances=False,
            evaluate=True,
        )
        for name in names
    ]
    content = dict(labels=labels, version=version, mapping='public')
    return json.dumps(content).encode()


def polygons(size=(HEIGHT, WIDTH)):
    """A Cityscapes annotation and the label ids that belong to it."""
    shapes = [
        ('road', [[0, 6], [19, 6], [19, 11], [0, 11]]),
        ('car', [[2, 4], [9, 4], [9, 9], [2, 9]]),
        # A group has the class of its members; a plate is not drawn.
        ('persongroup', [[12, 1], [16, 1], [16, 8], [12, 8]]),
        ('license plate', [[4, 6], [6, 6], [6, 7], [4, 7]]),
        ('sky', [[0, 0], [19, 0], [19, 1], [0, 1]]),
        ('static', [[17, 3], [19, 3], [19, 5], [17, 5]]),
    ]
    ids = dict(road=7, car=26, persongroup=24, sky=23, static=4)
    image = Image.new('L', size[::-1], 0)
    for name, points in shapes:
        if name in ids:
            ImageDraw.Draw(image).polygon(
                [tuple(p) for p in points], fill=ids[name]
            )
    content = dict(
        imgHeight=size[0],
        imgWidth=size[1],
        objects=[dict(label=n, polygon=p) for n, p in shapes],
    )
    return json.dumps(content).encode(), np.asarray(image)


@dataclass
class Fake:
    """A download.

    Attributes:
        archives (dict[str, dict[str, bytes]]): Name of an archive -> its
            files.
        datasets (list[dict]): Configs that read what is prepared of it.
        splits (dict[str, int]): Expected in the manifest.
        source (str): Expected label source.
        expected (dict[str, np.ndarray]): Name of an image file -> its train
            ids.
    """

    datasets: list
    splits: dict
    source: str
    archives: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)

    def files(self):
        """All files, as if every archive was unpacked to one folder."""
        return {k: v for a in self.archives.values() for k, v in a.items()}

    def add(self, archives, image, label, ids, table, kind='grey', seed=0):
        """Add a pair; ``archives`` names those of image and label."""
        suffix = image.rpartition('.')[2]
        files = self.archives.setdefault(archives[0], {})
        files[image] = image_bytes(seed, suffix)
        raw = spread(ids, seed)
        files = self.archives.setdefault(archives[1], {})
        files[label] = label_bytes(raw, kind)
        train_ids = np.vectorize(lambda i: table.get(i, 255))(raw)
        self.expected[image.rpartition('/')[2]] = train_ids


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


def _dark_zurich():
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


def _nighttime_driving():
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


def _foggy_zurich():
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


def _wilddash2(archive='wd_public_v2p0.zip'):
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


def _urbansyn():
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


MAKERS = dict(
    gta5=_gta5,
    synthia=_synthia,
    cityscapes=_cityscapes,
    bdd100k=_bdd100k,
    mapillary=_mapillary,
    mapillary_v2=lambda: _mapillary('2.0'),
    acdc=_acdc,
    dark_zurich=_dark_zurich,
    nighttime_driving=_nighttime_driving,
    foggy_zurich=_foggy_zurich,
    wilddash2=_wilddash2,
    wilddash2_beta=lambda: _wilddash2('wd_public_02.zip'),
    urbansyn=_urbansyn,
)


def set_name(fake_name):
    """The name of the set on the command line."""
    return fake_name.removesuffix('_v2').removesuffix('_beta')


def write_zip(path, files):
    """Write a zip archive with folders, as Info-ZIP does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in {n.rpartition('/')[0] for n in files} - {''}:
            archive.writestr(f'{name}/', b'')
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_archives(folder, fake):
    """Write the archives of a fake; returns the folder."""
    for name, files in fake.archives.items():
        write_zip(folder / name, files)
    return folder


def write_files(folder, files):
    """Write files as if they had been unpacked; returns the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
