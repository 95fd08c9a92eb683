"""Checkpoints that are named by an address or by a name of a model zoo."""

import difflib

from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import find_or_fetch


def _openmmlab_models():
    """Addresses by name; an old name has that of its successor."""
    models = get_external_models()
    renamed = get_deprecated_model_names()
    return models | {
        old: models[new] for old, new in renamed.items() if new in models
    }


# As mmengine's CheckpointLoader knows them.
_ZOOS = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': _openmmlab_models,
    'openmmlab': _openmmlab_models,
    'mmcls': get_mmcls_models,
}


def resolve_address(name):
    """Turn the name of a model zoo into the address of its file.

    Args:
        name (str): Such as ``torchvision://resnet50``,
            ``open-mmlab://resnet50_v1c`` or ``https://...``.

    Returns:
        str | None: An address beginning with ``http``; None for a scheme of
        which there is no address, such as ``s3://``.

    Raises:
        UserError: The zoo has no such model.
    """
    scheme, _, model = name.partition('://')
    if scheme in ('http', 'https'):
        return name
    if scheme not in _ZOOS:
        return None
    models = _ZOOS[scheme]()
    if model not in models:
        near = difflib.get_close_matches(model, models, n=5, cutoff=0.4)
        raise UserError(
            f'{name}: {scheme} has no model {model!r}; near: '
            f'{", ".join(near) or "none"}'
        )
    return models[model]


def fetch_checkpoint(name, what, *, fetch=True):
    """Return the local file of a checkpoint that is named by an address.

    Args:
        name (str): See :func:`resolve_address`.
        what (str): What it is for, for the messages.
        fetch (bool): False only looks.

    Returns:
        Path | None: From the pretrained folder or torch's cache, or fetched;
        None where mmengine itself must be asked.

    Raises:
        MissingWeightsError: It is not here and cannot be fetched.
    """
    address = resolve_address(name)
    return address and find_or_fetch(address, f'{what}, {name}', fetch=fetch)
