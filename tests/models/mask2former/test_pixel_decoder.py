"""Memory layout of the maps of the pixel decoder."""

import pytest
import torch
from tensor_sizes import TensorSizes


@pytest.mark.parametrize('batch', [1, 2])
def test_features_are_upsampled_without_a_copy(head, make_feats, batch):
    with torch.no_grad():
        _, features = head.pixel_decoder(make_feats((64, 96), batch=batch))
    for feature in features:
        # torch chooses the layout by the strides, at batch size 1 too.
        channels, height, width = feature.shape[1:]
        assert feature.stride()[1:] == (1, width * channels, channels)
        assert feature.stride(0) >= height * width * channels
        upsampled = torch.nn.functional.interpolate(
            feature, scale_factor=2, mode='bilinear'
        )
        assert upsampled.stride(1) == 1


def test_the_finest_map_is_changed_in_place(head, make_feats):
    with torch.no_grad(), TensorSizes() as sizes:
        head.pixel_decoder(make_feats((64, 96), batch=1))
    after = sizes.calls[sizes.calls.index('upsample_bilinear2d') + 1 :]
    assert after[0] == 'add_'
    assert 'relu_' in after and 'relu' not in after


@pytest.mark.parametrize(
    'gradient, dtype, channels_last',
    [
        (True, torch.float32, False),
        (False, torch.float32, True),
        (True, torch.bfloat16, True),
    ],
)
def test_the_trained_convolution_gets_its_faster_layout(
    head, make_feats, gradient, dtype, channels_last
):
    found = []
    hook = head.pixel_decoder.output_convs[0].register_forward_pre_hook(
        lambda module, args: found.append(args[0])
    )
    feats = [
        x.contiguous(memory_format=torch.channels_last)
        for x in make_feats((64, 96))
    ]
    autocast = torch.autocast('cpu', torch.bfloat16, dtype != torch.float32)
    with torch.set_grad_enabled(gradient), autocast:
        head.pixel_decoder(feats)
    hook.remove()
    assert found[0].dtype == dtype
    assert found[0].is_contiguous() != channels_last
    assert (
        found[0].is_contiguous(memory_format=torch.channels_last)
        == channels_last
    )
