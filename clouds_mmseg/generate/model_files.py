"""Local files of a generative model: folder, fingerprint, device, dtype.

Also what they need: the memory for the weights, and every one of these.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.text_files import parse_json
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


def unreachable(
    model: str, marker: str, error: Exception, *, option: str = '--model'
) -> GenerationError:
    """Return the error for a model that cannot be downloaded.

    Args:
        model: Its id.
        marker: Name of a file of it.
        error: Raised by the hub's client. Where the weights are gated, the
            message says how access is asked for.
        option: Option that names the model.
    """
    missing = missing_error(
        f'{option} {model}',
        in_repository(model, [marker]),
        repository=model,
        error=None if is_offline() else error,
        instead=f'the path of the folder as {option}',
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


def pick_dtype(
    dtype: str, device: 'torch.device', stored: 'torch.dtype | None' = None
) -> 'torch.dtype':
    """Return the floating-point type to work in.

    Args:
        dtype: ``'auto'``, ``'float32'``, ``'float16'`` or ``'bfloat16'``.
        device: Where.
        stored: Type of the weights in the files, None if unknown.

    Returns:
        Of the weights. ``auto`` is float32 on a CPU. On CUDA it is float16,
        and bfloat16 where the weights are stored in it: models that were
        trained so overflow in float16.
    """
    import torch

    if dtype == 'auto':
        half = 'bfloat16' if stored is torch.bfloat16 else 'float16'
        dtype = half if device.type == 'cuda' else 'float32'
    if dtype not in ('float32', 'float16', 'bfloat16'):
        raise GenerationError(
            f'--dtype {dtype!r} must be auto, float32, float16 or bfloat16'
        )
    return getattr(torch, dtype)


class StoredWeights(NamedTuple):
    """What the headers of weight files say.

    Attributes:
        numbers: Number of weights; 0 where it is unknown (pickles).
        dtype: The type that most of them have, None where it is unknown.
    """

    numbers: int
    dtype: 'torch.dtype | None'


def weights_in(files: Iterable[Path]) -> StoredWeights:
    """Read number and type of the weights from headers of safetensors.

    Args:
        files: ``.safetensors`` files. One that is damaged counts as empty:
            loading it raises the error.
    """
    import torch

    kinds: Counter = Counter()
    for path in files:
        try:
            with open(path, 'rb') as stream:
                length = int.from_bytes(stream.read(8), 'little')
                header = parse_json(stream.read(min(length, 1 << 28)))
            for key, value in header.items():
                if key != '__metadata__':
                    kinds[value['dtype']] += math.prod(value['shape'])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    names = dict(F32='float32', F16='float16', BF16='bfloat16')
    most = kinds.most_common(1)
    name = names.get(most[0][0]) if most else None
    return StoredWeights(
        sum(kinds.values()), getattr(torch, name) if name else None
    )


def check_memory(
    model: str,
    needed: int,
    dtype: 'torch.dtype',
    device: 'torch.device | None',
    free: int | None,
    *,
    offload: str = 'none',
) -> None:
    """Refuse weights that are larger than the free memory.

    Args:
        model: ``--model``, for the message.
        needed: Bytes of the weights; activations come in addition.
        dtype: Of the weights.
        device: A CUDA device, or None for the memory of the machine.
        free: Free bytes there, None if unknown.
        offload: See :class:`~.diffusion.DiffusionBackend`.

    Raises:
        GenerationError: There is less.
    """
    if free is None or needed <= free:
        return
    kind = str(dtype).removeprefix('torch.')
    advice = []
    if kind == 'float32':
        advice.append('--dtype bfloat16 or float16 halves that')
    if device is not None and offload == 'none':
        advice.append('--offload model keeps one part at a time there')
    if device is not None and offload != 'sequential':
        advice.append('--offload sequential one layer, slowly')
    advice.append('or take a smaller model')
    part = 'the largest part' if offload == 'model' else 'the weights alone'
    raise GenerationError(
        f'--model {model} needs {needed / 2**30:.2f} GiB for {part} in '
        f'{kind}, and {device or "this machine"} has {free / 2**30:.2f} GiB '
        f'of free memory: {"; ".join(advice)}'
    )


@contextmanager
def require_all_weights(*phrases: str) -> Iterator[None]:
    """Turn the warning about randomly initialised weights into an error.

    diffusers and transformers initialise weights that a file lacks and
    continue; such a model generates noise.

    Args:
        *phrases: Of warnings; by default those about such weights.
    """
    phrases = phrases or ('newly initialized',)

    class Collect(logging.Handler):
        found = []

        def emit(self, record):
            text = record.getMessage()
            if any(phrase in text for phrase in phrases):
                self.found.append(text)

    collect = Collect()
    collect.found = []
    loggers = [logging.getLogger(n) for n in ('diffusers', 'transformers')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(collect)
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(collect)
            logger.setLevel(level)
    if collect.found:
        raise ValueError(
            'its files lack weights, or have some of another shape: '
            + ' '.join(collect.found[0].split())
        )
