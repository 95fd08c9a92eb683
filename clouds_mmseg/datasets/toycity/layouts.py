"""Where each domain's files lie: the folders of the real datasets."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.cityscapes import LABEL_ID_TO_TRAIN_ID, PALETTE

CONDITIONS = ('fog', 'night', 'rain', 'snow')
# Order matters: the place of a domain is part of its scenes' seeds.
DOMAINS = ('source', 'source_val', 'clear', *CONDITIONS)

TRAIN_ID_TO_LABEL_ID = np.zeros(256, np.uint8)
for _label_id, _train_id in LABEL_ID_TO_TRAIN_ID.items():
    TRAIN_ID_TO_LABEL_ID[_train_id] = _label_id


@dataclass(frozen=True)
class Sample:
    """One picture of one domain.

    Attributes:
        domain: One of :data:`DOMAINS`.
        index: Number of the picture in its domain, from 0.
    """

    domain: str
    index: int

    @property
    def style(self):
        """Name of the style it is rendered in."""
        return 'source' if self.domain == 'source_val' else self.domain

    @property
    def image(self):
        """Path of the image below the root."""
        return self._paths()[0]

    @property
    def label(self):
        """Path of the label map below the root."""
        return self._paths()[1]

    def seed(self, seed):
        """Seed of the scene: no two samples share one."""
        words = np.random.SeedSequence(
            [seed, DOMAINS.index(self.domain), self.index]
        ).generate_state(2, np.uint64)
        return int(words[0]) << 64 | int(words[1])

    def _paths(self):
        number = self.index + 1
        if self.domain in ('source', 'source_val'):
            name = f'{number:05d}.png'
            return f'{self.domain}/images/{name}', (
                f'{self.domain}/labels/{name}'
            )
        if self.domain == 'clear':
            name = f'val/toyville/toyville_{number - 1:06d}_000019'
            return f'clear/leftImg8bit/{name}_leftImg8bit.png', (
                f'clear/gtFine/{name}_gtFine_labelTrainIds.png'
            )
        name = f'{self.domain}/val/GOPR0001/GOPR0001_frame_{number:06d}'
        return f'acdc/rgb_anon/{name}_rgb_anon.png', (
            f'acdc/gt/{name}_gt_labelTrainIds.png'
        )


def write_image(path, image):
    """Write an RGB image (H, W, 3) uint8."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, compress_level=3)


def write_label(path, label, *, label_ids):
    """Write a map (H, W) of train ids.

    Args:
        path (Path): Where.
        label (np.ndarray): Train ids, uint8.
        label_ids (bool): GTA5's form, a palette PNG of Cityscapes label ids;
            else a grey PNG of the train ids.
    """
    if label_ids:
        picture = Image.fromarray(TRAIN_ID_TO_LABEL_ID[label])
        palette = np.zeros((256, 3), np.uint8)
        for label_id, train_id in LABEL_ID_TO_TRAIN_ID.items():
            palette[label_id] = PALETTE[train_id]
        picture.putpalette(palette.tobytes())
    else:
        picture = Image.fromarray(label)
    with atomic_path(path) as temporary:
        picture.save(temporary)
