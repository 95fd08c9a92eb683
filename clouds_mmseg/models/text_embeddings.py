"""Text embeddings of class names in CLIP's joint embedding space.

Letters: K classes, S synonyms of all classes together, D dimensions.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from mmengine.logging import print_log
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from clouds_mmseg.models.backbones.clip_source import (
    CLIPSource,
    build_text,
    find_clip,
    hub_error,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.options import shared_words
from clouds_mmseg.weights.io import (
    MissingWeightsError,
    read_state_dict,
)
from clouds_mmseg.weights.load import load_strictly

# Accepted values of classifier.text_embeddings, for messages.
_SOURCES = (
    'a tensor (S, D), a file with the tensors "embeddings" (S, D) and '
    '"num_synonyms" (K,), or a dict with the arguments of '
    'clouds_mmseg.models.text_embeddings.class_text_embeddings'
)
# Parts of a checkpoint that no text embedding depends on.
_NOT_TEXT = ('logit_scale', 'logit_bias', 'visual')
# Constants that only some versions and TorchScript save.
_CONSTANTS = (
    'attn_mask',
    'text.attn_mask',
    'text.transformer.embeddings.position_ids',
)
# Prompts that the text tower encodes at once.
_BATCH = 128


def load_text_embeddings(
    text_embeddings: Tensor | str | Path | dict | None,
    *,
    num_classes: int,
    num_synonyms: Sequence[int] | None = None,
    embed_dim: int | None = None,
) -> tuple[Tensor, list[int]]:
    """Load text embeddings from any of their sources and check them.

    Args:
        text_embeddings: A tensor (S, D); a file of torch or safetensors with
            ``embeddings`` and, if a class has several rows,
            ``num_synonyms``; or the arguments of
            :func:`class_text_embeddings`, which computes them.
        num_classes: K.
        num_synonyms: Rows of each class, overriding those of a file. By
            default one each.
        embed_dim: The expected D, if it is to be checked.

    Returns:
        Rows (S, D) float32 and the number of rows of each class.

    Raises:
        UserError: For an invalid source, and for numbers of rows, classes or
            dimensions that do not match.
    """
    rows, stored_counts = _read(text_embeddings)
    counts = stored_counts if num_synonyms is None else list(num_synonyms)
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


def class_text_embeddings(
    classes: Sequence[str | Sequence[str]],
    *,
    model_name: str | None = None,
    pretrained: str | None,
    templates: Sequence[str | Callable[[str], str]] | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[torch.Tensor, list[int]]:
    """Embed class names with the text tower of a CLIP model.

    Each name is put into every template, each prompt's embedding is scaled
    to unit length, and their mean is scaled to unit length again: CLIP's
    zero-shot classifier (Radford et al. 2021, section 3.1.4) with one row per
    synonym. Results are cached on disk under a hash of the prompts, the model
    and the weights, so that the tower runs once per vocabulary; it is
    released on return.

    Args:
        classes: A name for each class, or a list of synonyms.
        model_name: See
            :func:`~clouds_mmseg.models.backbones.clip_source.find_clip`.
        pretrained: Likewise; None for random weights, whose embeddings are
            never cached.
        templates: Strings with one ``{}`` for the name, or functions of it.
            By default open_clip's own templates for ImageNet.
        cache_dir: Folder of the cache. By default ``clouds_mmseg/text`` in
            the user's cache folder.

    Returns:
        (S, D) float32 on the CPU, rows of unit length, S synonyms in the
        order of ``classes``; and the number of rows of each class.

    Raises:
        UserError: If a class has no name, a template no ``{}``, the model or
            the tag is unknown, or weights or tokenizer are not available.
        CheckpointMismatchError: If the weights are of another text tower.
    """
    synonyms = _synonyms(classes)
    named = {f'classes[{i}]': names for i, names in enumerate(synonyms)}
    for word, first, second in shared_words(named):
        print_log(
            f'{word!r} stands in both {first} and {second} of the text '
            'embeddings: where it fits best, the first always wins',
            logger='current',
            level=logging.WARNING,
        )
    templates = _templates(templates)
    prompts = [[t(w) for t in templates] for names in synonyms for w in names]
    counts = [len(names) for names in synonyms]
    path = _find_cached(prompts, model_name, pretrained, cache_dir)
    embeddings = path and _read_cache(path, len(prompts))
    if embeddings is not None:
        return embeddings, counts
    source = find_clip(model_name, pretrained)
    if not source.weights:
        print_log(
            f'The text tower of {source.name} has random weights: its '
            'embeddings say nothing about classes. Give pretrained=.',
            logger='current',
            level=logging.WARNING,
        )
        return _embed(prompts, source), counts
    path = _cache_file(prompts, source, cache_dir)
    embeddings = _read_cache(path, len(prompts))
    if embeddings is None:
        embeddings = _embed(prompts, source)
        _write_cache(path, embeddings)
    return embeddings, counts


def find_text_source(source: Tensor | str | Path | dict | None) -> None:
    """Raise an error if text embeddings are not available on this machine.

    Args:
        source: As for :func:`load_text_embeddings`; None is accepted.

    Raises:
        UserError: A file does not exist, or CLIP's text tower is needed and
            its weights are missing.
    """
    if isinstance(source, dict):
        find_text_weights(**source)
    elif isinstance(source, (str, Path)):
        if not Path(source).expanduser().is_file():
            raise UserError(
                f'classifier.text_embeddings={str(source)!r}: there is no '
                'such file'
            )


def find_text_weights(
    classes: Sequence[str | Sequence[str]],
    *,
    model_name: str | None = None,
    pretrained: str | None,
    templates: Sequence[str | Callable[[str], str]] | None = None,
    cache_dir: str | Path | None = None,
) -> None:
    """Raise an error if embeddings could not be computed on this machine.

    Takes the arguments of :func:`class_text_embeddings`; nothing is loaded or
    downloaded. Cached embeddings need no weights.

    Raises:
        UserError: As :func:`class_text_embeddings`, if known beforehand.
    """
    synonyms, templates = _synonyms(classes), _templates(templates)
    prompts = [[t(w) for t in templates] for names in synonyms for w in names]
    path = _find_cached(
        prompts, model_name, pretrained, cache_dir, fetch=False
    )
    if path is None or not path.is_file():
        find_clip(model_name, pretrained, fetch=False)


def _read(source):
    if isinstance(source, Tensor):
        return source, None
    if isinstance(source, dict):
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


def _find_cached(prompts, model_name, pretrained, cache_dir, *, fetch=True):
    """Return the cache file of embeddings without loading any weights.

    None if only a hash of the weight file can identify the weights, or if the
    model's config is missing too.
    """
    try:
        source = find_clip(model_name, pretrained, weights=False, fetch=fetch)
    except MissingWeightsError:
        return None
    return source.identity and _cache_file(prompts, source, cache_dir)


def _synonyms(classes):
    """Return each class as a list of synonyms."""
    if isinstance(classes, str) or not len(classes):
        raise UserError(
            f'classes must be a list of names or of synonyms, got {classes!r}.'
        )
    synonyms = [[c] if isinstance(c, str) else list(c) for c in classes]
    for index, names in enumerate(synonyms):
        if not names or not all(isinstance(n, str) and n for n in names):
            raise UserError(
                f'classes[{index}] must be a name or a list of at least one '
                f'name, got {classes[index]!r}.'
            )
    return synonyms


def _templates(templates):
    """Return templates as functions of a name."""
    if templates is None:
        return list(open_clip.OPENAI_IMAGENET_TEMPLATES)
    if isinstance(templates, str) or not len(templates):
        raise UserError(
            f'templates must be a list of strings, got {templates!r}.'
        )
    for template in templates:
        if isinstance(template, str) and template.count('{}') != 1:
            raise UserError(
                "A template needs one '{}' where the name goes, got "
                f'{template!r}.'
            )
    return [t.format if isinstance(t, str) else t for t in templates]


@torch.no_grad()
def _embed(prompts, source):
    """Encode lists of prompts, one list a synonym: (S, D)."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = load_text_tower(source).to(device)
    tokenize = find_tokenizer(source)
    flat = [p for group in prompts for p in group]
    print_log(
        f'Embedding {len(flat)} prompts with the text tower of {source.name}',
        logger='current',
    )
    rows = [
        F.normalize(
            model.encode_text(tokenize(flat[i : i + _BATCH]).to(device)),
            dim=-1,
        )
        for i in range(0, len(flat), _BATCH)
    ]
    rows = torch.cat(rows).unflatten(0, (len(prompts), -1))  # (S, T, D)
    return F.normalize(rows.mean(1), dim=-1).float().cpu()


def load_text_tower(source: CLIPSource) -> torch.nn.Module:
    """Build the text tower and load its weights, all of them or none."""
    path = source.weights
    if path is None:
        return build_text(source.model, quick_gelu=False)
    model = build_text(source.model, source.quick_gelu)
    state_dict = read_state_dict(path)
    if hasattr(model, 'text'):
        state_dict = _add_text_prefix(state_dict)
    load_strictly(
        model,
        {
            k: v
            for k, v in state_dict.items()
            if k.partition('.')[0] not in _NOT_TEXT
        },
        source=str(path),
        allow_missing=_NOT_TEXT,
        allow_unexpected=_CONSTANTS,
    )
    return model


def _add_text_prefix(state_dict):
    """Move a text tower from the top level, as in CLIP, to ``text.``."""
    if any(k.startswith('text.') for k in state_dict):
        return state_dict
    return {
        k if k.partition('.')[0] in _NOT_TEXT else f'text.{k}': v
        for k, v in state_dict.items()
    }


def find_tokenizer(source: CLIPSource) -> Callable:
    """Return the tokenizer of a model: texts -> ids, padded with zeros.

    Raises:
        UserError: It is from the Hugging Face hub, which is not reachable.
    """
    config = open_clip.get_model_config(source.model)['text_cfg']
    name = config.get('hf_tokenizer_name')
    folder = source.folder
    try:
        if name and folder and not any(folder.glob('tokenizer*')):
            # open_clip would search for it beside the config only.
            return HFTokenizer(
                name,
                context_length=config.get('context_length', 77),
                tokenizer_mode=config.get('tokenizer_mode'),
                **config.get('tokenizer_kwargs', {}),
            )
        return open_clip.get_tokenizer(source.model)
    except OSError as error:
        what = f'The tokenizer of {source.name}'
        raise hub_error(what, error) from error


def _cache_file(prompts, source, cache_dir):
    """Return the cache file of these embeddings, existing or not."""
    root = cache_dir or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'clouds_mmseg', 'text'
    )
    identity = source.identity or f'sha256 {sha256_of(source.weights)}'
    model = source.model
    if source.folder:
        # The name of a folder does not identify its content.
        model = open_clip.get_model_config(model)
    content = json.dumps([prompts, model, identity])
    name = hashlib.sha256(content.encode()).hexdigest()[:24]
    label = Path(source.name).name
    return Path(root).expanduser() / f'{label}-{name}.safetensors'


def _read_cache(path, rows):
    """Return cached embeddings, None if absent or unusable."""
    try:
        embeddings = load_file(path)['embeddings']
    except (OSError, SafetensorError, KeyError):
        return None
    return embeddings if len(embeddings) == rows else None


def _write_cache(path, embeddings):
    try:
        with atomic_path(path) as temporary:
            # Not save_file, which has other errors for a full disk, and
            # makes a temporary file of its own.
            temporary.write_bytes(
                save({'embeddings': embeddings.contiguous()})
            )
    except OSError as error:
        print_log(f'Text embeddings are not cached: {error}', logger='current')
