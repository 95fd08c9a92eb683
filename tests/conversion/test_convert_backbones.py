import pytest
import torch
from convert_helpers import assert_same, back, convert
from mmseg.models import ResNet, SwinTransformer
from mmseg.models.utils.embed import PatchMerging
from torch import nn

from clouds_mmseg.conversion.layouts import (
    detect,
    mmseg_to_swin_order,
    swin_to_mmseg_order,
)
from clouds_mmseg.conversion.target_spec import spec_from_weights
from clouds_mmseg.utils.errors import UserError


def with_backbone(head, backbone):
    """Ours, with random weights in the backbone."""
    torch.manual_seed(0)
    state = {
        f'backbone.{key}': torch.rand_like(value)
        if value.is_floating_point()
        else value
        for key, value in backbone.state_dict().items()
    }
    return {**convert(head).weights, **state}


@pytest.mark.parametrize('depth', [50, 101])
def test_resnet_of_detectron2(tiny_head, depth):
    with torch.device('meta'):
        names = {f'backbone.{key}' for key in ResNet(depth).state_dict()}
    ours = convert(tiny_head('linear')).weights
    with torch.device('meta'):
        resnet = ResNet(depth).state_dict()
    ours.update({f'backbone.{k}': v for k, v in resnet.items()})
    there = back(ours, 'mask2former').weights
    assert {
        'backbone.stem.conv1.weight',
        'backbone.stem.conv1.norm.running_mean',
        'backbone.res2.0.shortcut.norm.weight',
        f'backbone.res4.{5 if depth == 50 else 22}.conv3.norm.bias',
        'backbone.res5.2.conv2.weight',
    } <= there.keys()
    # detectron2's frozen normalisation does not count batches.
    published = {k: v for k, v in there.items() if 'tracked' not in k}
    again = convert(published)
    assert again.absent.keys() == {k for k in names if 'tracked' in k}
    assert again.weights.keys() == ours.keys() - again.absent.keys()
    assert all(again.weights[key] is ours[key] for key in again.weights)


def test_swin_of_its_authors(tiny_head):
    swin = SwinTransformer(
        embed_dims=8,
        depths=(1, 2, 1, 1),
        num_heads=(1, 2, 2, 4),
        window_size=4,
    )
    ours = with_backbone(tiny_head('linear'), swin)
    there = back(ours, 'mask2former').weights
    assert {
        'backbone.patch_embed.proj.weight',
        'backbone.layers.1.blocks.1.attn.relative_position_bias_table',
        'backbone.layers.0.blocks.0.mlp.fc2.bias',
        'backbone.layers.2.downsample.reduction.weight',
        'backbone.norm3.weight',
    } <= there.keys()
    layout = detect(there)
    assert (layout.kind, layout.backbone) == ('mask2former', 'swin')
    assert_same(convert(there).weights, ours)
    lost = 'backbone.layers.1.'
    with pytest.raises(UserError, match='no Swin Transformer of four stages'):
        convert({k: v for k, v in there.items() if not k.startswith(lost)})


class AuthorsMerging(nn.Module):
    """The merging of Swin's authors: neighbours one after another."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x):  # (N, H, W, C)
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


def test_merged_patches_mean_the_same():
    torch.manual_seed(0)
    theirs, ours = (
        AuthorsMerging(3),
        PatchMerging(3, 6, norm_cfg=dict(type='LN')),
    )
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    state = {k: swin_to_mmseg_order(v) for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 4, 6, 3)
    found, size = ours(x.flatten(1, 2), (4, 6))
    assert size == (2, 3)
    torch.testing.assert_close(found, theirs(x).flatten(1, 2))
    for key, value in theirs.state_dict().items():
        assert torch.equal(mmseg_to_swin_order(state[key]), value)


def test_other_backbones_are_not_renamed(tiny_head):
    head = tiny_head('linear')
    head['backbone.stem.odd.weight'] = torch.ones(1)
    with pytest.raises(UserError, match=r'odd\.weight'):
        convert(head)
    # In our names nothing has to be known about it.
    ours = convert(tiny_head('linear')).weights
    ours['backbone.odd.weight'] = torch.ones(1)
    assert 'backbone.odd.weight' in convert(ours).weights
    with pytest.raises(UserError, match='neither a ResNet nor a Swin'):
        spec_from_weights(ours, backbone=True, renamed=True)
