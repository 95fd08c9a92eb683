"""Build one half of an open_clip model, without weights.

The halves are asked of ``open_clip.create_model`` with the other half
replaced by a toy, so that open_clip's own logic decides about classes and
activations and the unwanted half costs neither time nor memory.
"""

import logging
from contextlib import contextmanager

import open_clip
import torch
from torch import nn

from clouds_mmseg.utils.errors import UserError

_TOY_TEXT = dict(context_length=8, vocab_size=64, width=64, heads=1, layers=1)
_TOY_VISION = dict(image_size=32, patch_size=32, width=64, layers=1)


def build_visual(model_name: str, device: str = 'cpu') -> nn.Module:
    """Build the visual tower of a model, randomly initialised.

    Args:
        model_name (str): A model of open_clip, or ``local-dir:`` with the
            folder of a model's config.
        device (str): On ``meta`` it has shapes and no storage.
    """
    with torch.device(device), _quiet():
        model = open_clip.create_model(
            model_name,
            device=device,
            load_weights=False,
            text_cfg=dict(_TOY_TEXT),
            pretrained_text=False,
        )
    return model.visual


def build_text(model_name: str, quick_gelu: bool) -> nn.Module:
    """Build a CLIP model whose visual tower is a toy, for encode_text.

    Args:
        model_name (str): A model of open_clip, or ``local-dir:`` with the
            folder of a model's config.
        quick_gelu (bool): Use QuickGELU even where the configuration of the
            model does not ask for it.

    Raises:
        UserError: If the tower is one of the Hugging Face hub, out of reach.
    """
    try:
        with _quiet():
            return open_clip.create_model(
                model_name,
                load_weights=False,
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
    """Silence open_clip's warnings that the model has random weights.

    It cannot know that they are loaded right after, by this package.
    """
    root = logging.getLogger()

    def drop(record):
        message = record.getMessage()
        return (
            'No pretrained weights loaded' not in message
            and 'no CLIP weights found in' not in message
        )

    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)
