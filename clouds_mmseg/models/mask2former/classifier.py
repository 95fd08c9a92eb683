"""Classifiers of queries: a linear layer, or similarity to class names.

Letters: N images, Q queries, K classes, S synonyms of all classes together,
C channels of a query, D dimensions of a text embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.layers import mlp, no_autocast
from clouds_mmseg.models.text_embeddings import load_text_embeddings
from clouds_mmseg.utils.errors import UserError


def build_classifier(
    config: dict, *, channels: int, mask_channels: int, num_classes: int
) -> nn.Module:
    """Build the classifier that a config names.

    Args:
        config: ``type``, ``'linear'`` or ``'text'``, and for ``'text'`` the
            arguments of
            :func:`~clouds_mmseg.models.text_embeddings.load_text_embeddings`.
        channels: C.
        mask_channels: Channels of the mask features.
        num_classes: K.

    Returns:
        A module that is called with queries, mask features and mask logits.

    Raises:
        UserError: For an unknown type or option.
        UserError: For text embeddings that do not fit the classes.
    """
    options = dict(config)
    name = options.pop('type', None)
    known = {
        'linear': set(),
        'text': {'text_embeddings', 'num_synonyms', 'embed_dim'},
    }
    if name not in known:
        raise UserError(
            f"classifier.type must be 'linear' or 'text', got {name!r}"
        )
    if unknown := set(options) - known[name]:
        raise UserError(
            f'classifier of type {name!r} has no option {sorted(unknown)}; '
            f'it has {sorted(known[name])}'
        )
    if name == 'linear':
        return LinearClassifier(channels, num_classes)
    embeddings, counts = load_text_embeddings(
        options.pop('text_embeddings', None),
        num_classes=num_classes,
        **options,
    )
    return TextClassifier(
        channels=channels,
        mask_channels=mask_channels,
        text_embeddings=embeddings,
        num_synonyms=counts,
    )


class LinearClassifier(nn.Linear):
    """One linear layer on the query; the default of CLOUDS.

    Args:
        channels: C.
        num_classes: K; there is one more output for "no object".
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__(channels, num_classes + 1)

    def forward(
        self, query: Tensor, mask_features: Tensor, mask_logits: Tensor
    ) -> Tensor:
        """Classify queries (N, Q, C); the other arguments are not used.

        Returns:
            (N, Q, K + 1) logits.
        """
        del mask_features, mask_logits
        return super().forward(query)


class TextClassifier(nn.Module):
    """Cosine similarity of mask-pooled features and class name embeddings.

    The mask features are averaged over a mask, projected, added to the query
    and mapped into the space of the text embeddings. The logit of a class is
    the scaled cosine similarity, the maximum over its synonyms; "no object"
    has a learned embedding. Source: FC-CLIP (arXiv 2308.02487), section 3.2,
    and the text classifier of the official CLOUDS code.

    The text embeddings are not part of the ``state_dict``: the config says
    where they come from.

    Args:
        channels: C.
        mask_channels: Channels of the mask features.
        text_embeddings: (S, D) float32, the synonyms of a class in adjacent
            rows. Rows are scaled to unit length.
        num_synonyms: Number of synonyms of each class; sums to S.
    """

    # Initial and largest scale of the cosine in CLIP (arXiv 2103.00020, 2.5).
    INITIAL_SCALE = 1 / 0.07
    MAX_SCALE = 100.0

    def __init__(
        self,
        *,
        channels: int,
        mask_channels: int,
        text_embeddings: Tensor,
        num_synonyms: list[int],
    ):
        super().__init__()
        size = text_embeddings.shape[1]
        self.mask_pooling_proj = nn.Sequential(
            nn.LayerNorm(mask_channels), nn.Linear(mask_channels, channels)
        )
        self.embed = mlp(channels, channels, size)
        self.logit_scale = nn.Parameter(
            torch.tensor(math.log(self.INITIAL_SCALE))
        )
        self.void_embedding = nn.Embedding(1, size)
        self.num_synonyms = list(num_synonyms)
        self.register_buffer(
            'text_embeddings',
            F.normalize(text_embeddings.detach().float(), dim=-1),
            persistent=False,
        )

    def forward(
        self, query: Tensor, mask_features: Tensor, mask_logits: Tensor
    ) -> Tensor:
        """Classify queries by the features inside of their masks.

        Args:
            query: (N, Q, C).
            mask_features: (N, mask_channels, h, w).
            mask_logits: (N, Q, h, w).

        Returns:
            (N, Q, K + 1) logits, float32.
        """
        pooled = pool_under_masks(mask_features, mask_logits)
        embedded = self.embed(query + self.mask_pooling_proj(pooled))
        with no_autocast(query.device.type):
            void = F.normalize(self.void_embedding.weight.float(), dim=-1)
            text = torch.cat([self.text_embeddings.float(), void])
            scale = self.logit_scale.float().exp()
            scale = scale.clamp(max=self.MAX_SCALE)
            similarity = F.normalize(embedded.float(), dim=-1) @ text.t()
            groups = (scale * similarity).split(
                [*self.num_synonyms, 1], dim=-1
            )
            return torch.stack([g.amax(dim=-1) for g in groups], dim=-1)


def pool_under_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Average a feature map over the pixels of each mask (mask pooling).

    Args:
        features: (N, C, h, w).
        mask_logits: (N, Q, h, w); a mask is where its logit is positive. No
            gradient flows into the masks.

    Returns:
        (N, Q, C), zero for an empty mask.
    """
    masks = (mask_logits.detach() > 0).to(features.dtype).flatten(2)
    total = masks @ features.flatten(2).transpose(1, 2)
    # Summed in float32: half precision cannot represent large counts.
    area = masks.sum(dim=2, keepdim=True, dtype=torch.float32)
    return total / area.clamp(min=1).to(total.dtype)
