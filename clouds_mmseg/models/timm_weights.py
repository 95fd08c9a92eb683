"""timm's own weights, from the pretrained folder or its hub."""

from pathlib import Path
from urllib.parse import urlparse

import timm
import torch

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import (
    find_or_fetch,
    find_or_fetch_from_hub,
)

# As timm names the files of its repositories.
_FILES = ('model.safetensors', 'pytorch_model.bin')


_HUB, _FOLDER = 'hf-hub:', 'local-dir:'


def resolve_timm_name(model_name: str, *, fetch: bool = True) -> str:
    """Return a name that timm builds without asking the hub.

    Args:
        model_name: A model of timm, ``hf-hub:owner/name`` (with
            ``@revision`` if need be) or ``local-dir:folder``; the last two
            have a ``config.json`` that says which model it is.
        fetch: False only looks.

    Returns:
        The name, or ``local-dir:`` with the folder of the config.

    Raises:
        UserError: The folder is none of a timm model.
        MissingWeightsError: The config is not here and cannot be fetched.
    """
    model_name = model_name.replace('hf_hub:', _HUB, 1)
    if model_name.startswith(_HUB):
        config = find_or_fetch_from_hub(
            model_name.removeprefix(_HUB),
            ['config.json'],
            model_name,
            instead='local-dir:FOLDER as model_name=',
            fetch=fetch,
        )
        return f'{_FOLDER}{config.parent}'
    if model_name.startswith(_FOLDER):
        folder = Path(model_name.removeprefix(_FOLDER)).expanduser()
        if not (folder / 'config.json').is_file():
            raise UserError(
                f'model_name={model_name!r}: {folder} holds no config.json, '
                'which says which model of timm it is'
            )
        return f'{_FOLDER}{folder}'
    return model_name


def read_timm_weights(
    model_name: str, kwargs: dict | None = None
) -> dict[str, torch.Tensor]:
    """Return timm's own weights of a whole classifier.

    They go through a classifier because timm's check is strict there only:
    when it loads them into a pyramid it passes over what does not fit.

    Args:
        model_name (str): A model of timm, with or without a tag
            (``convnext_base.fb_in1k``), or see :func:`resolve_timm_name`.
        kwargs (dict | None): Further arguments of ``timm.create_model``.

    Returns:
        dict[str, Tensor]: Name -> value, on the CPU.

    Raises:
        UserError: If timm has no weights for the model, or what is found is
            none of that model.
        MissingWeightsError: If they are not here and cannot be fetched.
    """
    path = locate_timm_weights(model_name)
    try:
        model = timm.create_model(
            resolve_timm_name(model_name),
            pretrained=True,
            pretrained_cfg_overlay=dict(file=str(path), source=''),
            **(kwargs or {}),
        )
    except Exception as error:
        raise UserError(
            f'{path} cannot be loaded as the weights of timm/{model_name} '
            f'({type(error).__name__}: {error})'
        ) from error
    return model.state_dict()


def locate_timm_weights(model_name: str, *, fetch: bool = True) -> Path:
    """Return the file of timm's own weights of a model.

    Args:
        model_name: See :func:`read_timm_weights`.
        fetch: False only looks.

    Raises:
        UserError: If timm has no weights for the model.
        MissingWeightsError: If they are not here and cannot be fetched.
    """
    what = f'the weights of timm/{model_name}'
    model_name = model_name.replace('hf_hub:', _HUB, 1)
    if model_name.startswith(_HUB):
        return find_or_fetch_from_hub(
            model_name.removeprefix(_HUB),
            _FILES,
            what,
            instead='local-dir:FOLDER as model_name=',
            fetch=fetch,
        )
    if model_name.startswith(_FOLDER):
        folder = Path(model_name.removeprefix(_FOLDER)).expanduser()
        for name in _FILES:
            if (folder / name).is_file():
                return folder / name
        raise UserError(f'{folder} holds neither {" nor ".join(_FILES)}')
    config = timm.models.get_pretrained_cfg(model_name)
    repository, url = (
        (config.hf_hub_id, config.url) if config else (None, None)
    )
    if not (repository or url):
        raise UserError(
            f'timm has no weights for {model_name}; give a file as weights=, '
            'or a name with a tag from timm.list_pretrained()'
        )
    if not repository:
        return find_or_fetch(url, what, fetch=fetch)
    return find_or_fetch_from_hub(
        repository,
        [config.hf_hub_filename] if config.hf_hub_filename else _FILES,
        what,
        places=[Path(urlparse(url).path).name] if url else [],
        instead='the path of the file as weights=',
        fetch=fetch,
    )
