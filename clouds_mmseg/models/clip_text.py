"""Class names -> unit vectors in CLIP's common space, cached on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clouds_mmseg.checkpoints.files import is_torchscript, read_state_dict
from clouds_mmseg.checkpoints.strict import load_strictly
from clouds_mmseg.models.clip_towers import (
    build_text,
    check_model_name,
    hub_needed,
    locate_weights,
    needs_quick_gelu,
)
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

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
    model_name: str,
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
        model_name (str): A model of open_clip.
        pretrained (str | None): A tag that open_clip knows for the model, a
            local file, or None for random weights (never cached).
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
    model_name = check_model_name(model_name)
    prompts = [[t(w) for t in templates] for names in words for w in names]
    counts = [len(names) for names in words]
    path = None
    if pretrained:
        path = _cache_file(prompts, model_name, pretrained, cache_dir)
        embeddings = _read_cache(path, len(prompts))
        if embeddings is not None:
            return embeddings, counts
    embeddings = _embed(prompts, model_name, pretrained)
    if path:
        _write_cache(path, embeddings)
    return embeddings, counts


def find_text_weights(
    classes: Sequence[str | Sequence[str]],
    *,
    model_name: str,
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
    model_name = check_model_name(model_name)
    if not pretrained:
        return
    if not Path(pretrained).expanduser().is_file():
        prompts = [[t(w) for t in templates] for names in words for w in names]
        path = _cache_file(prompts, model_name, pretrained, cache_dir)
        if path.is_file():
            return
    locate_weights(model_name, pretrained, fetch=False)


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
def _embed(prompts, model_name, pretrained):
    """Run the text tower over lists of prompts: (len(prompts), D)."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = _load_text(model_name, pretrained).to(device)
    tokenize = _tokenizer(model_name)
    flat = [p for group in prompts for p in group]
    print_log(
        f'Embedding {len(flat)} prompts with the text tower of {model_name}',
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


def _load_text(model_name, pretrained):
    """Build the text tower and load it, strict about all its weights."""
    if not pretrained:
        return build_text(model_name, quick_gelu=False)
    path = locate_weights(model_name, pretrained)
    # OpenAI's archives say nothing about activations, but all of theirs
    # were trained with QuickGELU.
    quick_gelu = needs_quick_gelu(model_name, pretrained)
    model = build_text(model_name, quick_gelu or is_torchscript(path))
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


def _tokenizer(model_name):
    try:
        return open_clip.get_tokenizer(model_name)
    except OSError as error:
        raise hub_needed(f'The tokenizer of {model_name}', error) from error


def _cache_file(prompts, model_name, pretrained, cache_dir):
    """Return the file that holds or will hold these embeddings."""
    root = cache_dir or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'clouds_mmseg', 'text'
    )
    weights = Path(pretrained).expanduser()
    identity = f'tag {pretrained}'
    if weights.is_file():
        with open(weights, 'rb') as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        identity = f'sha256 {digest.hexdigest()}'
    content = json.dumps([prompts, model_name, identity])
    name = hashlib.sha256(content.encode()).hexdigest()[:24]
    return Path(root).expanduser() / f'{model_name}-{name}.safetensors'


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
