"""Local files of a generative model: folder, fingerprint, device, dtype."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.weights.locate import (
    check_hub_reachable,
    find_pretrained,
    in_repository,
    is_offline,
    missing_error,
)

if TYPE_CHECKING:
    import torch

# Files up to this many bytes are hashed whole, larger ones (weights) by size
# and both ends: training changes every weight, and hashing gigabytes takes
# longer than loading them.
_WHOLE = 1 << 22
_END = 1 << 20
_KEPT = {'.json', '.txt', '.model', '.safetensors', '.bin', '.jinja'}


def local_folder(
    model: str, marker: str, *, option: str = '--model'
) -> Path | None:
    """Return the folder of a model on this machine.

    Args:
        model: Path of a folder, or the id of a model on a hub, which is
            looked up in the pretrained folder (``--pretrained-dir``).
        marker: Name of a file that such a folder must contain.
        option: Option that names the model, for the messages.

    Returns:
        None where an id has to be downloaded from the hub.

    Raises:
        GenerationError: It is a path, but there is no such folder.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / marker).is_file():
            raise GenerationError(
                f'{option} {model} is a folder without {marker}. Give the '
                'folder that save_pretrained wrote.'
            )
        return path
    if path.is_file():
        raise GenerationError(
            f'{option} {model} is a file. Give the folder that '
            f'save_pretrained wrote (it holds {marker}).'
        )
    if model.startswith(('.', '/', '~')) or model.count('/') > 1:
        raise GenerationError(
            f'{option} {model}: there is no such folder, and it is no id of '
            'the form owner/name either'
        )
    found = find_pretrained(in_repository(model, [marker]))
    return found and found.parent


def reach_hub() -> None:
    """Raise an OSError at once if the hub does not respond.

    Where ``HF_HUB_OFFLINE`` is set, its client only uses its cache.
    """
    if not is_offline():
        check_hub_reachable()


def unreachable(model: str, marker: str, error: Exception) -> GenerationError:
    """Return the error for a model that cannot be downloaded.

    Args:
        model: Its id.
        marker: Name of a file of it.
        error: Raised by the hub's client.
    """
    missing = missing_error(
        f'--model {model}',
        in_repository(model, [marker]),
        repository=model,
        error=None if is_offline() else error,
        instead='the path of the folder as --model',
    )
    return GenerationError(str(missing))


def fingerprint(folder: Path, *, configs: bool = False) -> str:
    """Hash the files of a model; large files by size and both ends.

    Args:
        folder: Folder of the model, or its one file, whose name is ignored.
        configs: Leave weights out.

    Returns:
        16 hexadecimal digits; the same for a moved or copied folder.
    """
    sha256 = hashlib.sha256()
    kept = _KEPT - {'.safetensors', '.bin'} if configs else _KEPT
    files = [p for p in folder.rglob('*') if p.suffix in kept and p.is_file()]
    alone = folder.is_file()
    if alone:
        files, folder = [folder], folder.parent
    for path in sorted(files, key=lambda p: p.relative_to(folder).as_posix()):
        size = path.stat().st_size
        name = '' if alone else path.relative_to(folder).as_posix()
        sha256.update(f'{name}\0{size}\0'.encode())
        with open(path, 'rb') as stream:
            if size <= _WHOLE:
                sha256.update(stream.read())
            else:
                sha256.update(stream.read(_END))
                stream.seek(-_END, 2)
                sha256.update(stream.read())
    return sha256.hexdigest()[:16]


def pick_device(device: str, local: int = 0) -> 'torch.device':
    """Return the device to work on.

    Args:
        device: ``'auto'``, or a device of torch.
        local: Number of this process on its machine.

    Returns:
        ``auto`` is a CUDA device if there is one.
    """
    import torch

    if device != 'auto':
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise GenerationError(
                f'--device {device!r} is not a device; use auto, cpu, cuda or '
                'cuda:N'
            ) from error
        if chosen.type == 'cuda' and not torch.cuda.is_available():
            raise GenerationError(
                f'--device {device}: torch sees no CUDA device here; use '
                '--device cpu'
            )
        return chosen
    if torch.cuda.is_available():
        return torch.device('cuda', local % torch.cuda.device_count())
    return torch.device('cpu')


def pick_dtype(dtype: str, device: 'torch.device') -> 'torch.dtype':
    """Return the floating-point type to work in.

    Args:
        dtype: ``'auto'`` (float16 on CUDA, else float32),
            ``'float32'``, ``'float16'`` or ``'bfloat16'``.
        device: Where.

    Returns:
        Of the weights.
    """
    import torch

    if dtype == 'auto':
        dtype = 'float16' if device.type == 'cuda' else 'float32'
    if dtype not in ('float32', 'float16', 'bfloat16'):
        raise GenerationError(
            f'--dtype {dtype!r} must be auto, float32, float16 or bfloat16'
        )
    return getattr(torch, dtype)
