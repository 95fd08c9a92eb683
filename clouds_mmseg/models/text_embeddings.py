"""Text embeddings of class names in the common space of CLIP."""

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
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from clouds_mmseg.models.backbones.clip import build_text, hub_needed
from clouds_mmseg.models.backbones.clip_source import CLIPSource, find_clip
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import is_torchscript, read_state_dict
from clouds_mmseg.weights.load import load_strictly
from clouds_mmseg.weights.locate import MissingWeightsError

# Parts of a checkpoint that change no text embedding.
_NO_TEXT = ('logit_scale', 'logit_bias', 'visual')
# Constants that some versions and TorchScript save and others do not.
_CONSTANTS = (
    'attn_mask',
    'text.attn_mask',
    'text.transformer.embeddings.position_ids',
)
_BATCH = 128


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
    zero-shot classifier (Radford et al. 2021, section 3.1.4) with one row a
    synonym. Results are kept on disk under a hash of the prompts, the model
    and the weights, so that the tower is built once for a vocabulary; the
    tower is released on return.

    Args:
        classes (Sequence[str | Sequence[str]]): A name a class, or a list of
            synonyms.
        model_name (str | None): See :func:`~.clip_source.find_clip`.
        pretrained (str | None): Likewise; None for random weights, which
            are never cached.
        templates (Sequence[str | Callable] | None): Strings with one ``{}``
            for the name, or functions of it. By default open_clip's own
            templates for ImageNet.
        cache_dir (str | Path | None): Where to keep results. By default
            ``clouds_mmseg/text`` in the user's cache folder.

    Returns:
        tuple[Tensor, list[int]]: (S, D) float32 on the CPU, rows of unit
        length, S synonyms in the order of ``classes``; and how many of the
        rows belong to each class.

    Raises:
        UserError: If a class has no name, a template no place for it, the
            model or the tag is unknown, or weights or tokenizer cannot be
            had.
        CheckpointMismatchError: If the weights are of another text tower.
    """
    words = _words(classes)
    templates = _templates(templates)
    prompts = [[t(w) for t in templates] for names in words for w in names]
    counts = [len(names) for names in words]
    path = _cached(prompts, model_name, pretrained, cache_dir)
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


def find_text_weights(
    classes: Sequence[str | Sequence[str]],
    *,
    model_name: str | None = None,
    pretrained: str | None,
    templates: Sequence[str | Callable[[str], str]] | None = None,
    cache_dir: str | Path | None = None,
) -> None:
    """Raise an error if embeddings could not be made on this machine.

    Takes the arguments of :func:`class_text_embeddings`; nothing is read or
    fetched. Embeddings on disk need no weights.

    Raises:
        UserError: As :func:`class_text_embeddings`, where it can be known.
    """
    words, templates = _words(classes), _templates(templates)
    prompts = [[t(w) for t in templates] for names in words for w in names]
    path = _cached(prompts, model_name, pretrained, cache_dir, fetch=False)
    if path is None or not path.is_file():
        find_clip(model_name, pretrained, fetch=False)


def _cached(prompts, model_name, pretrained, cache_dir, *, fetch=True):
    """Where embeddings are kept whose weights need not be here.

    None where only the content of a file says which weights they are, or
    where the model's config is not here either.
    """
    try:
        source = find_clip(model_name, pretrained, weights=False, fetch=fetch)
    except MissingWeightsError:
        return None
    return source.identity and _cache_file(prompts, source, cache_dir)


def _words(classes):
    """Return each class as a list of synonyms."""
    if isinstance(classes, str) or not len(classes):
        raise UserError(
            f'classes must be a list of names or of synonyms, got {classes!r}.'
        )
    words = [[c] if isinstance(c, str) else list(c) for c in classes]
    for index, names in enumerate(words):
        if not names or not all(isinstance(n, str) and n for n in names):
            raise UserError(
                f'classes[{index}] must be a name or a list of at least one '
                f'name, got {classes[index]!r}.'
            )
    return words


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
    """Run the text tower over lists of prompts: (len(prompts), D)."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = _load_text(source).to(device)
    tokenize = _tokenizer(source)
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


def _load_text(source: CLIPSource):
    """Build the text tower and load it, strict about all its weights."""
    path = source.weights
    if path is None:
        return build_text(source.model, quick_gelu=False)
    # OpenAI's archives say nothing about activations, but all of theirs
    # were trained with QuickGELU.
    quick_gelu = source.quick_gelu or is_torchscript(path)
    model = build_text(source.model, quick_gelu)
    state_dict = read_state_dict(path)
    if hasattr(model, 'text'):
        state_dict = _under_text(state_dict)
    load_strictly(
        model,
        {
            k: v
            for k, v in state_dict.items()
            if k.partition('.')[0] not in _NO_TEXT
        },
        source=str(path),
        allow_missing=_NO_TEXT,
        allow_unexpected=_CONSTANTS,
    )
    return model


def _under_text(state_dict):
    """Move a text tower from the top level, where CLIP has it, to text."""
    if any(k.startswith('text.') for k in state_dict):
        return state_dict
    return {
        k if k.partition('.')[0] in _NO_TEXT else f'text.{k}': v
        for k, v in state_dict.items()
    }


def _tokenizer(source):
    config = open_clip.get_model_config(source.model)['text_cfg']
    name = config.get('hf_tokenizer_name')
    folder = source.folder
    try:
        if name and folder and not any(folder.glob('tokenizer*')):
            # open_clip would look for it beside the config only.
            return HFTokenizer(
                name,
                context_length=config.get('context_length', 77),
                tokenizer_mode=config.get('tokenizer_mode'),
                **config.get('tokenizer_kwargs', {}),
            )
        return open_clip.get_tokenizer(source.model)
    except OSError as error:
        what = f'The tokenizer of {source.name}'
        raise hub_needed(what, error) from error


def _cache_file(prompts, source, cache_dir):
    """Return the file that holds or will hold these embeddings."""
    root = cache_dir or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'clouds_mmseg', 'text'
    )
    identity = source.identity or f'sha256 {sha256_of(source.weights)}'
    model = source.model
    if source.folder:
        # A folder's name says nothing of what is in it.
        model = open_clip.get_model_config(model)
    content = json.dumps([prompts, model, identity])
    name = hashlib.sha256(content.encode()).hexdigest()[:24]
    label = Path(source.name).name
    return Path(root).expanduser() / f'{label}-{name}.safetensors'


def _read_cache(path, rows):
    """Return cached embeddings, None if there are none that can be used."""
    try:
        embeddings = load_file(path)['embeddings']
    except (OSError, SafetensorError, KeyError):
        return None
    return embeddings if len(embeddings) == rows else None


def _write_cache(path, embeddings):
    try:
        with atomic_path(path) as temporary:
            save_file({'embeddings': embeddings.contiguous()}, temporary)
    except OSError as error:
        print_log(f'Text embeddings are not cached: {error}', logger='current')


_SOURCES = (
    'a tensor (S, D), a file with the tensors "embeddings" (S, D) and '
    '"num_synonyms" (K,), or a dict with the arguments of '
    'clouds_mmseg.models.text_embeddings.class_text_embeddings'
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
