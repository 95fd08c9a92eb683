"""Gradient checkpointing: the same gradients, with less kept for them."""

import pytest
import torch

from clouds_mmseg.models import TIMMTower, TransformersTower
from clouds_mmseg.utils.errors import UserError

SMALL = dict(embed_dim=32, depth=4, num_heads=2)
REIN = dict(type='Rein', num_tokens=6, rank=4, query_channels=32)
LORA = dict(type='LoRA', rank=4)
DINO = dict(
    model_type='dinov2',
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    patch_size=8,
    image_size=48,
)
TOWERS = {
    'vit': lambda **k: TIMMTower('test_vit', **k),
    'eva': lambda **k: TIMMTower(
        'vit_small_patch16_dinov3_qkvb', **SMALL, **k
    ),
    'convnext': lambda **k: TIMMTower('test_convnext2', **k),
    'hiera': lambda **k: TIMMTower(
        'sam2_hiera_tiny',
        embed_dim=16,
        stages=(1, 1, 2, 1),
        global_att_blocks=(3,),
        **k,
    ),
    'transformers': lambda **k: TransformersTower(config=DINO, **k),
}


def run(tower, image, **kwargs):
    """Gradients by name, and the bytes that autograd kept for them."""
    torch.manual_seed(0)
    backbone = TOWERS[tower](**kwargs)
    backbone.train()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            # A LoRA begins at zero, and so do its gradients.
            if parameter.requires_grad or 'gamma' in name:
                parameter.add_(0.1)
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        maps = backbone(image)
        loss = sum(m.square().mean() for m in maps)
        if hasattr(maps, 'queries'):
            loss = loss + maps.queries.square().mean()
    own = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    loss.backward()
    gradients = {
        name: p.grad
        for name, p in backbone.named_parameters()
        if p.requires_grad
    }
    return gradients, sum(n for at, n in kept.items() if at not in own)


@pytest.mark.parametrize(
    ('tower', 'kwargs'),
    [(tower, dict(adapter=LORA)) for tower in ('vit', 'convnext', 'hiera')]
    + [(tower, dict(adapter=REIN)) for tower in ('eva', 'transformers')]
    + [('vit', dict(frozen=False))],
    ids=str,
)
def test_same_gradients_for_less_memory(tower, kwargs):
    image = torch.randn(1, 3, 96, 128, generator=torch.manual_seed(1))
    expected, much = run(tower, image, **kwargs)
    found, little = run(tower, image, grad_checkpointing=True, **kwargs)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=0)
    assert little < 0.7 * much


def test_a_tower_without_it_is_refused():
    with pytest.raises(UserError, match='no gradient checkpointing'):
        TIMMTower('dla46_c', grad_checkpointing=True)
