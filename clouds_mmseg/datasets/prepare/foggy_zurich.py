"""Foggy Zurich: of its 3,808 images the 40 that have labels."""

from clouds_mmseg.datasets.prepare.convert import label_ids
from clouds_mmseg.datasets.prepare.layout import Layout, prepared

# Apart from the published folders, whose other images have no labels.
_LABEL = 'testv2/gt/{sequence}/{file}_labelTrainIds.png'
_WHERE = r'(?P<sequence>[^/]+)/{file}\.png'

LAYOUT = Layout(
    name='foggy_zurich',
    title='Foggy Zurich, testv2',
    split='testv2',
    official=dict(testv2=40),
    examples=(
        'RGB/GP010229/1508040913.0_frame_000955.png',
        'gt_labelTrainIds/GP010229/1508040913.0_frame_000955.png',
    ),
    labelled_only=True,
    rules=(
        prepared('image', f'RGB/{_WHERE}', 'testv2/RGB/{sequence}/{file}.png'),
        prepared('label', f'gt_labelTrainIds/{_WHERE}', _LABEL),
        prepared(
            'label',
            f'gt_labelIds/{_WHERE}',
            _LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)
