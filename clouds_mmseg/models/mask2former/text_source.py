"""Where the text embeddings of a head come from, as its config says."""

from pathlib import Path

import torch
from torch import Tensor

from clouds_mmseg.checkpoints.files import read_state_dict
from clouds_mmseg.utils.errors import UserError

_SOURCES = (
    'a tensor (S, D), a file with the tensors "embeddings" (S, D) and '
    '"num_synonyms" (K,), or a dict with the arguments of '
    'clouds_mmseg.models.clip_text.class_text_embeddings'
)


def load_text_embeddings(
    text_embeddings, *, num_classes, num_synonyms=None, embed_dim=None
):
    """Get text embeddings from any of their sources and check them.

    Args:
        text_embeddings (Tensor | str | Path | dict): The rows themselves; a
            file of torch or safetensors with ``embeddings`` and, if a class
            has several rows, ``num_synonyms``; or the arguments to have them
            computed by CLIP's text tower.
        num_classes (int): K.
        num_synonyms (Sequence[int], optional): Rows of each class, where the
            source does not say it. By default one each.
        embed_dim (int, optional): D, if the config wants it checked.

    Returns:
        tuple[Tensor, list[int]]: Rows (S, D) float32 and how many of them
        belong to each class.

    Raises:
        UserError: For another kind of source, and for numbers of rows,
            classes or dimensions that do not agree.
    """
    rows, counted = _read(text_embeddings)
    counts = counted if num_synonyms is None else list(num_synonyms)
    if not isinstance(rows, Tensor) or rows.dim() != 2:
        found = getattr(rows, 'shape', type(rows).__name__)
        raise UserError(
            f'classifier.text_embeddings must be {_SOURCES}; got {found}.'
        )
    if counts is None:
        counts = [1] * len(rows)
    if len(counts) != num_classes or sum(counts) != len(rows):
        raise UserError(
            f'classifier.text_embeddings has {len(rows)} rows for '
            f'{len(counts)} classes with {counts} synonyms, but the head has '
            f'num_classes={num_classes}: give as many classes, and one row '
            'a synonym (classifier.num_synonyms).'
        )
    if min(counts) < 1:
        raise UserError(
            f'classifier.num_synonyms must be at least 1 each, got {counts}.'
        )
    if embed_dim is not None and embed_dim != rows.shape[1]:
        raise UserError(
            f'classifier.embed_dim={embed_dim}, but the rows of '
            f'classifier.text_embeddings have {rows.shape[1]} dimensions: '
            'leave embed_dim out or correct it.'
        )
    return rows.float(), counts


def find_text_source(source: Tensor | str | Path | dict | None) -> None:
    """Raise an error if text embeddings could not be made on this machine.

    Args:
        source: As for :func:`load_text_embeddings`; None passes.

    Raises:
        UserError: A file is not there, or CLIP's text tower would be needed
            and its weights are not here.
    """
    if isinstance(source, dict):
        from clouds_mmseg.models.clip_text import find_text_weights

        find_text_weights(**source)
    elif isinstance(source, (str, Path)):
        if not Path(source).expanduser().is_file():
            raise UserError(
                f'classifier.text_embeddings={str(source)!r}: there is no '
                'such file'
            )


def _read(source):
    if isinstance(source, Tensor):
        return source, None
    if isinstance(source, dict):
        # Imported here: a head without text needs no text tower.
        from clouds_mmseg.models.clip_text import class_text_embeddings

        return class_text_embeddings(**source)
    if isinstance(source, (str, Path)):
        content = read_state_dict(source)
        if 'embeddings' not in content:
            raise UserError(
                f'{source} must hold the tensor "embeddings" (S, D), and '
                '"num_synonyms" (K,) where classes have several rows; it '
                f'holds {sorted(content)[:5]}.'
            )
        counts = content.get('num_synonyms')
        if counts is not None:
            counts = torch.as_tensor(counts).flatten().tolist()
        return content['embeddings'], counts
    return source, None
