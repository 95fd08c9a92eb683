"""From a query to its class: a linear layer, or likeness to text.

Letters: N images, Q queries, K classes, S synonyms of all classes together,
C channels of a query, D dimensions of a text embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from clouds_mmseg.models.mask2former.layers import mlp
from clouds_mmseg.models.text_embeddings import load_text_embeddings


def build_classifier(config, *, channels, mask_channels, num_classes):
    """Build the classifier that a config names.

    Args:
        config (dict): ``type`` and the options of the classifier.
        channels (int): Channels of a query.
        mask_channels (int): Channels of the map that masks are made of.
        num_classes (int): K.

    Returns:
        nn.Module: Callable with queries, mask features and mask logits.

    Raises:
        ValueError: For another type or option.
        UserError: For text embeddings that do not fit the classes.
    """
    options = dict(config)
    kind = options.pop('type', None)
    known = {
        'linear': set(),
        'text': {'text_embeddings', 'num_synonyms', 'embed_dim'},
    }
    if kind not in known:
        raise ValueError(
            f"classifier.type must be 'linear' or 'text', got {kind!r}"
        )
    if unknown := set(options) - known[kind]:
        raise ValueError(
            f'classifier of type {kind!r} has no option {sorted(unknown)}; '
            f'it has {sorted(known[kind])}'
        )
    if kind == 'linear':
        return LinearClassifier(channels, num_classes)
    rows, counts = load_text_embeddings(
        options.pop('text_embeddings', None),
        num_classes=num_classes,
        **options,
    )
    return TextClassifier(
        channels=channels,
        mask_channels=mask_channels,
        text_embeddings=rows,
        num_synonyms=counts,
    )


class LinearClassifier(nn.Linear):
    """One linear layer on the query; the default of CLOUDS.

    Args:
        channels (int): C.
        num_classes (int): K; one output more stands for "no object".
    """

    def __init__(self, channels, num_classes):
        super().__init__(channels, num_classes + 1)

    def forward(self, query, mask_features, mask_logits):
        """Classify queries (N, Q, C); the other arguments are not used.

        Returns:
            Tensor: (N, Q, K + 1) logits.
        """
        del mask_features, mask_logits
        return super().forward(query)


class TextClassifier(nn.Module):
    """Likeness between what a mask covers and the names of the classes.

    The features under a mask are averaged, projected, added to the query and
    mapped into the space of the text embeddings, where cosines are taken. A
    class is as like as the likest of its synonyms; "no object" has a learned
    embedding. Source: FC-CLIP (arXiv 2308.02487), section 3.2, and the text
    classifier of the official CLOUDS code.

    The embeddings are no part of the ``state_dict``: the config says where
    they come from.

    Args:
        channels (int): C.
        mask_channels (int): Channels of the map that masks are made of.
        text_embeddings (Tensor): (S, D) float32, synonyms of a class beside
            one another. Rows are scaled to unit length.
        num_synonyms (list[int]): How many rows each class has; sums to S.
    """

    # CLIP's first and greatest scale of a cosine (arXiv 2103.00020, 2.5).
    FIRST_SCALE = 1 / 0.07
    GREATEST_SCALE = 100.0

    def __init__(
        self, *, channels, mask_channels, text_embeddings, num_synonyms
    ):
        super().__init__()
        size = text_embeddings.shape[1]
        self.mask_pooling_proj = nn.Sequential(
            nn.LayerNorm(mask_channels), nn.Linear(mask_channels, channels)
        )
        self.embed = mlp(channels, channels, size)
        self.logit_scale = nn.Parameter(
            torch.tensor(math.log(self.FIRST_SCALE))
        )
        self.void_embedding = nn.Embedding(1, size)
        self.num_synonyms = list(num_synonyms)
        self.register_buffer(
            'text_embeddings',
            F.normalize(text_embeddings.detach().float(), dim=-1),
            persistent=False,
        )

    def forward(self, query, mask_features, mask_logits):
        """Classify queries.

        Args:
            query (Tensor): (N, Q, C).
            mask_features (Tensor): (N, mask_channels, h, w).
            mask_logits (Tensor): (N, Q, h, w).

        Returns:
            Tensor: (N, Q, K + 1) logits, float32.
        """
        pooled = pool_under_masks(mask_features, mask_logits)
        embedded = self.embed(query + self.mask_pooling_proj(pooled))
        with torch.autocast(query.device.type, enabled=False):
            void = F.normalize(self.void_embedding.weight.float(), dim=-1)
            text = torch.cat([self.text_embeddings.float(), void])
            scale = self.logit_scale.float().exp()
            scale = scale.clamp(max=self.GREATEST_SCALE)
            likeness = F.normalize(embedded.float(), dim=-1) @ text.t()
            groups = (scale * likeness).split([*self.num_synonyms, 1], dim=-1)
            return torch.stack([g.amax(dim=-1) for g in groups], dim=-1)


def pool_under_masks(features, mask_logits):
    """Average a map over the pixels of each mask.

    Args:
        features (Tensor): (N, C, h, w).
        mask_logits (Tensor): (N, Q, h, w); a pixel is covered where the
            logit is positive. No gradient flows into the masks.

    Returns:
        Tensor: (N, Q, C), zero for an empty mask.
    """
    masks = (mask_logits.detach() > 0).to(features.dtype).flatten(2)
    total = masks @ features.flatten(2).transpose(1, 2)
    # Summed in float32: half precision cannot count the pixels of a mask.
    area = masks.sum(dim=2, keepdim=True, dtype=torch.float32)
    return total / area.clamp(min=1).to(total.dtype)
