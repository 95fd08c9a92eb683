"""The encodings of the official downloads."""

import io
import json

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from PIL import Image, ImageDraw

from clouds_mmseg.datasets.labels import CLASSES_OF_VISTAS, IGNORED_OF_VISTAS

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
# Label id -> train id: the column csTrainId of the makers' anue_labels.py.
IDD = {
    int(a): int(b)
    for a, b in (
        pair.split(':')
        for pair in '0:0 3:1 5:9 6:11 8:12 9:17 10:18 12:13 13:14 14:15 17:16 '
        '20:3 21:4 24:7 25:6 26:5 29:2 32:8 33:10'.split()
    )
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
    names = names or sorted(
        {*CLASSES_OF_VISTAS[version], *IGNORED_OF_VISTAS[version]}
    )
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


def idd_polygons(size=(HEIGHT, WIDTH)):
    """An annotation of IDD and the train ids that belong to it."""
    shapes = [
        ('road', [[0, 6], [19, 6], [19, 11], [0, 11]], 0),
        ('autorickshaw', [[2, 4], [9, 4], [9, 9], [2, 9]], 255),
        # A group has the class of its members, but polegroup is a class.
        ('cargroup', [[12, 1], [16, 1], [16, 8], [12, 8]], 13),
        ('polegroup', [[13, 2], [14, 2], [14, 5], [13, 5]], 255),
        ('non-drivable fallback', [[0, 0], [19, 0], [19, 1], [0, 1]], 9),
    ]
    deleted = ('truck', [[0, 0], [19, 0], [19, 11], [0, 11]])
    image = Image.new('L', size[::-1], 255)
    for _, points, value in shapes:
        ImageDraw.Draw(image).polygon([tuple(p) for p in points], fill=value)
    objects = [dict(label=n, polygon=p, deleted=0) for n, p, _ in shapes]
    objects.append(dict(label=deleted[0], polygon=deleted[1], deleted=1))
    content = dict(imgHeight=size[0], imgWidth=size[1], objects=objects)
    return json.dumps(content).encode(), np.asarray(image)
