"""Build one half of an open_clip model and find the weights for it.

The halves are asked of ``open_clip.create_model`` with the other half
replaced by a toy, so that open_clip's own logic decides about classes and
activations and the unwanted half costs neither time nor memory.
"""

import difflib
import logging
import os
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import (
    find_or_fetch,
    find_or_fetch_from_hub,
)

_TOY_TEXT = dict(context_length=8, vocab_size=64, width=64, heads=1, layers=1)
_TOY_VISION = dict(image_size=32, patch_size=32, width=64, layers=1)


def check_model_name(model_name: str) -> str:
    """Return the name as open_clip lists it.

    Raises:
        UserError: If open_clip has no such model; near names are listed.
    """
    known = open_clip.list_models()
    # OpenAI wrote ViT-B/32 where open_clip lists ViT-B-32.
    name = model_name.replace('/', '-')
    if name in known:
        return name
    folded = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), folded, n=5, cutoff=0.5)
    raise UserError(
        f'model_name={model_name!r} is not a model of open_clip '
        f'{open_clip.__version__}. Near: {[folded[n] for n in near]}; '
        'open_clip.list_models() lists all.'
    )


def locate_weights(
    model_name: str, pretrained: str, *, fetch: bool = True
) -> Path:
    """Return the file of some weights, fetching it if it is a tag.

    Args:
        model_name (str): A model of open_clip.
        pretrained (str): A local file, or a tag that open_clip knows for the
            model. A tag's file is looked for in the pretrained folder first
            (``--pretrained-dir``); downloads go to open_clip's own cache.
        fetch (bool): False only looks.

    Raises:
        UserError: If it is neither.
        MissingWeightsError: If the file is not here and cannot be fetched.
    """
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    config = get_pretrained_cfg(model_name, pretrained)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        raise UserError(
            f'pretrained={pretrained!r} is neither a file nor a tag of '
            f'{model_name}; its tags: {tags or "none"}.'
        )
    what = f'pretrained={pretrained!r} of {model_name}'
    url = config.get('url')
    hub = config.get('hf_hub')
    if not hub:
        return find_or_fetch(url, what, folder='~/.cache/clip', fetch=fetch)
    repository, name = os.path.split(hub)
    return find_or_fetch_from_hub(
        repository,
        [name] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME],
        what,
        # OpenAI's own archives are published under an address as well.
        places=[os.path.basename(url)] if url else [],
        instead='the path of the file as pretrained=',
        fetch=fetch,
    )


def needs_quick_gelu(model_name: str, pretrained: str | None) -> bool:
    """Tell whether open_clip lists a tag as trained with QuickGELU."""
    config = get_pretrained_cfg(model_name, pretrained or '')
    return config.get('quick_gelu', False)


def build_visual(model_name: str, device: str = 'cpu') -> nn.Module:
    """Build the visual tower of a model, randomly initialised.

    On the ``meta`` device it has shapes and no storage.
    """
    with torch.device(device), _quiet():
        model = open_clip.create_model(
            model_name,
            device=device,
            text_cfg=dict(_TOY_TEXT),
            pretrained_text=False,
        )
    return model.visual


def build_text(model_name: str, quick_gelu: bool) -> nn.Module:
    """Build a CLIP model whose visual tower is a toy, for encode_text.

    Args:
        model_name (str): A model of open_clip.
        quick_gelu (bool): Use QuickGELU even where the configuration of the
            model does not ask for it.

    Raises:
        UserError: If the tower is one of the Hugging Face hub, out of reach.
    """
    try:
        with _quiet():
            return open_clip.create_model(
                model_name,
                force_quick_gelu=quick_gelu,
                vision_cfg=dict(_TOY_VISION),
                pretrained_text=False,
            ).eval()
    except OSError as error:
        raise hub_needed(f'The text tower of {model_name}', error) from error


def hub_needed(what: str, error: Exception) -> UserError:
    """Make the error for a part that only the Hugging Face hub has."""
    return UserError(
        f'{what} is not here ({type(error).__name__}). It comes from the '
        'Hugging Face hub: run once where there is a network, or take a '
        "model with open_clip's own text tower (RN50, convnext_*)."
    )


@contextmanager
def _quiet():
    """Silence open_clip's warning that the model has random weights.

    It cannot know that they are loaded right after, by this package.
    """
    root = logging.getLogger()

    def drop(record):
        return 'No pretrained weights loaded' not in record.getMessage()

    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)
