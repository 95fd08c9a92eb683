"""Folders of models as transformers saves them: location, hash, memory."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_file, hash_text
from clouds_mmseg.utils.text_files import inner_path, parse_json
from clouds_mmseg.weights.locate import (
    find_or_fetch_from_hub,
    find_pretrained,
    in_repository,
)

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_IMAGE_PROCESSOR = ('preprocessor_config.json', 'processor_config.json')
# Each entry: names of one file, of which the model has one.
PARTS = ((CONFIG,), (WEIGHTS, _INDEX), _IMAGE_PROCESSOR)
_REPOSITORY = re.compile(r'[\w.-]+/[\w.-]+(?:@[\w./-]+)?')
# What a model computes depends on these files.
_HASHED = {'.json', '.txt', '.safetensors'}
_MEMINFO = Path('/proc/meminfo')
_GROUP = Path('/sys/fs/cgroup')
_GIB = 1 << 30


def find_model_folder(
    name: str | Path | None,
    what: str,
    parts: Sequence[Sequence[str]] = PARTS,
    *,
    fetch: bool = True,
) -> Path:
    """Return the local folder of a model, downloaded if necessary.

    Args:
        name: A folder that ``save_pretrained`` wrote; or an id on the
            Hugging Face hub, ``owner/name`` or ``owner/name@revision``,
            which is looked up in the pretrained folder and the hub's cache
            first.
        what: The argument that names it, for the messages.
        parts: The needed files, each by the names that it may have.
        fetch: False never downloads.

    Raises:
        UserError: It is no such folder, and no id; or the folder lacks a
            file.
        MissingWeightsError: It is not here and cannot be fetched, for
            instance because access to it has to be asked for.
    """
    if not name:
        raise UserError(
            f'{what} must be the folder of a model, or its id on the Hugging '
            f'Face hub (owner/name), got {name!r}'
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path, what, parts)
    if path.is_file():
        raise UserError(
            f'{what}={name} is a file. Give the folder that save_pretrained '
            f'wrote, which holds {CONFIG}'
        )
    if not _REPOSITORY.fullmatch(str(name)):
        raise UserError(
            f'{what}={name}: there is no such folder, and it is no id on the '
            'Hugging Face hub (owner/name) either'
        )
    repository = str(name).partition('@')[0]
    found = find_pretrained(in_repository(repository, [CONFIG]))
    if found is not None:
        return _checked(found.parent, what, parts)
    for names in parts:
        found = find_or_fetch_from_hub(
            str(name),
            names,
            f'{what}={name}',
            instead='name its folder',
            fetch=fetch,
        )
        if found.name == _INDEX:
            for shard in _shards(found):
                find_or_fetch_from_hub(
                    str(name), [shard], f'{what}={name}', fetch=fetch
                )
    assert found is not None  # There is at least one part.
    # A commit of the repository is one folder.
    return _checked(found.parent, what, parts)


def _checked(folder, what, parts):
    """Return the folder if it has all parts."""
    absent = [
        ' or '.join(names)
        for names in parts
        if not any((folder / name).is_file() for name in names)
    ]
    if not absent and not (folder / WEIGHTS).is_file():
        if (folder / _INDEX).is_file():
            absent = [
                name
                for name in _shards(folder / _INDEX)
                if not (folder / name).is_file()
            ]
    if absent:
        raise UserError(
            f'{what}: the folder {folder} lacks {", ".join(absent)}. Give a '
            "folder with all files of the model, in transformers' layout"
        )
    return folder


def _shards(index):
    """Return the files that an index of weights names."""
    try:
        files = set(parse_json(index.read_text())['weight_map'].values())
        return sorted(map(inner_path, files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{index} is no index of weights ({error}); download it again'
        ) from error


def hash_folder(folder: Path) -> str:
    """Hash the configs and weights of a model.

    Args:
        folder: Of :func:`find_model_folder`.

    Returns:
        32 hexadecimal digits; the same for a moved or copied folder.
    """
    files = [p for p in folder.iterdir() if p.suffix in _HASHED]
    return hash_text(
        *(f'{path.name} {hash_file(path)}' for path in sorted(files))
    )


def check_memory(needed: int, what: str, device: torch.device) -> None:
    """Refuse weights that do not fit the free memory of a device.

    Args:
        needed: Bytes.
        what: Whose weights, for the message.
        device: CPU or CUDA; of others the free memory is not known.

    Raises:
        UserError: There is less; the message says both numbers.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise UserError(
            f'{what}: its weights alone take {needed / _GIB:.1f} GiB, and '
            f'{device} has {free / _GIB:.1f} GiB free. Free some, or take a '
            'smaller model'
        )


def free_memory(device: torch.device | None = None) -> int | None:
    """Return the free bytes of a device; None if they are not known.

    Args:
        device: CUDA; or CPU, the default: memory of the machine, or of the
            container that the process runs in.
    """
    if device is not None and device.type == 'cuda':
        # What torch has reserved and does not use is free as well.
        reserved = torch.cuda.memory_reserved(device)
        unused = reserved - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device is not None and device.type != 'cpu':
        return None
    try:
        lines = _MEMINFO.read_text().splitlines()
        kib = dict(line.split(':', 1) for line in lines)['MemAvailable']
        free = int(kib.split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((_GROUP / 'memory.max').read_text())
        used = int((_GROUP / 'memory.current').read_text())
        stat = dict(
            line.split()
            for line in (_GROUP / 'memory.stat').read_text().splitlines()
        )
        # Cached files make room for weights.
        return min(free, limit - used + int(stat.get('file', 0)))
    except (OSError, ValueError):
        # No container, or one without limit ('max').
        return free
