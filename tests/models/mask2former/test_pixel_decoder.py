"""How the maps of the pixel decoder lie in memory."""

import pytest
import torch


@pytest.mark.parametrize('batch', [1, 2])
def test_memories_are_enlarged_without_a_copy(head, make_feats, batch):
    with torch.no_grad():
        _, memories = head.pixel_decoder(make_feats((64, 96), batch=batch))
    for memory in memories:
        # Said by the strides of a batch of one, too: torch goes by them.
        channels, height, width = memory.shape[1:]
        assert memory.stride()[1:] == (1, width * channels, channels)
        assert memory.stride(0) >= height * width * channels
        enlarged = torch.nn.functional.interpolate(
            memory, scale_factor=2, mode='bilinear'
        )
        assert enlarged.stride(1) == 1
