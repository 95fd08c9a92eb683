"""Nighttime Driving: ``NighttimeDrivingTest.zip``."""

from clouds_mmseg.datasets.prepare.convert import label_ids
from clouds_mmseg.datasets.prepare.layout import Layout, Rule

_WHERE = r'(?P<split>test)/night/(?P<file>[^./][^/]*)'
_GT = 'gtCoarse_daytime_trainvaltest'
_LABEL = _GT + '/{split}/night/{file}_gtCoarse_labelTrainIds.png'

LAYOUT = Layout(
    name='nighttime_driving',
    title='Nighttime Driving, test',
    official=dict(test=50),
    examples=(
        'leftImg8bit/test/night/0_1_leftImg8bit.png',
        f'{_GT}/test/night/0_1_gtCoarse_labelTrainIds.png',
    ),
    rules=(
        Rule(
            part='image',
            pattern=f'leftImg8bit/{_WHERE}' + r'_leftImg8bit\.png',
            target='leftImg8bit/{split}/night/{file}_leftImg8bit.png',
        ),
        Rule(
            part='label',
            pattern=f'{_GT}/{_WHERE}' + r'_gtCoarse_labelTrainIds\.png',
            target=_LABEL,
        ),
        Rule(
            part='label',
            pattern=f'{_GT}/{_WHERE}' + r'_gtCoarse_labelIds\.png',
            target=_LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)
