"""The commands that the campaign disturbs, and what their results are."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

# The runs of seconds that the tests have; see tools/faults.py.
from self_training_run import write_bank, write_self_training
from tiny_run import write_data, write_images
from tiny_video import write_video

from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.shared_work import WORK_FOLDER

_CACHED = """
_base_ = './self_training.py'
train_cfg = dict(warmup_iters=2, max_iters=6, val_interval=6)
custom_hooks = [
    dict(type='EMATeacherHook', interval=1),
    dict(
        type='SAMRefineHook',
        refiner=dict(
            type='PromptableRefiner',
            weights={sam!r},
            min_area=40,
            points_per_component=2,
            cache_dir={cache!r},
        ),
        picture_interval=None,
    ),
]
"""
# In the words of a command: how many worker processes it has.
WORKERS = '{workers}'
# Of the folder of a run's log, which each run has for itself.
_LOG_FOLDER = re.compile(r'\d{8}_\d{6}(_\d+)?')
# Of a killed process: see clouds_mmseg/utils/atomic.py.
_UNFINISHED = re.compile(r'\..+-[a-z0-9_]{8}(\.\w+)?')
# What differs from run to run.
_VARYING = ('date', 'when', 'seconds', 'command', 'commit')
_DATED = ('results.json', 'images.json', 'clouds_verify.json')
_TIMES = ('time', 'data_time', 'memory', 'eta')


# Both stages, with a checkpoint of each iteration.
_BRIEF = (
    *('train_cfg.warmup_iters=2', 'train_cfg.max_iters=6'),
    'train_cfg.val_interval=6',
)
# What it trains.
MODEL = 'iter_6.pth'


@dataclass(frozen=True)
class Command:
    """A command with its result.

    Attributes:
        arguments: Folder of the inputs and output folder -> words of
            ``clouds``, among them ``WORKERS``.
        title: For the table.
        optional: Suffixes of files that a full disk may cost without a word
            that fails the command.
        least_workers: Worker processes if not more are asked for.
        setup: Copies what the command changes into the output folder.
    """

    arguments: Callable[[Path, Path], list]
    title: str
    optional: tuple[str, ...] = ()
    least_workers: int = 1
    setup: Callable[[Path, Path], None] | None = None

    def words(self, inputs: Path, out: Path, workers: int) -> list[str]:
        """Return the words after ``clouds``.

        Args:
            inputs: Folder of the inputs.
            out: Output folder.
            workers: Number of worker processes: of a training's loader, 0
                for none; else at least 1.
        """
        return [
            str(word).replace(WORKERS, str(workers))
            for word in self.arguments(inputs, out)
        ]


def _write_sam(inputs, out):
    """Write the model of the refiner, once."""
    if not (inputs / 'sam').is_dir():
        # Imported here: it needs transformers, whose import takes seconds.
        from tiny_promptable import write_model

        write_model(inputs / 'sam.part', 'sam')
        (inputs / 'sam.part').rename(inputs / 'sam')


def _copy_bank(inputs, out):
    shutil.copytree(inputs / 'restyled', out)


COMMANDS = dict(
    train=Command(
        lambda inputs, out: [
            *('train', inputs / 'self_training.py'),
            *('--work-dir', out, '--resume', '--cfg-options', *_BRIEF),
            f'train_dataloader.num_workers={WORKERS}',
        ],
        'self-training',
        least_workers=0,
    ),
    cache=Command(
        lambda inputs, out: [
            *('train', inputs / 'cached.py'),
            *('--work-dir', out / 'work', '--resume'),
        ],
        'self-training with SAM and its cache',
        setup=_write_sam,
        optional=('.arr',),
    ),
    generate=Command(
        lambda inputs, out: [
            *('generate', '--prompts', inputs / 'prompts.txt', '--num', 12),
            *('--size', '64x32', '--keep-labels', '--out', out),
        ],
        'generation (ToyCity)',
    ),
    filter=Command(
        lambda inputs, out: [
            *('filter', out, '--checkpoint', inputs / 'model.pth'),
            *('--labels', inputs / 'pictures_and_labels/labels'),
            *('--workers', WORKERS),
        ],
        'filter of generated images',
        setup=_copy_bank,
    ),
    predict=Command(
        lambda inputs, out: [
            *('predict', inputs / 'model.pth', inputs / 'pictures'),
            *(inputs / 'film.mp4', '--out', out),
            *('--save', 'labels', 'overlay', 'rle'),
        ],
        'prediction of images and a video',
    ),
    publish=Command(
        lambda inputs, out: [
            *('publish', inputs / 'model.pth', out / 'model.safetensors'),
        ],
        'publishing a file',
    ),
    publish_folder=Command(
        lambda inputs, out: [
            *('publish', inputs / 'model.pth', out / 'tiny', '--overwrite'),
            *('--license', 'apache-2.0'),
        ],
        'publishing a folder',
    ),
    toycity=Command(
        lambda inputs, out: [
            *('toycity', out, '--size', 64, 32, '--num-source', 3),
            *('--num-source-val', 1, '--num-target', 1, '--workers', WORKERS),
        ],
        'rendering ToyCity',
    ),
    corrupt=Command(
        lambda inputs, out: [
            *('corrupt', inputs / 'pictures', out, '--workers', WORKERS),
            *('--corruptions', 'gaussian_noise', 'fog'),
            *('--severities', 1, 3),
        ],
        'corrupting images',
    ),
    verify=Command(
        lambda inputs, out: [
            *('verify', '--config', inputs / 'tiny.py'),
            *('--report-dir', out, '--workers', WORKERS),
        ],
        'verification of a data set',
    ),
)
SHARED = '_shared'
# Those whose work any number of processes share.
COMMANDS |= {
    name + SHARED: replace(
        COMMANDS[name],
        arguments=lambda inputs, out, name=name: [
            *COMMANDS[name].arguments(inputs, out),
            *('--shared', '--lease', 1),
        ],
        title=f'{COMMANDS[name].title}, shared',
    )
    for name in ('generate', 'filter', 'predict', 'corrupt', 'verify')
}


def write_inputs(folder: Path, out: Path) -> None:
    """Write what the commands read, but the model that ``train`` trains.

    Args:
        folder: For the inputs.
        out: Output folder of every command, which a config names.
    """
    folder.mkdir(parents=True)
    data = write_data(folder / 'data')
    bank = write_bank(folder)
    write_self_training(folder, data, bank)
    (folder / 'cached.py').write_text(
        _CACHED.format(sam=str(folder / 'sam'), cache=str(out / 'cache'))
    )
    write_images(folder / 'pictures_and_labels', 5, 3)
    (folder / 'pictures_and_labels/images').rename(folder / 'pictures')
    generate_images(
        folder / 'restyled',
        source=folder / 'pictures',
        mode='img2img',
        backend='photometric',
        num=5,
        contact_sheet=False,
    )
    write_video(folder / 'film.mp4', range(4))


def is_unfinished(path: Path) -> bool:
    """Tell whether a name is that of a file that was not finished."""
    return _UNFINISHED.fullmatch(path.name) is not None


def read_result(root: Path) -> dict[str, str]:
    """Read what a command has written, without what differs by run.

    Args:
        root: Its output folder.

    Returns:
        Path -> hash of the content. Logs are left out, and what processes
        that share work tell one another, and of checkpoints, results and
        image sets what says when and where they were made.
    """
    result = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(
            name
            for name in folders
            if not _LOG_FOLDER.fullmatch(name) and name != WORK_FOLDER
        )
        for name in names:
            path = Path(folder, name)
            if name.startswith('.nfs'):
                continue
            result[str(path.relative_to(root))] = hash_content(path)
    return result


def unfinished(root: Path) -> list[str]:
    """List what killed processes have left, logs included."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob('*')
        if is_unfinished(path)
    )


def hash_content(path: Path) -> str:
    """Hash what does not differ from run to run in a file."""
    digest = hashlib.sha256()
    if path.suffix == '.pth':
        _update(digest, _checkpoint(path))
    elif path.name in _DATED:
        content = json.loads(path.read_text())
        digest.update(json.dumps(_without(content, _VARYING)).encode())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _without(content, keys):
    if isinstance(content, list):
        return [_without(one, keys) for one in content]
    if not isinstance(content, dict):
        return content
    return {k: _without(v, keys) for k, v in content.items() if k not in keys}


def _checkpoint(path):
    """Return what a run continues from."""
    content = torch.load(path, map_location='cpu', weights_only=False)
    hub = content.pop('message_hub', None) or {}
    meta = content.pop('meta', {})
    content['iter'] = meta.get('iter')
    content['scalars'] = {
        name: (buffer._log_history, buffer._count_history)
        for name, buffer in hub.get('log_scalars', {}).items()
        if name.rpartition('/')[2] not in _TIMES
    }
    return content


def _update(digest, value):
    """Add nested containers and tensors to a hash."""
    if isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            _update(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for one in value:
            _update(digest, one)
    elif hasattr(value, 'numpy') or hasattr(value, 'tobytes'):
        array = value.numpy() if hasattr(value, 'numpy') else value
        digest.update(array.tobytes())
    else:
        digest.update(repr(value).encode())
