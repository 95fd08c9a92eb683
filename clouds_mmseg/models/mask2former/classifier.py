"""From a query to its class: a linear layer, or likeness to text."""

from torch import nn


class LinearClassifier(nn.Linear):
    """One linear layer on the query; the default of CLOUDS.

    Args:
        channels (int): Channels of a query.
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
