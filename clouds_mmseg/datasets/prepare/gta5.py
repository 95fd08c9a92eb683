"""GTA5: ``01_images.zip`` to ``10_images.zip``, ``01_labels.zip`` to ..."""

from clouds_mmseg.datasets.gta5 import GTA5Dataset
from clouds_mmseg.datasets.prepare.convert import TableConverter
from clouds_mmseg.datasets.prepare.layout import Layout, prepared

_SPLIT = '(?:(?:train|val|test)/)?'

LAYOUT = Layout(
    name='gta5',
    title='GTA5',
    split='train',
    official=dict(train=24966),
    examples=('images/00001.png', 'labels/00001.png'),
    rules=(
        prepared(
            'image', rf'images/{_SPLIT}{{file}}\.png', 'images/{file}.png'
        ),
        prepared(
            'label',
            rf'labels/{_SPLIT}{{file}}\.png',
            'labels/{file}_labelTrainIds.png',
            source='label_ids',
            convert=TableConverter.of(GTA5Dataset),
        ),
        # As the converters of other projects leave them.
        prepared(
            'label',
            rf'labels/{_SPLIT}{{file}}_labelTrainIds\.png',
            'labels/{file}_labelTrainIds.png',
        ),
    ),
)
