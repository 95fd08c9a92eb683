"""Rules: which files of a download become which files of ``data/NAME``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from clouds_mmseg.data_tools.prepare.convert import (
    PanopticConverters,
    PolygonConverter,
    TableConverter,
    converter_of_config,
    draw_polygons,
)
from clouds_mmseg.data_tools.prepare.sources import SourceFiles
from clouds_mmseg.datasets.driving import SETS, LabelFiles, SetFacts
from clouds_mmseg.datasets.prepared import prepared_suffix, recoded
from clouds_mmseg.utils.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Mapping of one kind of source files to files of the output.

    Attributes:
        part: ``image`` or ``label``.
        pattern: Of the source files. Image and label are a pair if its named
            groups are equal; a group named ``split`` is the split.
        target: Path below the output folder, with the groups in braces.
        source: What the label files hold, for the manifest.
        convert: See :mod:`clouds_mmseg.data_tools.prepare.convert`. None: the
            file is used as it is.
    """

    part: str
    pattern: re.Pattern
    target: str
    source: str = 'train_ids'
    convert: Callable | None = None

    def target_pattern(self) -> str:
        """Return a regular expression that matches all targets."""
        # Odd parts are names in braces.
        parts = re.split(r'\{(\w+)\}', self.target)
        return ''.join(
            f'(?P<{part}>[^/]+)' if odd % 2 else re.escape(part)
            for odd, part in enumerate(parts)
        )


def recode_rules(rules: Sequence[Rule], kind: str | None) -> list[Rule]:
    """Give the targets of images the suffix of their recoded copies.

    Args:
        rules: Of a set.
        kind: See :func:`~clouds_mmseg.datasets.prepared.recoded`.

    Returns:
        The rules; those of labels are unchanged.
    """
    return [
        replace(rule, target=recoded(rule.target, kind))
        if rule.part == 'image'
        else rule
        for rule in rules
    ]


def facts_of(name: str) -> SetFacts:
    """Return what is known about a set.

    Raises:
        DataError: There is no such set.
    """
    if name not in SETS:
        raise DataError(
            f'{name!r} is none of the sets that can be prepared: '
            + ', '.join(SETS)
        )
    return SETS[name].FACTS


def rules_of(
    facts: SetFacts, files: SourceFiles, label_version: str | None
) -> tuple[Rule, ...]:
    """Return the rules of a set.

    Args:
        facts: The set.
        files: All files of the sources: some sets describe their classes in
            a file of their own.
        label_version: ``1.2`` or ``2.0`` of Mapillary Vistas. None: 1.2 if it
            is there.

    Returns:
        In the order of preference: a label is made by the first rule that has
        a file for it.

    Raises:
        DataError: The labels cannot be made of what is there.
    """
    images = [
        _rule(facts, 'image', pattern, facts.img_path, suffix)
        for pattern, suffix in facts.image_patterns
    ]
    labels = _LABELS.get(facts.name, _label_rules)(facts, files, label_version)
    return (*images, *labels)


def _rule(facts, part, pattern, folder, suffix, **kwargs):
    target = f'{folder}/{facts.below}{suffix}'
    if facts.only_split:
        target = target.replace('{split}', facts.only_split)
    return Rule(
        part=part, pattern=facts.regex(pattern), target=target, **kwargs
    )


def _label_rule(facts, pattern, source, convert):
    return _rule(
        facts,
        'label',
        pattern,
        facts.seg_map_path,
        prepared_suffix(facts.seg_map_suffix),
        source=source,
        convert=convert,
    )


def _converter(facts, kind: LabelFiles):
    if kind.holds == 'polygons':
        return PolygonConverter.of(kind.ids) if kind.ids else draw_polygons
    if kind.ids is None:
        return None
    return TableConverter.of(kind.ids, facts.label_channel)


def _label_rules(facts, files, label_version):
    return [
        _label_rule(
            facts,
            facts.label_pattern(kind),
            kind.holds,
            _converter(facts, kind),
        )
        for kind in facts.label_files
    ]


def _cityscapes_labels(facts, files, label_version):
    """Prefer the polygons; ids make the same labels without the package."""
    polygons, ids, *rest = _label_rules(facts, files, label_version)
    if find_spec('cityscapesscripts') is not None:
        return [polygons, ids, *rest]
    if files.any(polygons.pattern) and not files.any(ids.pattern):
        raise DataError(
            'the labels of Cityscapes are polygons here, which '
            'cityscapesscripts draws, and it is not installed: '
            "pip install 'clouds_mmseg[data]'"
        )
    return [ids, *rest]


_VISTAS_LABELS = {
    '1.2': r'(?P<split>training|validation)/(?:v1\.2/)?labels/{file}\.png',
    '2.0': r'(?P<split>training|validation)/v2\.0/labels/{file}\.png',
}
# The first releases call it config.json; their classes are those of 1.2.
_VISTAS_CONFIGS = {
    '1.2': ('config_v1.2.json', 'config.json'),
    '2.0': ('config_v2.0.json',),
}


def _vistas_labels(facts, files, label_version):
    """Choose the labels, and read their classes from the download's config."""
    version = label_version
    if version is None:
        # The published numbers are on 1.2; both are in a download of 2.0.
        has_1_2 = files.any(facts.regex(_VISTAS_LABELS['1.2']))
        version = '1.2' if has_1_2 else '2.0'
    pattern = _VISTAS_LABELS[version]
    config, found = None, None
    for found in _VISTAS_CONFIGS[version]:
        config = files.read(found)
        if config is not None:
            break
    if config is None and files.any(facts.regex(pattern)):
        raise DataError(
            f'there is no {_VISTAS_CONFIGS[version][0]} in --src. It lies '
            'beside training/ and validation/ in the official download and '
            'names the classes of the labels: put it there.'
        )
    convert = config and converter_of_config(config, found, version)
    return [_label_rule(facts, pattern, found, convert)]


def _wilddash2_labels(facts, files, label_version):
    """Add the panoptic labels of the newer release."""
    rules = _label_rules(facts, files, label_version)
    panoptic = files.read('panoptic.json')
    if panoptic is not None:
        convert = PanopticConverters(panoptic, 'panoptic.json')
        rules.append(
            _label_rule(facts, r'panoptic/{file}\.png', 'panoptic', convert)
        )
    return rules


# Sets whose labels depend on what else is there.
_LABELS = dict(
    cityscapes=_cityscapes_labels,
    mapillary=_vistas_labels,
    wilddash2=_wilddash2_labels,
)
