"""SAM 3 prompted by words: scores of each word in each pixel.

Shape letters: H, W of the image; S words of L tokens, D dimensions; Q
queries; h, w of the predicted masks.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clouds_mmseg.refine.prediction_cache import (
    pack_arrays,
    unpack_arrays,
)
from clouds_mmseg.refine.transformers_model import (
    INSTALL,
    encoder_precision,
    import_transformers,
    load_model,
    move_model,
    read_config,
    require_finite,
)
from clouds_mmseg.utils.array_cache import ArrayCache
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.weights.model_folder import (
    CONFIG,
    PARTS,
    find_model_folder,
    hash_folder,
)

HEADS = ('both', 'semantic', 'instance')
PRESENCES = ('multiply', 'gate', 'off')
_OWNER = 'ConceptRefiner'
_WHAT = f'weights of {_OWNER}'
_PARTS = (*PARTS, ('tokenizer.json', 'vocab.json'), ('tokenizer_config.json',))
# Family in config.json -> class that takes words. Sam3Video's files hold the
# weights of both, words and points; they are what is published.
_CLASSES = dict(
    sam3='Sam3Model',
    sam3_video='Sam3Model',
    sam3_lite_text='Sam3LiteTextModel',
)
# Of the library's own text inputs to SAM 3.
_TOKENS = 32


class ScoreRules(NamedTuple):
    """How the outputs for a word become one score a pixel.

    Attributes:
        heads: The score of the ``semantic`` head, the best of the
            ``instance`` masks, each times its own score, or the larger of
            ``both``.
        instance_threshold: Instances of a lower score, times that of
            presence, are left out.
        presence: What the model's score of whether the image shows the word
            at all does: it is multiplied with the pixels' (``multiply``);
            words below ``min_presence`` have a score of 0 (``gate``); or
            nothing (``off``).
        min_presence: For ``gate``.
    """

    heads: str = 'both'
    instance_threshold: float = 0.3
    presence: str = 'multiply'
    min_presence: float = 0.5


def find_concept_model(
    weights: str | Path | None, *, fetch: bool = True
) -> Path:
    """Return the local folder of a model that takes words.

    Raises:
        UserError: Its family has no text encoder, or see
            :func:`~clouds_mmseg.weights.model_folder.find_model_folder`.
    """
    folder = find_model_folder(weights, _WHAT, fetch=fetch)
    try:
        family = parse_json((folder / CONFIG).read_text()).get('model_type')
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f'{_WHAT}: {folder / CONFIG} cannot be read ({error})'
        ) from error
    if family not in _CLASSES:
        raise UserError(
            f'{_WHAT}={folder} holds a model of the family {family}, which '
            f'has no text encoder and so takes no words: {_OWNER} needs one '
            f'of {", ".join(_CLASSES)}. For points take PromptableRefiner'
        )
    return find_model_folder(weights, _WHAT, _PARTS, fetch=fetch)


class ConceptModel:
    """A frozen model of transformers that finds words in images.

    The words are embedded once; then the text encoder is released.

    Args:
        weights: Folder or id on the Hugging Face hub.
        words: What is looked for.
        dtype: See
            :func:`~clouds_mmseg.refine.transformers_model.encoder_precision`.
        cache: Keeps the embeddings of words.

    Raises:
        UserError: transformers is missing, the weights are missing or of a
            model without text, a word is too long, or the memory is too
            small.

    Attributes:
        identity: Family, precision and hash of the weights, for cache keys.
    """

    def __init__(
        self,
        weights: str | Path,
        words: Sequence[str],
        *,
        dtype: str = 'float32',
        cache: ArrayCache | None = None,
    ):
        transformers = import_transformers(_OWNER)
        folder = find_concept_model(weights)
        config = read_config(folder, _WHAT)
        self._what = f'{_WHAT}={folder}'
        kind = _class_of(transformers, config, self._what)
        self.dtype = dtype
        self.identity = hash_text(
            config.model_type, dtype, hash_folder(folder)
        )
        self.processor = _load(
            transformers.AutoImageProcessor, folder, 'image processor'
        )
        self.model: Any = load_model(kind, config, folder, _WHAT)
        self.text, self.text_mask = self._embed_words(words, folder, cache)
        self.model.text_encoder = None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    def to(self, device: str | torch.device) -> None:
        """Move the weights to a device."""
        move_model(self.model, device, self._what)
        self.text = self.text.to(device)
        self.text_mask = self.text_mask.to(device)

    def _embed_words(self, words, folder, cache):
        """Embed words, (S, L, D) float32, with masks (S, L) int64."""
        keys = [hash_text('word', self.identity, word) for word in words]
        stored = {
            key: unpack_arrays(array)
            for key in keys
            if cache and (array := cache.get(key)) is not None
        }
        for key, word in zip(keys, words, strict=True):
            if key not in stored:
                stored[key] = self._embed_word(word, folder)
                if cache:
                    cache.put(key, pack_arrays(**stored[key]))
        return tuple(
            torch.from_numpy(
                np.concatenate([stored[key][name] for key in keys])
            )
            for name in ('text', 'mask')
        )

    @torch.no_grad()
    def _embed_word(self, word, folder):
        import transformers

        if not hasattr(self, '_tokenizer'):
            self._tokenizer = _load(
                transformers.AutoTokenizer, folder, 'tokenizer'
            )
        tokens = self._tokenizer(word)['input_ids']
        if len(tokens) > _TOKENS:
            raise UserError(
                f'{_OWNER}: the words {word!r} have {len(tokens)} tokens; '
                f'{self._what} takes {_TOKENS}. Shorten them'
            )
        inputs = self._tokenizer(
            [word],
            padding='max_length',
            max_length=_TOKENS,
            return_tensors='pt',
        )
        with torch.autocast('cpu', enabled=False):
            found = self.model.get_text_features(
                input_ids=inputs['input_ids'],
                attention_mask=inputs['attention_mask'],
            )
        return dict(
            text=found.pooler_output.float().numpy(),
            mask=inputs['attention_mask'].numpy(),
        )

    @torch.no_grad()
    def scores(
        self, image: np.ndarray, rules: ScoreRules, batch: int
    ) -> Tensor:
        """Score each word in each pixel.

        Args:
            image: (H, W, 3) uint8 RGB; stretched to the model's square.
            rules: See :class:`ScoreRules`.
            batch: Words at once.

        Returns:
            (S, h, w) float32 in [0, 1] on the device.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pixels = self.processor(
            images=image, input_data_format='channels_last',
            return_tensors='pt',
        )['pixel_values'].to(self.device)  # fmt: skip
        with encoder_precision(self.device, self.dtype):
            vision = self.model.get_vision_features(pixels)
        maps = [part.float() for part in vision.fpn_hidden_states]
        require_finite(
            {f'the features by {self._what}': x for x in maps}, self.dtype
        )
        places = [part.float() for part in vision.fpn_position_encoding]
        scores = []
        for text, mask in zip(
            self.text.split(batch), self.text_mask.split(batch), strict=True
        ):
            # The same image for each word; expanding copies nothing.
            count = len(text)
            embeds = type(vision)(
                fpn_hidden_states=tuple(_copies(x, count) for x in maps),
                fpn_position_encoding=tuple(_copies(x, count) for x in places),
            )
            with torch.autocast(self.device.type, enabled=False):
                output = self.model(
                    vision_embeds=embeds,
                    text_embeds=BaseModelOutputWithPooling(pooler_output=text),
                    attention_mask=mask,
                )
            scores.append(word_scores(output, rules))
        return torch.cat(scores)


def word_scores(output: Any, rules: ScoreRules) -> Tensor:
    """Join the outputs of SAM 3 for a batch of words.

    Args:
        output: With ``semantic_seg`` (B, 1, h, w), ``pred_masks``
            (B, Q, h, w), ``pred_logits`` (B, Q) and ``presence_logits``
            (B, 1), all of them logits.
        rules: See :class:`ScoreRules`.

    Returns:
        (B, h, w) float in [0, 1].
    """
    presence = output.presence_logits.sigmoid()  # (B, 1)
    scores = []
    if rules.heads != 'instance':
        scores.append(output.semantic_seg[:, 0].sigmoid())
    if rules.heads != 'semantic':
        quality = output.pred_logits.sigmoid()  # (B, Q)
        quality = torch.where(
            quality * presence > rules.instance_threshold, quality, 0
        )
        masks = output.pred_masks.sigmoid() * quality[..., None, None]
        scores.append(masks.amax(dim=1))
    score = torch.stack(scores).amax(dim=0)
    if rules.presence == 'multiply':
        return score * presence[..., None]
    if rules.presence == 'gate':
        return score * (presence >= rules.min_presence)[..., None]
    return score


def _copies(part, count):
    return part.expand(count, *part.shape[1:])


def _class_of(transformers, config, what):
    """Return the class of the library that takes words."""
    kind = getattr(transformers, _CLASSES[config.model_type], None)
    takes = kind and inspect.signature(kind.forward).parameters
    if not takes or 'text_embeds' not in takes:
        raise UserError(
            f'{what}: transformers {transformers.__version__} has no '
            f'{_CLASSES[config.model_type]} that takes embeddings of words. '
            f'Run: {INSTALL}'
        )
    return kind


def _load(kind, folder, title):
    """Load a part of a model's folder that is no weights."""
    try:
        return kind.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(
            f'{_WHAT}={folder}: its {title} cannot be read '
            f'({type(error).__name__}: {text})'
        ) from error
