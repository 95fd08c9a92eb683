"""Masks as products of embedded queries with a map of features.

Letters: N images, Q queries, C channels, M matched pairs.
"""

import torch


def multiply(embeddings, features):
    """Make the masks of all queries.

    Args:
        embeddings (Tensor): (N, Q, C).
        features (Tensor): (N, C, h, w).

    Returns:
        Tensor: (N, Q, h, w) logits, channels last in memory: what reads all
        masks of a cell, to resize them or at points, finds them together.
    """
    cells = features.flatten(2).transpose(1, 2)
    masks = cells @ embeddings.transpose(1, 2)  # (N, h * w, Q)
    return masks.transpose(1, 2).unflatten(2, features.shape[-2:])


class MatchedMasks:
    """Makes masks with a gradient where it is used.

    The masks of all queries are wanted to match them, to classify them and
    to say where they attend: nothing of which has a gradient. The losses are
    those of the matched masks, some fifteen of a hundred. These are made a
    second time, instead of carrying the gradient of all.

    Args:
        features (Tensor): (N, C, h, w).
    """

    def __init__(self, features):
        self.features = features
        self.embeddings = []

    def add(self, embeddings):
        """Make the masks of another output.

        Args:
            embeddings (Tensor): (N, Q, C).

        Returns:
            Tensor: (N, Q, h, w) logits without gradient.
        """
        self.embeddings.append(embeddings)
        return multiply(embeddings.detach(), self.features.detach())

    def __call__(self, matches):
        """Make the masks of matched queries.

        Args:
            matches (Matches): M pairs.

        Returns:
            Tensor: (M, h, w) logits. With no pair at all they still hang on
            the predictions, so that their gradient is zero and not missing.
        """
        embeddings = torch.stack(self.embeddings)
        embeddings = embeddings[matches.output, matches.image, matches.query]
        # One product an image, of all its pairs in all outputs.
        order = matches.image.argsort(stable=True)
        counts = matches.image.bincount(minlength=len(self.features)).tolist()
        masks = torch.cat(
            [
                pairs @ features
                for pairs, features in zip(
                    embeddings[order].split(counts),
                    self.features.flatten(2),
                    strict=True,
                )
            ]
        )
        masks = masks[order.argsort()]
        return masks.unflatten(1, self.features.shape[-2:])
