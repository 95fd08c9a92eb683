"""ACDC: ``rgb_anon_trainvaltest.zip`` and ``gt_trainval.zip``."""

from clouds_mmseg.datasets.prepare.convert import label_ids
from clouds_mmseg.datasets.prepare.layout import Layout, Rule

_WHERE = (
    r'(?P<condition>fog|night|rain|snow)/(?P<split>train|val|test)/'
    r'(?P<sequence>[^/]+)/(?P<file>[^./][^/]*)'
)
_LABEL = 'gt/{condition}/{split}/{sequence}/{file}_gt_labelTrainIds.png'

LAYOUT = Layout(
    name='acdc',
    title='ACDC',
    official=dict(train=1600, val=406, test=2000),
    examples=(
        'rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000761_rgb_anon.png',
        'gt/fog/val/GOPR0476/GOPR0476_frame_000761_gt_labelTrainIds.png',
    ),
    unlabelled=('test',),
    rules=(
        Rule(
            part='image',
            pattern=f'rgb_anon/{_WHERE}' + r'_rgb_anon\.png',
            target='rgb_anon/{condition}/{split}/{sequence}/'
            '{file}_rgb_anon.png',
        ),
        Rule(
            part='label',
            pattern=f'gt/{_WHERE}' + r'_gt_labelTrainIds\.png',
            target=_LABEL,
        ),
        Rule(
            part='label',
            pattern=f'gt/{_WHERE}' + r'_gt_labelIds\.png',
            target=_LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)
