"""Dataset settings shared by training, validation and test.

::

    dataset_options = dict(camvid_day=dict(data_root='/disk/camvid'))

or ``--cfg-options dataset_options.camvid_day.data_root=/disk/camvid``, sets
them in every dataset of that domain. A variable of the config file would not
do: mmengine substitutes ``{{_base_.data_root_x}}`` when it reads the file,
and changing ``data_root_x`` afterwards has no effect.
"""

import inspect
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import near_names

KEY = 'dataset_options'
_SPLITS = ('train', 'val', 'test')
_ALL = 'all'
# Options that determine which files are read: two datasets of one domain that
# differ in them would become identical.
_FILE_OPTIONS = (
    'data_root',
    'data_prefix',
    'ann_file',
    'bank',
    'split',
    'part',
    'part_seed',
)


def apply_dataset_options(cfg: Config) -> None:
    """Apply and remove ``dataset_options`` of a config.

    Its keys are domains, ``all``, or ``train``, ``val`` and ``test`` with
    domains (or ``all``) inside; later ones of this list win.

    Args:
        cfg: Changed in place.

    Raises:
        UserError: An entry names no dataset of the config or an unknown
            option, or would give the same files to different datasets of a
            domain.
    """
    options = cfg.get(KEY)
    if options is None:
        return
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if not isinstance(options, dict):
        raise UserError(
            f'{KEY}={options!r} is no table domain -> options, such as '
            "dict(gta5=dict(data_root='/disk/gta5'))"
        )
    leaves = {split: _leaves(cfg, split) for split in _SPLITS}
    domains = dict.fromkeys(
        domain for found in leaves.values() for domain, _ in found
    )
    general = {k: v for k, v in options.items() if k not in _SPLITS}
    entries = [(_SPLITS, name, general[name]) for name in general]
    for split in _SPLITS:
        inner = options.get(split) or {}
        _require_table(inner, f'{KEY}.{split}')
        entries += [((split,), name, inner[name]) for name in inner]
    # 'all' first, then domains, then those of a split.
    entries.sort(key=lambda e: (len(e[0]) == 1, e[1] != _ALL))
    for splits, name, values in entries:
        where = KEY if len(splits) > 1 else f'{KEY}.{splits[0]}'
        _require_table(values, f'{where}.{name}')
        selected = [
            leaf
            for split in splits
            for domain, leaf in leaves[split]
            if name in (_ALL, domain)
        ]
        if not selected:
            raise UserError(
                f'{where}.{name} is the domain of no dataset of the config'
                + near_names([name], domains)
            )
        _require_options(selected, values, f'{where}.{name}')
        if name != _ALL:
            _refuse_merged_files(selected, values, f'{where}.{name}')
        for leaf in selected:
            for bank in cfg.get('banks') or []:
                if 'bank' in values and bank.get('out') == leaf.get('bank'):
                    bank['out'] = values['bank']
            leaf.merge(ConfigDict(values))
    cfg.pop(KEY)


def _require_table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(
            f'{where}={value!r} is no table option -> value, such as '
            f"{where}.data_root='/disk/data'"
        )


def _leaves(cfg: Config, split: str) -> list[tuple[str, ConfigDict]]:
    """Return domain and config of each dataset of a loader."""
    loader = cfg.get(f'{split}_dataloader') or {}
    roots = [loader.get('dataset')]
    if split == 'train':
        # PseudoLabelAccuracyHook has a dataset of its own.
        roots += [h.get('dataset') for h in cfg.get('custom_hooks') or []]
    return [
        (_domain(leaf), leaf)
        for root in roots
        if isinstance(root, dict)
        for leaf in _walk(root)
    ]


def _walk(dataset: ConfigDict):
    inner = [*(dataset.get('datasets') or []), dataset.get('dataset')]
    for child in inner:
        if child is not None:
            yield from _walk(child)
    if not any(inner):
        yield dataset


def _domain(leaf: ConfigDict) -> str:
    """Return the domain of a dataset without building it."""
    if leaf.get('domain'):
        return leaf['domain']
    kind = DATASETS.get(leaf['type'])
    if leaf.get('condition') and kind is not None:
        return f'acdc_{leaf["condition"]}'
    return getattr(kind, 'DOMAIN', None) or leaf['type']


def _known_options(kind: type) -> set[str]:
    """Return constructor arguments of a class, including its bases'."""
    known = set()
    for base in kind.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        known |= {
            p.name
            for p in parameters
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known - {'self'}


def _require_options(leaves: list, values: dict, where: str) -> None:
    for leaf in leaves:
        kind = DATASETS.get(leaf['type'])
        if kind is None:
            continue
        known = _known_options(kind)
        unknown = [name for name in values if name not in known]
        if unknown:
            raise UserError(
                f'{where}.{unknown[0]} is no option of {leaf["type"]}'
                + near_names(unknown[:1], sorted(known))
            )


def _refuse_merged_files(leaves: list, values: dict, where: str) -> None:
    for option in _FILE_OPTIONS:
        if option not in values:
            continue
        found = {repr(leaf.get(option)) for leaf in leaves}
        if len(found) > 1:
            raise UserError(
                f'{where}.{option} would be given to datasets that have '
                f'different ones ({", ".join(sorted(found))}), and they '
                'would become the same; say which with '
                + ', '.join(
                    f'{KEY}.{split}.{where.rpartition(".")[2]}.{option}'
                    for split in _SPLITS
                )
            )


def warn_of_test_left_behind(cfg: Config, changed: dict) -> str | None:
    """Warn about overrides that change validation but not test.

    Nearly every config has ``test_dataloader = val_dataloader``, a copy: a
    change of one does not affect the other.

    Args:
        cfg: With the overrides applied.
        changed: The overrides: dotted key -> value.

    Returns:
        The warning, or None if there is no reason for one.
    """
    for mine, other, part in (
        ('val_dataloader', 'test_dataloader', '.dataset.'),
        ('val_evaluator', 'test_evaluator', '.'),
    ):
        touched = [key for key in changed if key.startswith(mine + part)]
        both = any(key.startswith(other) for key in changed)
        if touched and not both and cfg.get(other):
            return (
                f'{touched[0]} changes {mine} alone: clouds test uses '
                f'{other}, which stays as it was. Give both, or set datasets '
                f'in one place: {KEY}.DOMAIN.OPTION=VALUE'
            )
    return None
