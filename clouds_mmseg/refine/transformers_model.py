"""Loading of models of transformers for refinement, all or nothing."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError
from clouds_mmseg.weights.model_folder import check_memory

DTYPES = ('float32', 'float16', 'bfloat16')
INSTALL = 'pip install "clouds_mmseg[refine]"'


def import_transformers(owner: str) -> Any:
    """Import transformers.

    Args:
        owner: Class that needs it, for the message.

    Raises:
        UserError: It is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != 'transformers':
            raise
        raise UserError(
            f'{owner} needs the package transformers, which is not '
            f'installed. Run: {INSTALL}'
        ) from error
    return transformers


def read_config(folder: Path, what: str) -> Any:
    """Read the config of a model, which says its family.

    Args:
        folder: Of the model.
        what: Argument that names it, for the message.

    Raises:
        UserError: It is damaged, or of no family that the installed version
            knows.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(
            f'{what}={folder}: config.json is of no model that transformers '
            f'{transformers.__version__} knows ({text})'
        ) from error


def load_model(kind: Any, config: Any, folder: Path, what: str) -> nn.Module:
    """Load a model with all of its weights, frozen and in eval mode.

    transformers itself initialises missing weights at random.

    Args:
        kind: Class of the model.
        config: Of :func:`read_config`.
        folder: Of the model.
        what: Argument that names it, for the messages.

    Returns:
        On the CPU, float32.

    Raises:
        UserError: A weight is missing or of another shape, a file cannot be
            read, or the memory is too small.
    """
    try:
        # The initial values are overwritten; drawing them must not advance
        # the random state of the training.
        with torch.random.fork_rng(devices=[]):
            with torch.device('meta'):
                needed = num_bytes(kind(config))
            check_memory(needed, f'{what}={folder}', torch.device('cpu'))
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        SafetensorError,
    ) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(
            f'{what}={folder} cannot be loaded as a {kind.__name__} '
            f'({type(error).__name__}: {text})'
        ) from error
    missing = sorted(report['missing_keys'])
    if missing:
        raise UserError(
            f'{what}={folder}: its weights lack {len(missing)} of a '
            f'{kind.__name__}, such as {missing[0]}. Give weights that were '
            'saved by save_pretrained, or published for transformers'
        )
    print_log(f'{kind.__name__} from {folder}', 'current')
    return model.eval().requires_grad_(False)


def num_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters in single precision."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def move_model(
    model: nn.Module, device: str | torch.device, what: str
) -> None:
    """Move a model to a device, if there is enough memory.

    Raises:
        UserError: There is not.
    """
    target = torch.device(device)
    if next(model.parameters()).device.type != target.type:
        check_memory(num_bytes(model), what, target)
    model.to(target)


@contextlib.contextmanager
def encoder_precision(device: torch.device, dtype: str) -> Iterator[None]:
    """Let an image encoder work in a precision, whatever its caller's is.

    The result must not depend on the caller, because it is cached.

    Args:
        device: Of the encoder.
        dtype: One of :data:`DTYPES`.
    """
    with torch.autocast(
        device.type,
        dtype=None if dtype == 'float32' else getattr(torch, dtype),
        enabled=dtype != 'float32',
    ):
        yield


def require_finite(parts: Mapping[str, torch.Tensor], dtype: str) -> None:
    """Refuse an embedding that overflowed.

    Raises:
        NonFiniteError: A value is NaN or infinite.
    """
    for name, part in parts.items():
        if not part.isfinite().all():
            raise NonFiniteError(
                f'{name} of an image is not finite (NaN or infinite) in '
                f'{dtype}: give the refiner dtype='
                + (
                    "'bfloat16' or 'float32'"
                    if dtype == 'float16'
                    else 'another, and look at its weights'
                )
            )
