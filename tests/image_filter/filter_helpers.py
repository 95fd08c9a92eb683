"""A model without weights, and image banks with labels."""

import hashlib
import json

import numpy as np
import torch
from PIL import Image

from clouds_mmseg.generate.backends import encode_png
from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.utils.image_set import BANK_FILE, MANIFEST_FILE

CLASSES = ('ground', 'sky', 'box')
PALETTE = np.array([[120, 90, 60], [80, 140, 220], [220, 40, 40]], np.uint8)


class ByColour:
    """Stands in for a Segmenter: knows a class by the channel it is in.

    Attributes:
        calls: Images that were predicted.
    """

    def __init__(self, classes=CLASSES):
        self.classes = classes
        self.palette = PALETTE
        self.text_tower = None
        self.model = torch.nn.Linear(1, 1)
        self.calls = 0

    def __call__(self, image, *, scores, confidence):
        self.calls += 1
        scores = image.astype(np.float32).transpose(2, 0, 1) / 255 + 0.05
        share = scores.max(0) / scores.sum(0)
        return Prediction(
            image, scores.argmax(0).astype(np.uint8), self.classes,
            self.palette, confidence=share, scores=scores,
        )  # fmt: skip


def scene(seed, label_seed=None):
    """An image whose channels show the classes of its label."""

    def draw(seed):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 3, (4, 6), np.uint8)
        label = np.kron(coarse, np.ones((8, 8), np.uint8))
        image = np.full((*label.shape, 3), 30, np.uint8)
        np.put_along_axis(image, label[..., None].astype(int), 200, axis=2)
        return image + rng.integers(0, 30, image.shape, np.uint8), label

    image, label = draw(seed)
    return image, label if label_seed is None else draw(label_seed)[1]


def write_bank(root, images, *, labels=None, backend='toy', **entry):
    """Write an image bank; ``labels`` may hold None for some images."""
    (root / 'images').mkdir(parents=True)
    (root / 'labels_for_evaluation').mkdir()
    lines = []
    for index, image in enumerate(images):
        payload = encode_png(image)
        name = f'{index:06d}.png'
        (root / 'images' / name).write_bytes(payload)
        height, width = image.shape[:2]
        line = dict(
            index=index, file=f'images/{name}', prompt='a street', seed=index,
            width=width, height=height, bytes=len(payload),
            sha256=hashlib.sha256(payload).hexdigest(),
        )  # fmt: skip
        line.update(
            {k: v[index] if isinstance(v, list) else v
             for k, v in entry.items()}
        )  # fmt: skip
        if labels is not None and labels[index] is not None:
            line['evaluation_label'] = f'labels_for_evaluation/{name}'
            Image.fromarray(labels[index]).save(
                root / line['evaluation_label']
            )
        lines.append(json.dumps(line) + '\n')
    recipe = dict(backend=backend)
    bank = dict(format=1, num=len(images), recipe=recipe, info={})
    (root / BANK_FILE).write_text(json.dumps(bank))
    (root / MANIFEST_FILE).write_text(''.join(lines))
    return root
