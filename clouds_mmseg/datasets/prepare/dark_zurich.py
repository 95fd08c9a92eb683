"""Dark Zurich: ``Dark_Zurich_val_anon.zip``."""

from clouds_mmseg.datasets.prepare.convert import label_ids
from clouds_mmseg.datasets.prepare.layout import Layout, Rule

_WHERE = r'(?P<split>val)/night/(?P<sequence>[^/]+)/(?P<file>[^./][^/]*)'
_LABEL = 'gt/{split}/night/{sequence}/{file}_gt_labelTrainIds.png'

LAYOUT = Layout(
    name='dark_zurich',
    title='Dark Zurich, validation',
    official=dict(val=50),
    examples=(
        'rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png',
        'gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png',
    ),
    rules=(
        Rule(
            part='image',
            pattern=f'rgb_anon/{_WHERE}' + r'_rgb_anon\.png',
            target='rgb_anon/{split}/night/{sequence}/{file}_rgb_anon.png',
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
