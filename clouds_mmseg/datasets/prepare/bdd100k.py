"""BDD100K: ``bdd100k_images_10k.zip``, ``bdd100k_sem_seg_labels_trainval``."""

from clouds_mmseg.datasets.prepare.layout import Layout, prepared

_IMAGE = 'images/10k/{split}/{file}.jpg'
_LABEL = 'labels/sem_seg/masks/{split}/{file}_labelTrainIds.png'
_ALL = '(?P<split>train|val|test)'
_LABELLED = '(?P<split>train|val)'

LAYOUT = Layout(
    name='bdd100k',
    title='BDD100K, semantic segmentation',
    official=dict(train=7000, val=1000, test=2000),
    examples=(
        'images/10k/val/7d06fefd-f7be05a6.jpg',
        'labels/sem_seg/masks/val/7d06fefd-f7be05a6.png',
    ),
    unlabelled=('test',),
    rules=(
        prepared('image', rf'10k/{_ALL}/{{file}}\.jpg', _IMAGE),
        # The layout of the first release.
        prepared('image', rf'seg/images/{_ALL}/{{file}}\.jpg', _IMAGE),
        prepared('label', rf'sem_seg/masks/{_LABELLED}/{{file}}\.png', _LABEL),
        prepared(
            'label',
            rf'seg/labels/{_LABELLED}/{{file}}_train_id\.png',
            _LABEL,
        ),
    ),
)
