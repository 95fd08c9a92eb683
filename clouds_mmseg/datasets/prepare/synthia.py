"""SYNTHIA-RAND-CITYSCAPES: ``SYNTHIA_RAND_CITYSCAPES.rar``."""

from clouds_mmseg.datasets.prepare.convert import TableConverter
from clouds_mmseg.datasets.prepare.layout import Layout, prepared
from clouds_mmseg.datasets.synthia import SYNTHIADataset

LAYOUT = Layout(
    name='synthia',
    title='SYNTHIA-RAND-CITYSCAPES',
    split='train',
    official=dict(train=9400),
    examples=('RGB/0000000.png', 'GT/LABELS/0000000.png'),
    rules=(
        prepared('image', r'RGB/{file}\.png', 'RGB/{file}.png'),
        prepared(
            'label',
            r'GT/LABELS/{file}\.png',
            'GT/LABELS/{file}_labelTrainIds.png',
            source='label_ids',
            convert=TableConverter.of(SYNTHIADataset),
        ),
        # As the converters of other projects leave them.
        prepared(
            'label',
            r'GT/LABELS/{file}_labelTrainIds\.png',
            'GT/LABELS/{file}_labelTrainIds.png',
        ),
    ),
)
