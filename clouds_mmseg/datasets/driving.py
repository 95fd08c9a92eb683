"""Driving data sets: one class each, with all that is known about its files.

The facts are read by the dataset classes, ``tools/prepare_dataset.py``,
``tools/verify_dataset.py`` and the tests, which also compare them with
``docs/datasets.md``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine import fileio
from mmseg.registry import DATASETS

from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.files import as_suffixes
from clouds_mmseg.datasets.labels import (
    CITYSCAPES_IDS,
    IDD_IDS,
    SYNTHIA_IDS,
    TRAIN_IDS,
    VISTAS_IDS,
    WILDDASH2_IDS,
    LabelIds,
)
from clouds_mmseg.utils.errors import UserError

CONDITIONS = ('fog', 'night', 'rain', 'snow')


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """One kind of label files in a download.

    Attributes:
        suffix: Of files that lie as in ``data/NAME``.
        pattern: Of files elsewhere, see :class:`SetFacts`.
        holds: ``train_ids``, ``label_ids`` or ``polygons``.
        ids: Meaning of the ids, or of the names of polygons. None: train ids,
            used as they are, or polygons of Cityscapes.
    """

    suffix: str = ''
    pattern: str = ''
    holds: str = 'train_ids'
    ids: LabelIds | None = None


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """A published data set.

    Patterns are regular expressions of the end of a path in a download.
    ``{split}`` and ``{condition}`` stand for one of the set's, ``{file}`` for
    a file name without suffix, any other name in braces for a folder. Image
    and label are a pair if all of these are equal.

    Attributes:
        name: On the command line, of the domain and of the folder in
            ``data/``.
        title: Name in messages.
        images: Split -> number of images of the release; None: unknown.
        conditions: Condition -> the same, where each is a domain of its own;
            ``images`` are then the sums.
        img_path: Image folder of ``data/NAME``, with ``{split}`` and
            ``{condition}``.
        seg_map_path: Likewise of labels.
        below: Paths of both below these folders, without suffix.
        img_suffix: Of the image files, or several.
        seg_map_suffix: Of the label files as published.
        split: Default of the class.
        unlabelled: Splits whose labels are not published.
        ids: Meaning of the ids in the label files as published.
        label_channel: See :class:`DGDataset`.
        compared_at_input_size: See :class:`DGDataset`.
        other_labels: Label folder of a release whose layout differs.
        image_files: Patterns, where they differ from ``data/NAME``.
        label_files: In the order of preference, by default as in
            ``data/NAME``; further kinds of some sets are in
            :mod:`clouds_mmseg.data_tools.prepare.rules`.
        labelled_only: Whether images without label are left out silently,
            for sets that are mostly unlabelled.
        examples: Paths of an image and a label, for messages.
        size: Width and height of all images.
        role: ``source`` or ``target`` of the benchmarks, or both.
        download: Sizes that an official page states.
        licence: In short.
        remark: About the number of images.
    """

    name: str
    title: str
    images: Mapping[str, int | None] = field(default_factory=dict)
    conditions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    img_path: str = 'images'
    seg_map_path: str = 'labels'
    below: str = '{file}'
    img_suffix: str | tuple[str, ...] = '.png'
    seg_map_suffix: str = '.png'
    split: str | None = None
    unlabelled: tuple[str, ...] = ()
    ids: LabelIds = TRAIN_IDS
    label_channel: str | None = None
    compared_at_input_size: bool = False
    other_labels: str | None = None
    image_files: tuple[str, ...] = ()
    label_files: tuple[LabelFiles, ...] = ()
    labelled_only: bool = False
    examples: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    role: str = 'target'
    download: str = 'size unknown'
    licence: str = 'unknown'
    remark: str = ''

    def __post_init__(self) -> None:
        if self.conditions:
            splits = next(iter(self.conditions.values()))
            images = {
                split: sum(c[split] for c in self.conditions.values())
                for split in splits
            }
            object.__setattr__(self, 'images', images)
        if not self.label_files:
            kind = LabelFiles(suffix=self.seg_map_suffix)
            if self.ids is not TRAIN_IDS:
                kind = replace(kind, holds='label_ids', ids=self.ids)
            object.__setattr__(self, 'label_files', (kind,))

    @property
    def only_split(self) -> str | None:
        """The split of a set that has one."""
        return next(iter(self.images)) if len(self.images) == 1 else None

    @property
    def image_patterns(self) -> list[tuple[str, str]]:
        """Pattern and suffix of each kind of image files in a download."""
        if self.image_files:
            return [
                (at, as_suffixes(self.img_suffix)[0])
                for at in self.image_files
            ]
        return [
            (self._pattern(self.img_path, suffix), suffix)
            for suffix in as_suffixes(self.img_suffix)
        ]

    def label_pattern(self, files: LabelFiles) -> str:
        """Return the pattern of a kind of label files in a download."""
        return files.pattern or self._pattern(self.seg_map_path, files.suffix)

    def _pattern(self, folder, suffix):
        return f'{folder}/{self.below}{suffix}'.replace('.', r'\.')

    def regex(self, pattern: str) -> re.Pattern:
        """Compile a pattern of this set.

        A folder may be prepared in place, so ``{file}`` never matches a
        prepared label.
        """

        def group(match):
            name = match[1]
            if name == 'file':
                return r'(?P<file>(?!\.)[^/]+?(?<!_labelTrainIds))'
            known = dict(split=self.images, condition=self.conditions)
            values = '|'.join(known.get(name, ())) or '[^/]+'
            return f'(?P<{name}>{values})'

        pattern = re.sub(r'\{([a-z_]+)\}', group, pattern)
        return re.compile('(?:.*/)?' + pattern)


class DrivingDataset(DGDataset):
    """Base class of the published sets, which ``FACTS`` describes."""

    FACTS: SetFacts

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if 'FACTS' not in vars(cls):
            return
        facts = cls.FACTS
        cls.DOMAIN = None if facts.conditions else facts.name
        cls.PREPARED = facts.name
        cls.SPLIT = facts.split
        cls.PREFIX = dict(
            img_path=facts.img_path, seg_map_path=facts.seg_map_path
        )
        cls.IMG_SUFFIX = facts.img_suffix
        cls.SEG_MAP_SUFFIX = facts.seg_map_suffix
        cls.LABEL_CHANNEL = facts.label_channel
        cls.COMPARED_AT_INPUT_SIZE = facts.compared_at_input_size

    def label_ids(self, metainfo: dict | None) -> dict[int, int]:
        """Return id in the published label files -> train id."""
        return dict(self.FACTS.ids.train_ids)

    def ignored_ids(self) -> Iterable[int]:
        """Return the further ids that label files may hold."""
        return self.FACTS.ids.ignored


def _train_ids_or_label_ids(stem):
    """Return both kinds of files that Cityscapes' tools write."""
    return (
        LabelFiles(suffix=f'{stem}_labelTrainIds.png'),
        LabelFiles(
            suffix=f'{stem}_labelIds.png',
            holds='label_ids',
            ids=CITYSCAPES_IDS,
        ),
    )


# The licence plate, -1 in Cityscapes, is 34 in GTA5.
_GTA5_IDS = CITYSCAPES_IDS.and_ignored(34)
_GTA5_SPLIT = '(?:(?:train|val|test)/)?'


@DATASETS.register_module()
class GTA5Dataset(DrivingDataset):
    """GTA5: 24,966 rendered images, 1914x1052, with Cityscapes label ids.

    Layout: ``images/00001.png`` and ``labels/00001.png``, palette PNGs as
    published. A few images differ in size from their label, and reading one
    is an error: ``tools/verify_dataset.py gta5 --fix`` moves them to
    quarantine.

    Source: Richter et al., "Playing for Data", ECCV 2016.
    """

    FACTS = SetFacts(
        name='gta5',
        title='GTA5',
        images=dict(train=24966),
        ids=_GTA5_IDS,
        image_files=(rf'images/{_GTA5_SPLIT}{{file}}\.png',),
        label_files=(
            LabelFiles(
                pattern=rf'labels/{_GTA5_SPLIT}{{file}}\.png',
                holds='label_ids',
                ids=_GTA5_IDS,
            ),
            # As the converters of other projects leave them.
            LabelFiles(
                pattern=rf'labels/{_GTA5_SPLIT}{{file}}_labelTrainIds\.png'
            ),
        ),
        examples=('images/00001.png', 'labels/00001.png'),
        size=(1914, 1052),
        role='source',
        download='images 56 GB, labels 0.7 GB',
        licence='research and education only',
    )


@DATASETS.register_module()
class SYNTHIADataset(DrivingDataset):
    """SYNTHIA-RAND-CITYSCAPES: 9,400 rendered images, 1280x760.

    Layout: ``RGB/0000000.png`` and ``GT/LABELS/0000000.png``, 16-bit PNGs
    with the class in the first channel and the instance in the second.

    Source: Ros et al., "The SYNTHIA Dataset", CVPR 2016.
    """

    FACTS = SetFacts(
        name='synthia',
        title='SYNTHIA-RAND-CITYSCAPES',
        images=dict(train=9400),
        img_path='RGB',
        seg_map_path='GT/LABELS',
        ids=SYNTHIA_IDS,
        label_channel='first',
        label_files=(
            LabelFiles(suffix='.png', holds='label_ids', ids=SYNTHIA_IDS),
            # As the converters of other projects leave them.
            LabelFiles(suffix='_labelTrainIds.png'),
        ),
        examples=('RGB/0000000.png', 'GT/LABELS/0000000.png'),
        size=(1280, 760),
        role='source',
        licence='CC BY-NC-SA 3.0',
    )


@DATASETS.register_module()
class UrbanSynDataset(DrivingDataset):
    """UrbanSyn: 7,539 rendered images, 2048x1024.

    Layout: ``rgb/rgb_0001.png`` and ``ss/rgb_0001_labelTrainIds.png``, which
    ``tools/prepare_dataset.py urbansyn`` makes: the published labels are
    named ``ss/ss_0001.png``.

    Source: Gómez et al., "All for One, and One for All: UrbanSyn Dataset,
    the Third Musketeer of Synthetic Driving Scenes", 2023.
    """

    FACTS = SetFacts(
        name='urbansyn',
        title='UrbanSyn',
        images=dict(train=7539),
        img_path='rgb',
        seg_map_path='ss',
        below='rgb_{file}',
        seg_map_suffix='_labelTrainIds.png',
        split='train',
        image_files=(r'rgb/rgb_(?P<file>\d+)\.png',),
        label_files=(
            # 19 is "unlabelled".
            LabelFiles(
                pattern=r'ss/ss_(?P<file>\d+)\.png',
                ids=TRAIN_IDS.and_ignored(19),
            ),
        ),
        examples=('rgb/rgb_0001.png', 'ss/ss_0001.png'),
        size=(2048, 1024),
        role='source, target',
        download='images 21 GB, labels 0.4 GB',
    )


@DATASETS.register_module()
class CityscapesDGDataset(DrivingDataset):
    """Cityscapes: 2,975 training and 500 validation images, 2048x1024.

    Layout: ``leftImg8bit/{split}/{city}/*_leftImg8bit.png`` and
    ``gtFine/{split}/{city}/*_gtFine_labelTrainIds.png``. The label files are
    made from the published ones by ``tools/prepare_dataset.py``.

    Source: Cordts et al., "The Cityscapes Dataset", CVPR 2016.
    """

    FACTS = SetFacts(
        name='cityscapes',
        title='Cityscapes',
        images=dict(train=2975, val=500, test=1525),
        img_path='leftImg8bit/{split}',
        seg_map_path='gtFine/{split}',
        below='{city}/{file}',
        img_suffix='_leftImg8bit.png',
        seg_map_suffix='_gtFine_labelTrainIds.png',
        split='val',
        unlabelled=('test',),
        label_files=(
            LabelFiles(
                suffix='_gtFine_polygons.json',
                holds='polygons',
            ),
            # The same labels, without the package that draws polygons.
            LabelFiles(
                suffix='_gtFine_labelIds.png',
                holds='label_ids',
                ids=CITYSCAPES_IDS,
            ),
            # Written by an earlier run. The last, so that labels prepared in
            # place are made from the same files in every run.
            LabelFiles(suffix='_gtFine_labelTrainIds.png'),
        ),
        examples=(
            'leftImg8bit/val/munster/munster_000000_000019_leftImg8bit.png',
            'gtFine/val/munster/munster_000000_000019_gtFine_polygons.json',
        ),
        size=(2048, 1024),
        role='source, target',
        download='images 11 GB, labels 241 MB',
        licence='its own, after registration',
    )

    def missing_hint(self, missing: list[dict]) -> str:
        """Advise to make train-id labels if only the published ones exist."""
        path = missing[0]['seg_map_path']
        published = path.replace('_labelTrainIds.png', '_labelIds.png')
        if path == published or not fileio.exists(
            published, backend_args=self.backend_args
        ):
            return ''
        return (
            f'\nThere is {published}: that folder has the published label ids '
            'only. Make the train-id files once: clouds prepare '
            f'cityscapes --src {self.data_root} --out {self.data_root}'
        )


@DATASETS.register_module()
class BDD100KDGDataset(DrivingDataset):
    """BDD100K, the 10k images: 7,000 training and 1,000 validation, 1280x720.

    Layout: ``images/10k/{split}/*.jpg`` and
    ``labels/sem_seg/masks/{split}/*.png``, which hold train ids.

    Source: Yu et al., "BDD100K", CVPR 2020.
    """

    FACTS = SetFacts(
        name='bdd100k',
        title='BDD100K, semantic segmentation',
        images=dict(train=7000, val=1000, test=2000),
        img_path='images/10k/{split}',
        seg_map_path='labels/sem_seg/masks/{split}',
        img_suffix='.jpg',
        split='val',
        unlabelled=('test',),
        compared_at_input_size=True,
        image_files=(
            r'10k/{split}/{file}\.jpg',
            # The layout of the first release.
            r'seg/images/{split}/{file}\.jpg',
        ),
        label_files=(
            LabelFiles(
                pattern=r'sem_seg/masks/(?P<split>train|val)/{file}\.png'
            ),
            LabelFiles(
                pattern=r'seg/labels/(?P<split>train|val)/'
                r'{file}_train_id\.png'
            ),
        ),
        examples=(
            'images/10k/val/7d06fefd-f7be05a6.jpg',
            'labels/sem_seg/masks/val/7d06fefd-f7be05a6.png',
        ),
        size=(1280, 720),
        download='images 1.1 GB, labels 419 MB',
        licence='its own, after registration',
    )


@DATASETS.register_module()
class MapillaryDGDataset(DrivingDataset):
    """Mapillary Vistas 1.2: 18,000 training, 2,000 validation images.

    Layout: ``{split}/images/*.jpg`` and ``{split}/labels/*.png``, palette
    PNGs of 66 classes as published; splits ``training`` and ``validation``.
    Sizes vary. A download of version 2.0 keeps these labels in
    ``{split}/v1.2/labels``: prepare it, or set ``data_prefix``.

    Source: Neuhold et al., "The Mapillary Vistas Dataset", ICCV 2017.
    """

    # The kinds of labels depend on --label-version, their ids on the
    # download's config: see the preparation.
    FACTS = SetFacts(
        name='mapillary',
        title='Mapillary Vistas',
        images=dict(training=18000, validation=2000, testing=5000),
        img_path='{split}/images',
        seg_map_path='{split}/labels',
        img_suffix='.jpg',
        split='validation',
        unlabelled=('testing',),
        ids=VISTAS_IDS,
        compared_at_input_size=True,
        other_labels='{split}/v1.2/labels',
        examples=(
            'validation/images/_1Gn_xkw7sa_i9GU4mkxxQ.jpg',
            'validation/labels/_1Gn_xkw7sa_i9GU4mkxxQ.png (version 1.2)',
            'validation/v1.2/labels/_1Gn_xkw7sa_i9GU4mkxxQ.png (version 2.0)',
            'config_v1.2.json',
        ),
        licence='CC BY-NC-SA (research edition)',
        remark='sizes vary',
    )


@DATASETS.register_module()
class ACDCDataset(DrivingDataset):
    """One adverse condition of ACDC: 400 training images, about 100 to test.

    The validation sets have 100 (fog), 106 (night), 100 (rain) and 100 (snow)
    images of 1920x1080. Each condition is a domain of its own, named
    ``acdc_<condition>`` unless ``domain`` says otherwise.

    Layout: ``rgb_anon/{condition}/{split}/{sequence}/*_rgb_anon.png`` and
    ``gt/{condition}/{split}/{sequence}/*_gt_labelTrainIds.png``.

    Args:
        condition: fog, night, rain or snow.
        **kwargs: See :class:`DGDataset`.

    Source: Sakaridis et al., "ACDC", ICCV 2021.
    """

    FACTS = SetFacts(
        name='acdc',
        title='ACDC',
        conditions=dict(
            fog=dict(train=400, val=100, test=500),
            night=dict(train=400, val=106, test=500),
            rain=dict(train=400, val=100, test=500),
            snow=dict(train=400, val=100, test=500),
        ),
        img_path='rgb_anon/{condition}/{split}',
        seg_map_path='gt/{condition}/{split}',
        below='{sequence}/{file}',
        img_suffix='_rgb_anon.png',
        seg_map_suffix='_gt_labelTrainIds.png',
        split='val',
        unlabelled=('test',),
        compared_at_input_size=True,
        label_files=_train_ids_or_label_ids('_gt'),
        examples=(
            'rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000761_rgb_anon.png',
            'gt/fog/val/GOPR0476/GOPR0476_frame_000761_gt_labelTrainIds.png',
        ),
        size=(1920, 1080),
        licence='its own, after registration',
    )

    def __init__(
        self, *, condition: str, domain: str | None = None, **kwargs: Any
    ):
        if condition not in CONDITIONS:
            raise UserError(
                f'condition={condition!r} is not one of ACDC: '
                + ', '.join(CONDITIONS)
            )
        self.condition = condition
        super().__init__(domain=domain or f'acdc_{condition}', **kwargs)

    def layout_fields(self) -> dict[str, str | None]:
        """Return the values of the placeholders in ``PREFIX``."""
        return dict(split=self.split, condition=self.condition)


@DATASETS.register_module()
class DarkZurichDGDataset(DrivingDataset):
    """Dark Zurich: 50 labelled images at night, 1920x1080.

    Layout: ``rgb_anon/{split}/night/{sequence}/*_rgb_anon.png`` and
    ``gt/{split}/night/{sequence}/*_gt_labelTrainIds.png``. The labels of the
    test split are not published.

    Source: Sakaridis et al., "Guided Curriculum Model Adaptation and
    Uncertainty-Aware Evaluation for Semantic Nighttime Image Segmentation",
    ICCV 2019.
    """

    FACTS = SetFacts(
        name='dark_zurich',
        title='Dark Zurich, validation',
        images=dict(val=50),
        img_path='rgb_anon/{split}/night',
        seg_map_path='gt/{split}/night',
        below='{sequence}/{file}',
        img_suffix='_rgb_anon.png',
        seg_map_suffix='_gt_labelTrainIds.png',
        split='val',
        label_files=_train_ids_or_label_ids('_gt'),
        examples=(
            'rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png',
            'gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png',
        ),
        size=(1920, 1080),
        licence='in its `LICENSE.txt`',
    )


@DATASETS.register_module()
class NighttimeDrivingDataset(DrivingDataset):
    """Nighttime Driving: 50 labelled images at night, 1920x1080.

    Layout: ``leftImg8bit/test/night/*_leftImg8bit.png`` and
    ``gtCoarse_daytime_trainvaltest/test/night/*_gtCoarse_labelTrainIds.png``.

    Source: Dai and Van Gool, "Dark Model Adaptation", ITSC 2018.
    """

    FACTS = SetFacts(
        name='nighttime_driving',
        title='Nighttime Driving, test',
        images=dict(test=50),
        img_path='leftImg8bit/{split}/night',
        seg_map_path='gtCoarse_daytime_trainvaltest/{split}/night',
        img_suffix='_leftImg8bit.png',
        seg_map_suffix='_gtCoarse_labelTrainIds.png',
        split='test',
        label_files=_train_ids_or_label_ids('_gtCoarse'),
        examples=(
            'leftImg8bit/test/night/0_1_leftImg8bit.png',
            'gtCoarse_daytime_trainvaltest/test/night/'
            '0_1_gtCoarse_labelTrainIds.png',
        ),
        size=(1920, 1080),
    )


@DATASETS.register_module()
class FoggyZurichDataset(DrivingDataset):
    """Foggy Zurich: the 40 labelled images of 3,808, in dense fog.

    Layout: ``testv2/RGB/{sequence}/*.png`` and
    ``testv2/gt/{sequence}/*_labelTrainIds.png``, which
    ``tools/prepare_dataset.py foggy_zurich`` makes: the published folders
    mix labelled and unlabelled images.

    Source: Sakaridis et al., "Model Adaptation with Synthetic and Real Data
    for Semantic Dense Foggy Scene Understanding", ECCV 2018.
    """

    FACTS = SetFacts(
        name='foggy_zurich',
        title='Foggy Zurich, testv2',
        images=dict(testv2=40),
        img_path='{split}/RGB',
        seg_map_path='{split}/gt',
        below='{sequence}/{file}',
        seg_map_suffix='_labelTrainIds.png',
        split='testv2',
        image_files=(r'RGB/{sequence}/{file}\.png',),
        label_files=(
            LabelFiles(pattern=r'gt_labelTrainIds/{sequence}/{file}\.png'),
            LabelFiles(
                pattern=r'gt_labelIds/{sequence}/{file}\.png',
                holds='label_ids',
                ids=CITYSCAPES_IDS,
            ),
        ),
        labelled_only=True,
        examples=(
            'RGB/GP010229/1508040913.0_frame_000955.png',
            'gt_labelTrainIds/GP010229/1508040913.0_frame_000955.png',
        ),
        licence='non-commercial',
        remark='those with labels of 3,808',
    )


@DATASETS.register_module()
class WildDash2Dataset(DrivingDataset):
    """WildDash 2, the public part: 4,256 images of traffic everywhere.

    Layout: ``images/*.jpg`` and ``labels/*.png`` as in ``wd_public_02.zip``.
    The newer ``wd_public_v2p0.zip`` has panoptic labels, which
    ``tools/prepare_dataset.py wilddash2`` converts.

    Source: Zendel et al., "Unifying Panoptic Segmentation for Autonomous
    Driving", CVPR 2022; the classes by its authors' label policy
    (github.com/ozendelait/wilddash_scripts, wd2_unified_label_policy.json).
    """

    FACTS = SetFacts(
        name='wilddash2',
        title='WildDash 2, public part',
        images=dict(public=4256),
        img_suffix='.jpg',
        ids=WILDDASH2_IDS,
        examples=(
            'images/ar0000_100000.jpg',
            'panoptic/ar0000_100000.png and panoptic.json '
            '(wd_public_v2p0.zip)',
            'labels/ar0000_100000.png (wd_public_02.zip)',
        ),
        licence='non-commercial, after registration',
    )


@DATASETS.register_module()
class IDDDataset(DrivingDataset):
    """IDD, India Driving Dataset: 6,993 training and 981 validation images.

    Layout: ``leftImg8bit/{split}/{sequence}/*_leftImg8bit.png`` (``.jpg`` in
    IDD 20k II) and ``gtFine/{split}/{sequence}/*_gtFine_labelcsTrainIds.png``,
    which the makers' ``createLabels.py --id-type csTrainId`` writes, or
    prepared by ``tools/prepare_dataset.py idd``. Classes without a counterpart
    in Cityscapes, such as autorickshaws, are not evaluated; "non-drivable
    fallback" counts as terrain.

    Source: Varma et al., "IDD: A Dataset for Exploring Problems of Autonomous
    Navigation in Unconstrained Environments", WACV 2019; classes and layout
    by its authors (github.com/AutoNUE/public-code, helpers/anue_labels.py);
    numbers of images by the file lists of MSeg
    (github.com/mseg-dataset/mseg-api).
    """

    FACTS = SetFacts(
        name='idd',
        title='India Driving Dataset',
        images=dict(train=6993, val=981, test=None),
        img_path='leftImg8bit/{split}',
        seg_map_path='gtFine/{split}',
        below='{sequence}/{file}',
        img_suffix=('_leftImg8bit.png', '_leftImg8bit.jpg'),
        seg_map_suffix='_gtFine_labelcsTrainIds.png',
        split='val',
        unlabelled=('test',),
        label_files=(
            LabelFiles(
                suffix='_gtFine_polygons.json', holds='polygons', ids=IDD_IDS
            ),
            # As the makers' tool writes them.
            LabelFiles(
                suffix='_gtFine_labelids.png', holds='label_ids', ids=IDD_IDS
            ),
            LabelFiles(suffix='_gtFine_labelcsTrainIds.png'),
        ),
        examples=(
            'leftImg8bit/val/119/903127_leftImg8bit.png',
            'gtFine/val/119/903127_gtFine_polygons.json',
        ),
        licence='unknown, after registration',
        remark='sizes vary',
    )


# All sets that can be prepared and verified by name.
SETS: dict[str, type[DrivingDataset]] = {
    kind.FACTS.name: kind for kind in DrivingDataset.__subclasses__()
}
