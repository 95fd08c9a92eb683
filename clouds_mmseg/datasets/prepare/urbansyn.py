"""UrbanSyn: ``rgb.zip`` and ``ss.zip``, or the folders they hold."""

from clouds_mmseg.datasets.prepare.convert import TableConverter
from clouds_mmseg.datasets.prepare.layout import Layout, Rule
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE

# The files hold train ids, and behind them one more for "unlabelled".
_IDS = {index: index for index in range(len(CLASSES))}

LAYOUT = Layout(
    name='urbansyn',
    title='UrbanSyn',
    split='train',
    official=dict(train=7539),
    examples=('rgb/rgb_0001.png', 'ss/ss_0001.png'),
    rules=(
        Rule(
            part='image',
            pattern=r'rgb/rgb_(?P<file>\d+)\.png',
            target='rgb/rgb_{file}.png',
        ),
        Rule(
            part='label',
            pattern=r'ss/ss_(?P<file>\d+)\.png',
            target='ss/rgb_{file}_labelTrainIds.png',
            convert=TableConverter.from_ids(_IDS, (len(CLASSES), IGNORE)),
        ),
    ),
)
