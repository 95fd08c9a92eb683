"""Check for missing inputs of a run, reported in one error."""

import copy
import importlib.util
import os.path as osp
import shlex
from pathlib import Path
from typing import NamedTuple

from mmengine import fileio
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.cli.config_check import hook_configs
from clouds_mmseg.datasets.driving import SETS
from clouds_mmseg.engine.self_training_runner import generation_command
from clouds_mmseg.utils.data_root import (
    DATA_ROOT_VARIABLE,
    is_file,
    is_folder,
    resolve_data_root,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import MANIFEST_FILE
from clouds_mmseg.utils.remote import file_size, is_address
from clouds_mmseg.weights.frozen_backbone import find_left_out_backbone
from clouds_mmseg.weights.io import read_metadata
from clouds_mmseg.weights.load import (
    find_last_checkpoint,
    is_remote,
)
from clouds_mmseg.weights.locate import (
    fetch_checkpoint,
    is_offline,
    weight_problems,
)
from clouds_mmseg.weights.partial import LoadOptions

# Optional package -> how to install it.
_EXTRAS = dict(
    segment_anything='pip install "clouds_mmseg[sam]"',
    mobile_sam='pip install timm '
    'git+https://github.com/ChaoningZhang/MobileSAM.git',
    diffusers='pip install "clouds_mmseg[generate]"',
    transformers='pip install "clouds_mmseg[refine]"',
    imagecorruptions='pip install "clouds_mmseg[robustness]"',
)


class Missing(NamedTuple):
    """Missing input of a run.

    Attributes:
        what: Name, path that was searched and the part that needs it.
        remedy: What to do, a command where possible; empty where ``what``
            says it.
        fetchable: The run downloads it unless offline.
    """

    what: str
    remedy: str
    fetchable: bool = False


def require_inputs(cfg: Config, phase: str) -> None:
    """Raise one error that lists all missing inputs of a run.

    Args:
        cfg: With ``work_dir``, ``load_from`` and ``resume`` as the runner gets
            them.
        phase: ``'train'`` or ``'test'``.

    Raises:
        UserError: Inputs are missing; each is listed with its remedy.
            Weights that the run can download are only logged.
    """
    found = missing_inputs(cfg, phase)
    fetched = [need for need in found if need.fetchable and not is_offline()]
    missing = [need for need in found if need not in fetched]
    if len(missing) == 1:
        raise UserError('; '.join(filter(None, missing[0][:2])))
    if missing:
        lines = [f'{len(missing)} things are missing for this run:']
        for need in missing:
            lines.append(_indented(need.what, 2))
            if need.remedy:
                lines.append(_indented(need.remedy, 4))
        if fetched:
            lines.append('and will be fetched:')
            lines += [f'  {_first_line(need.what)}' for need in fetched]
        raise UserError('\n'.join(lines))
    for need in fetched:
        print_log(f'To be fetched: {_first_line(need.what)}', logger='current')


def _indented(text, columns):
    return '\n'.join(' ' * columns + line for line in text.splitlines())


def _first_line(text):
    return text.splitlines()[0]


def missing_inputs(cfg: Config, phase: str) -> list[Missing]:
    """List the missing inputs of a run.

    Args:
        phase: ``'train'``: data of training and validation, generated image
            sets, pretrained weights, refiner, checkpoint, stores of caches.
            ``'test'``: test sets and checkpoint.

    Returns:
        Empty if nothing is known to be missing.
    """
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    splits = ('train', 'val', 'test') if phase == 'train' else ('test',)
    banks = cfg.get('banks') or [] if phase == 'train' else []
    found = _banks(banks, cfg.get('launcher', 'none'))
    named = {resolve_data_root(bank['out']) for bank in banks}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        if loader.get('dataset'):
            found += _data(loader['dataset'], split, named)
    found += _checkpoints(cfg, phase)
    if phase == 'train':
        found += _weights(cfg)
        found += _stores_of_caches(cfg)
    # One folder may serve training, validation and test.
    return list({need.remedy + need.what: need for need in found}.values())


def _banks(banks, launcher):
    """Return generated image sets that are missing and not generated here."""
    found = []
    for bank in map(dict, banks):
        out = resolve_data_root(bank.pop('out'))
        generated_here = bank.pop('make', False) and launcher == 'none'
        if fileio.isfile(osp.join(out, MANIFEST_FILE)):
            continue
        if not generated_here:
            found.append(
                Missing(
                    f'generated images: {out} is missing or unfinished',
                    generation_command(out, bank),
                )
            )
        elif bank.get('backend') == 'diffusers':
            found += _package('diffusers', 'to generate images')
    return found


def _unlisted_bank(out, banks, options=''):
    """Return an image set that the config does not say how to make."""
    out = resolve_data_root(out)
    if out in banks or fileio.isfile(osp.join(out, MANIFEST_FILE)):
        return []
    return [
        Missing(
            f'generated images: {out} is missing or unfinished, and banks of '
            'the config does not say how it is made',
            f'clouds generate --prompts FILE {options}--num N '
            f'--out {shlex.quote(out)}',
        )
    ]


def _data(dataset, split, banks):
    """Return missing folders of datasets."""
    found = []
    if dataset.get('type') == 'CorruptedDataset':
        folder = dataset.get('folder')
        if folder is None:
            found += _package('imagecorruptions', 'to corrupt images')
        elif not is_folder(folder):
            found.append(
                Missing(
                    f'corrupted images: there is no folder {folder}',
                    'clouds corrupt SOURCE ' + folder,
                )
            )
    for leaf in dataset_configs(copy.deepcopy(dataset)):
        for step in leaf.get('pipeline') or []:
            bank = step.get('bank') if isinstance(step, dict) else None
            if bank:
                restyled = '--mode img2img --source IMAGES '
                found += _unlisted_bank(bank, banks, restyled)
        if leaf.get('type') == 'GeneratedDataset':
            found += _unlisted_bank(leaf['bank'], banks)
            continue
        found += _folders(leaf, split)
    return found


def _folders(leaf, split):
    """Return the missing root of a dataset, or missing folders below it."""
    try:
        # Transforms are not needed here and may read files of their own.
        opened = DATASETS.build(dict(leaf, lazy_init=True, pipeline=[]))
    except Exception:
        # The runner builds the dataset later and reports the error.
        return []
    domain = getattr(opened, 'domain', None) or leaf['type']
    root = getattr(opened, 'data_root', None)
    folders = [
        folder
        for folder in (getattr(opened, 'data_prefix', None) or {}).values()
        if folder
    ]
    if root and not is_folder(root):
        folders = [root]
    folders = [folder for folder in folders if not is_folder(folder)]
    ann_file = getattr(opened, 'ann_file', None)
    if not folders and ann_file and not is_file(ann_file):
        return [
            Missing(
                f'{domain}: there is no file {ann_file}',
                'correct ann_file of the dataset in the config',
            )
        ]
    return [
        Missing(f'{domain}: there is no folder {folder}', _data_remedy(root))
        for folder in folders
    ]


def _data_remedy(root):
    """Return the command that prepares a dataset, or the option to find it."""
    parts = Path(root or '').parts
    if root and is_address(root):
        return 'copy the data set there, or correct the address'
    moved = f'--data-root FOLDER ({DATA_ROOT_VARIABLE}) if it lies elsewhere'
    for index, part in enumerate(parts):
        below = str(Path(*parts[: index + 1]))
        if part == 'toycity':
            return f'clouds toycity {below}; or {moved}'
        if part in SETS:
            return (
                f'clouds prepare {part} --src DOWNLOADS '
                f'--out {below}; or {moved}'
            )
    return 'correct data_root and data_prefix in the config'


def _checkpoints(cfg, phase):
    """Return missing checkpoints."""
    found = []
    for key in ('load_from', 'resume'):
        path = cfg.get(key)
        if not isinstance(path, str):
            continue
        if is_remote(path):
            try:
                fetch_checkpoint(path, key, fetch=False)
            except UserError as error:
                fetchable = getattr(error, 'fetchable', False)
                found.append(Missing(str(error), '', fetchable))
            continue
        if not osp.isfile(osp.expanduser(path)):
            found.append(
                Missing(
                    f'checkpoint: {key} names {path}, and there is no such '
                    'file',
                    'give the path of an existing checkpoint',
                )
            )
        else:
            found += _left_out_backbone(osp.expanduser(path))
    loop = cfg.get('train_cfg') or {}
    if (
        phase == 'train'
        and loop.get('type') == 'SelfTrainingLoop'
        and loop.get('warmup_iters', 0) == 0
        and not cfg.get('load_from')
        and not _resumed(cfg)
    ):
        found.append(
            Missing(
                'checkpoint: train_cfg.warmup_iters is 0, so self-training '
                'starts from a finished source-only training, and load_from '
                'names none',
                'clouds train clouds_mmseg::warmup/NAME.py, then '
                '--cfg-options load_from=work_dirs/NAME/iter_N.pth',
            )
        )
    return found


def _left_out_backbone(path):
    """Return the missing backbone of a file that was written without it."""
    if not path.endswith('.safetensors'):
        # Read with its weights, later.
        return []
    try:
        backbone = find_left_out_backbone(read_metadata(path), path)
    except UserError as error:
        return [Missing(str(error), '')]
    return _named_weights(backbone or {}, f'the backbone of {path}')


def _resumed(cfg):
    """Return the checkpoint that a run resumes, if any."""
    resume = cfg.get('resume')
    if isinstance(resume, str):
        return resume
    return find_last_checkpoint(cfg.work_dir) if resume else None


def _weights(cfg):
    """Return missing pretrained weights and packages of model and refiner."""
    found = []
    overwritten = _resumed(cfg) or (
        cfg.get('load_from')
        and LoadOptions.of(cfg.get('load_cfg')).fills('backbone')
    )
    if not overwritten:
        found += _named_weights(cfg.get('model') or {}, 'model')
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        refiner = hook.get('refiner') or {}
        found += _refiner_package(refiner)
        found += _named_weights(refiner, f'custom_hooks[{index}].refiner')
    return found


def _stores_of_caches(cfg):
    """Return addresses of caches that cannot be read."""
    found = []
    for hook in hook_configs(cfg):
        refiner = hook.get('refiner') or {}
        for address in (
            resolve_data_root(hook.get('cache_dir')),
            refiner.get('cache_dir'),
        ):
            if address and is_address(address):
                try:
                    file_size(address)
                except UserError as error:
                    found.append(Missing(f'cache_dir={error}', ''))
    return found


def _refiner_package(refiner):
    """Return the optional package of a refiner if it is not installed."""
    kind = refiner.get('type')
    if kind in ('SAMRefiner', 'MajorityVoteRefiner') and (
        refiner.get('variant')
    ):
        tiny = refiner['variant'] == 'vit_t'
        name = 'mobile_sam' if tiny else 'segment_anything'
    elif kind in ('PromptableRefiner', 'ConceptRefiner') or (
        kind == 'MajorityVoteRefiner' and refiner.get('weights')
    ):
        name = 'transformers'
    else:
        return []
    return _package(name, f'for {kind}')


def _named_weights(cfg, name):
    """Return missing pretrained weights of a part of the config."""
    return [
        Missing(f'{path}: {error}', '', getattr(error, 'fetchable', False))
        for path, error in weight_problems(cfg, name)
    ]


def _package(name, what):
    """Return an optional package if it is not installed."""
    if importlib.util.find_spec(name) is not None:
        return []
    return [Missing(f'package {name}, {what}', _EXTRAS[name])]
