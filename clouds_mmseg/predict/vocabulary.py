"""Other classes for a model with the text classifier."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn import functional as F

from clouds_mmseg.models.mask2former.classifier import TextClassifier
from clouds_mmseg.models.text_embeddings import class_text_embeddings
from clouds_mmseg.utils.errors import UserError

# Labels are bytes, and 255 is none.
_MOST_CLASSES = 255


def with_classes(
    model: nn.Module,
    classes: Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]],
    text_tower: dict[str, Any],
) -> tuple[nn.Module, tuple[str, ...]]:
    """Replace the text embeddings of a model by those of other classes.

    Args:
        model: A segmentor whose head has a classifier ``cls_embed``; it is
            left as it is.
        classes: See :meth:`clouds_mmseg.Segmenter.with_classes`.
        text_tower: Arguments of
            :func:`~clouds_mmseg.models.text_embeddings.class_text_embeddings`
            without ``classes``.

    Returns:
        A model that shares all parameters with the other, and the names of
        its classes.

    Raises:
        UserError: See :meth:`clouds_mmseg.Segmenter.with_classes`.
    """
    classifier = getattr(model.decode_head, 'cls_embed', None)
    if not isinstance(classifier, TextClassifier):
        raise UserError(
            'with_classes needs a model with the text classifier '
            "(classifier=dict(type='text', ...)); the classes of this one are "
            'fixed'
        )
    names, words = _names_and_words(classes)
    if 'pretrained' not in text_tower:
        raise UserError(
            'the config of the model does not say which CLIP its text '
            "embeddings came from; give model_name='...' and "
            "pretrained='...' to with_classes"
        )
    embeddings, counts = class_text_embeddings(words, **text_tower)
    size = classifier.text_embeddings.shape[1]
    if embeddings.shape[1] != size:
        raise UserError(
            f'the text embeddings have {embeddings.shape[1]} dimensions, but '
            f'the classifier of the model compares {size}: this is not the '
            'CLIP that it was trained with'
        )
    return _with_embeddings(model, embeddings, counts), tuple(names)


def _names_and_words(classes):
    """Return the name of each class, and its synonyms."""
    if isinstance(classes, Mapping):
        names = list(classes)
        words = [[w] if isinstance(w, str) else w for w in classes.values()]
    elif isinstance(classes, str) or not isinstance(classes, Sequence):
        raise UserError(
            'classes must be a list of names, a list of lists of synonyms, or '
            f'name -> synonyms, got {classes!r}'
        )
    else:
        words = [[c] if isinstance(c, str) else c for c in classes]
        names = [list(w)[0] if len(w) else '' for w in words]
    for name, synonyms in zip(names, words, strict=True):
        if not isinstance(name, str) or not name or not len(synonyms):
            raise UserError(
                f'the class {name!r} has the names {list(synonyms)!r}; each '
                'class needs at least one'
            )
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise UserError(f'the class {double[0]!r} is named twice')
    if not 1 <= len(names) <= _MOST_CLASSES:
        raise UserError(
            f'there can be 1 to {_MOST_CLASSES} classes, got {len(names)}'
        )
    return names, words


def _with_embeddings(model, embeddings, counts):
    """Return a model that shares all parameters, for other classes."""

    def shallow(module):
        found = copy.copy(module)
        # These are shared by copy.copy.
        found._modules = dict(module._modules)
        found._buffers = dict(module._buffers)
        return found

    model, head = shallow(model), shallow(model.decode_head)
    classifier = shallow(head.cls_embed)
    before = classifier.text_embeddings
    classifier.text_embeddings = F.normalize(embeddings.float(), dim=-1).to(
        before
    )
    classifier.num_synonyms = list(counts)
    head.cls_embed, model.decode_head = classifier, head
    for part in (head, model):
        part.num_classes = part.out_channels = len(counts)
    return model
