"""Layers that take less memory where there is no gradient."""

import torch
from tensor_sizes import TensorSizes

from clouds_mmseg.models.mask2former.layers import FeedForward


def test_hidden_channels_exist_for_one_chunk_at_a_time(monkeypatch):
    monkeypatch.setattr(FeedForward, 'CHUNK_SIZE', 8)
    torch.manual_seed(0)
    layer, x = FeedForward(4, 32), torch.randn(2, 21, 4)
    whole = layer(x)
    with torch.no_grad(), TensorSizes() as sizes:
        chunked = layer(x)
    torch.testing.assert_close(chunked, whole)
    assert max(sizes.seen) == 2 * 8 * 32
