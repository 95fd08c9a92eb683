"""Layouts of the published data sets, and of the prepared folders."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from clouds_mmseg.data_tools.prepare.convert import TableConverter, label_ids
from clouds_mmseg.datasets.driving import GTA5Dataset, SYNTHIADataset
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE
from clouds_mmseg.utils.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Mapping of one kind of source files to files of the output.

    Attributes:
        part: ``image`` or ``label``.
        pattern: Regular expression of the end of a path. Image and label are a
            pair if the values of its named groups are equal; a group named
            ``split`` is the split.
        target: Path below the output folder, with the groups in braces.
        source: What the label files hold, for the manifest.
        convert: See :mod:`clouds_mmseg.data_tools.prepare.convert`. None: the
            file is used as it is.
    """

    part: str
    pattern: str
    target: str
    source: str = 'train_ids'
    convert: Callable | None = None

    def match(self, name: str) -> re.Match | None:
        """Match a path of a source; None if the rule does not apply."""
        return re.compile('(?:.*/)?' + self.pattern).fullmatch(name)

    def target_pattern(self) -> str:
        """Return a regular expression that matches all targets."""
        # Odd parts are names in braces.
        parts = re.split(r'\{(\w+)\}', self.target)
        return ''.join(
            f'(?P<{part}>[^/]+)' if odd % 2 else re.escape(part)
            for odd, part in enumerate(parts)
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Published layout of a data set.

    Attributes:
        name: As on the command line.
        title: Name in messages.
        rules: In the order of preference: a label is made by the first rule
            that has a file for it.
        official: Split -> images of the official release.
        examples: Paths of an image and a label, for messages.
        split: The split of sets that have only one.
        unlabelled: Splits that may lack labels.
        labelled_only: Whether images without label are left out silently, for
            sets that are mostly unlabelled.
        prepare: ``(files, options) -> rules``, for sets that describe their
            classes in a file of their own.
    """

    name: str
    title: str
    rules: tuple[Rule, ...] = ()
    official: dict[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    split: str | None = None
    unlabelled: tuple[str, ...] = ()
    labelled_only: bool = False
    prepare: Callable | None = None


def published_rule(
    part: str, pattern: str, target: str, **kwargs: Any
) -> Rule:
    """Make a rule that matches no file of a prepared folder.

    A folder may be prepared in place, and the second run must not take the
    labels of the first for published ones.

    Args:
        part: See :class:`Rule`.
        pattern: Of the file's end; ``{file}`` stands for a file name without
            suffix, in the group ``file``.
        target: See :class:`Rule`.
        **kwargs: Further attributes of :class:`Rule`.
    """
    stem = r'(?P<file>(?!\.)[^/]+?(?<!_labelTrainIds))'
    return Rule(
        part=part,
        pattern=pattern.replace('{file}', stem),
        target=target,
        **kwargs,
    )


_GTA5_SPLIT = '(?:(?:train|val|test)/)?'

GTA5 = Layout(
    name='gta5',
    title='GTA5',
    split='train',
    official=dict(train=24966),
    examples=('images/00001.png', 'labels/00001.png'),
    rules=(
        published_rule(
            'image', rf'images/{_GTA5_SPLIT}{{file}}\.png', 'images/{file}.png'
        ),
        published_rule(
            'label',
            rf'labels/{_GTA5_SPLIT}{{file}}\.png',
            'labels/{file}_labelTrainIds.png',
            source='label_ids',
            convert=TableConverter.of(GTA5Dataset),
        ),
        # As the converters of other projects leave them.
        published_rule(
            'label',
            rf'labels/{_GTA5_SPLIT}{{file}}_labelTrainIds\.png',
            'labels/{file}_labelTrainIds.png',
        ),
    ),
)


SYNTHIA = Layout(
    name='synthia',
    title='SYNTHIA-RAND-CITYSCAPES',
    split='train',
    official=dict(train=9400),
    examples=('RGB/0000000.png', 'GT/LABELS/0000000.png'),
    rules=(
        published_rule('image', r'RGB/{file}\.png', 'RGB/{file}.png'),
        published_rule(
            'label',
            r'GT/LABELS/{file}\.png',
            'GT/LABELS/{file}_labelTrainIds.png',
            source='label_ids',
            convert=TableConverter.of(SYNTHIADataset),
        ),
        # As the converters of other projects leave them.
        published_rule(
            'label',
            r'GT/LABELS/{file}_labelTrainIds\.png',
            'GT/LABELS/{file}_labelTrainIds.png',
        ),
    ),
)


# The files hold train ids; 19 is "unlabelled".
_URBANSYN_IDS = {index: index for index in range(len(CLASSES))}

URBANSYN = Layout(
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
            convert=TableConverter.from_ids(
                _URBANSYN_IDS, (len(CLASSES), IGNORE)
            ),
        ),
    ),
)


_CITYSCAPES_WHERE = (
    r'(?P<split>train|val|test)/(?P<city>[^/]+)/(?P<file>[^./][^/]*)'
)


def draw_polygons(payload: bytes, name: str) -> np.ndarray:
    """Rasterise the polygons of an image with cityscapesscripts.

    Args:
        payload: A ``*_polygons.json``.
        name: Of the file, for messages.

    Returns:
        (H, W) uint8 train ids, 255 where the class is not evaluated.

    Raises:
        DataError: The file is damaged, or has an unknown class.
    """
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    try:
        annotation = Annotation()
        annotation.fromJsonText(payload.decode('utf-8'))
        image = createLabelImage(annotation, 'trainIds')
    # cityscapesscripts exits on a class that it does not know.
    except (Exception, SystemExit) as error:
        raise DataError(
            f'label {name} cannot be drawn ({_failure_text(payload, error)})'
        ) from error
    return np.asarray(image)


def _failure_text(payload, error):
    if not isinstance(error, SystemExit):
        return f'{type(error).__name__}: {error}'
    from cityscapesscripts.helpers.labels import name2label

    names = {o.get('label') for o in json.loads(payload).get('objects', [])}
    unknown = sorted(n for n in names if n not in name2label)
    return f'unknown classes: {", ".join(map(str, unknown))}'


def _cityscapes_rules(files, options):
    """Prefer the polygons; ids make the same labels without the package."""
    polygons = _cityscapes_label('polygons.json', 'polygons', draw_polygons)
    ids = _cityscapes_label('labelIds.png', 'label_ids', label_ids())
    if find_spec('cityscapesscripts') is None:
        if files.any(polygons.pattern) and not files.any(ids.pattern):
            raise DataError(
                'the labels of Cityscapes are polygons here, which '
                'cityscapesscripts draws, and it is not installed: '
                "pip install 'clouds_mmseg[data]'"
            )
        return (_CITYSCAPES_IMAGE, ids, _CITYSCAPES_DRAWN)
    return (_CITYSCAPES_IMAGE, polygons, ids, _CITYSCAPES_DRAWN)


def _cityscapes_label(ending, source, convert=None):
    return Rule(
        part='label',
        pattern='gtFine/'
        + _CITYSCAPES_WHERE
        + '_gtFine_'
        + ending.replace('.', r'\.'),
        target='gtFine/{split}/{city}/{file}_gtFine_labelTrainIds.png',
        source=source,
        convert=convert,
    )


_CITYSCAPES_IMAGE = Rule(
    part='image',
    pattern='leftImg8bit/' + _CITYSCAPES_WHERE + r'_leftImg8bit\.png',
    target='leftImg8bit/{split}/{city}/{file}_leftImg8bit.png',
)
# Written by an earlier run. The last rule, so that labels prepared in place
# are made from the same files in every run.
_CITYSCAPES_DRAWN = _cityscapes_label('labelTrainIds.png', 'train_ids')

CITYSCAPES = Layout(
    name='cityscapes',
    title='Cityscapes',
    official=dict(train=2975, val=500, test=1525),
    examples=(
        'leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png',
        'gtFine/val/munster/munster_000000_000019_gtFine_polygons.json',
    ),
    unlabelled=('test',),
    prepare=_cityscapes_rules,
)


_BDD100K_IMAGE = 'images/10k/{split}/{file}.jpg'
_BDD100K_LABEL = 'labels/sem_seg/masks/{split}/{file}_labelTrainIds.png'
_BDD100K_ALL = '(?P<split>train|val|test)'
_BDD100K_LABELLED = '(?P<split>train|val)'

BDD100K = Layout(
    name='bdd100k',
    title='BDD100K, semantic segmentation',
    official=dict(train=7000, val=1000, test=2000),
    examples=(
        'images/10k/val/7d06fefd-f7be05a6.jpg',
        'labels/sem_seg/masks/val/7d06fefd-f7be05a6.png',
    ),
    unlabelled=('test',),
    rules=(
        published_rule(
            'image', rf'10k/{_BDD100K_ALL}/{{file}}\.jpg', _BDD100K_IMAGE
        ),
        # The layout of the first release.
        published_rule(
            'image',
            rf'seg/images/{_BDD100K_ALL}/{{file}}\.jpg',
            _BDD100K_IMAGE,
        ),
        published_rule(
            'label',
            rf'sem_seg/masks/{_BDD100K_LABELLED}/{{file}}\.png',
            _BDD100K_LABEL,
        ),
        published_rule(
            'label',
            rf'seg/labels/{_BDD100K_LABELLED}/{{file}}_train_id\.png',
            _BDD100K_LABEL,
        ),
    ),
)


_ACDC_WHERE = (
    r'(?P<condition>fog|night|rain|snow)/(?P<split>train|val|test)/'
    r'(?P<sequence>[^/]+)/(?P<file>[^./][^/]*)'
)
_ACDC_LABEL = 'gt/{condition}/{split}/{sequence}/{file}_gt_labelTrainIds.png'

ACDC = Layout(
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
            pattern=f'rgb_anon/{_ACDC_WHERE}' + r'_rgb_anon\.png',
            target='rgb_anon/{condition}/{split}/{sequence}/'
            '{file}_rgb_anon.png',
        ),
        Rule(
            part='label',
            pattern=f'gt/{_ACDC_WHERE}' + r'_gt_labelTrainIds\.png',
            target=_ACDC_LABEL,
        ),
        Rule(
            part='label',
            pattern=f'gt/{_ACDC_WHERE}' + r'_gt_labelIds\.png',
            target=_ACDC_LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)


_DARK_ZURICH_WHERE = (
    r'(?P<split>val)/night/(?P<sequence>[^/]+)/(?P<file>[^./][^/]*)'
)
_DARK_ZURICH_LABEL = 'gt/{split}/night/{sequence}/{file}_gt_labelTrainIds.png'

DARK_ZURICH = Layout(
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
            pattern=f'rgb_anon/{_DARK_ZURICH_WHERE}' + r'_rgb_anon\.png',
            target='rgb_anon/{split}/night/{sequence}/{file}_rgb_anon.png',
        ),
        Rule(
            part='label',
            pattern=f'gt/{_DARK_ZURICH_WHERE}' + r'_gt_labelTrainIds\.png',
            target=_DARK_ZURICH_LABEL,
        ),
        Rule(
            part='label',
            pattern=f'gt/{_DARK_ZURICH_WHERE}' + r'_gt_labelIds\.png',
            target=_DARK_ZURICH_LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)


_NIGHTTIME_DRIVING_WHERE = r'(?P<split>test)/night/(?P<file>[^./][^/]*)'
_NIGHTTIME_DRIVING_GT = 'gtCoarse_daytime_trainvaltest'
_NIGHTTIME_DRIVING_LABEL = (
    _NIGHTTIME_DRIVING_GT + '/{split}/night/{file}_gtCoarse_labelTrainIds.png'
)

NIGHTTIME_DRIVING = Layout(
    name='nighttime_driving',
    title='Nighttime Driving, test',
    official=dict(test=50),
    examples=(
        'leftImg8bit/test/night/0_1_leftImg8bit.png',
        f'{_NIGHTTIME_DRIVING_GT}/test/night/0_1_gtCoarse_labelTrainIds.png',
    ),
    rules=(
        Rule(
            part='image',
            pattern=f'leftImg8bit/{_NIGHTTIME_DRIVING_WHERE}'
            + r'_leftImg8bit\.png',
            target='leftImg8bit/{split}/night/{file}_leftImg8bit.png',
        ),
        Rule(
            part='label',
            pattern=f'{_NIGHTTIME_DRIVING_GT}/{_NIGHTTIME_DRIVING_WHERE}'
            + r'_gtCoarse_labelTrainIds\.png',
            target=_NIGHTTIME_DRIVING_LABEL,
        ),
        Rule(
            part='label',
            pattern=f'{_NIGHTTIME_DRIVING_GT}/{_NIGHTTIME_DRIVING_WHERE}'
            + r'_gtCoarse_labelIds\.png',
            target=_NIGHTTIME_DRIVING_LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)


# Separate from the published folders, most of whose images have no label.
_FOGGY_ZURICH_LABEL = 'testv2/gt/{sequence}/{file}_labelTrainIds.png'
_FOGGY_ZURICH_WHERE = r'(?P<sequence>[^/]+)/{file}\.png'

FOGGY_ZURICH = Layout(
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
        published_rule(
            'image',
            f'RGB/{_FOGGY_ZURICH_WHERE}',
            'testv2/RGB/{sequence}/{file}.png',
        ),
        published_rule(
            'label',
            f'gt_labelTrainIds/{_FOGGY_ZURICH_WHERE}',
            _FOGGY_ZURICH_LABEL,
        ),
        published_rule(
            'label',
            f'gt_labelIds/{_FOGGY_ZURICH_WHERE}',
            _FOGGY_ZURICH_LABEL,
            source='label_ids',
            convert=label_ids(),
        ),
    ),
)
