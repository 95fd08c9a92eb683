"""SAM's weights in the layouts in which they are published."""

import pytest
import torch
from tiny_promptable import sam_config
from tiny_sam import INPUT_SIZE, build_tiny_sam

from clouds_mmseg.refine.sam_model import build_sam, from_transformers
from clouds_mmseg.utils.errors import UserError


@pytest.fixture(scope='module')
def theirs():
    """transformers' own SAM, as small as ours, drawn at random."""
    from transformers import SamModel

    torch.manual_seed(0)
    model = SamModel(sam_config()).eval()
    for value in model.parameters():
        # Zeros and ones would hide what is exchanged.
        torch.nn.init.normal_(value, std=0.3)
    with torch.no_grad():
        shared = model.shared_image_embedding.positional_embedding
        shared.normal_()
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            shared
        )
    return model


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@torch.no_grad()
def test_transformers_layout_gives_equal_masks(
    theirs, tmp_path, monkeypatch, suffix
):
    from segment_anything import sam_model_registry

    monkeypatch.setitem(sam_model_registry, 'vit_b', build_tiny_sam)
    if suffix == '.pth':
        path = tmp_path / 'w.pth'
        torch.save(theirs.state_dict(), path)
    else:
        theirs.save_pretrained(tmp_path)
        path = tmp_path / 'model.safetensors'
    ours = build_sam('vit_b', path)
    torch.manual_seed(1)
    image = torch.randn(1, 3, INPUT_SIZE, INPUT_SIZE)
    points = torch.tensor([[[20.0, 30.0], [50.0, 10.0]]])
    labels = torch.tensor([[1, 0]])

    embedding = ours.image_encoder(image)
    expected = theirs.get_image_embeddings(image)
    if not torch.is_tensor(expected):
        expected = expected[0]
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)

    sparse, dense = ours.prompt_encoder((points, labels), None, None)
    masks, quality = ours.mask_decoder(
        image_embeddings=embedding,
        image_pe=ours.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    out = theirs(
        image_embeddings=expected,
        input_points=points[None],
        input_labels=labels[None],
        multimask_output=True,
    )
    scale = out.pred_masks.abs().max()
    assert scale > 0
    torch.testing.assert_close(
        masks / scale, out.pred_masks[0] / scale, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        quality, out.iou_scores[0], rtol=1e-3, atol=1e-3
    )


def test_every_name_is_known(theirs):
    renamed = from_transformers(theirs.state_dict())
    ours = build_tiny_sam().state_dict()
    assert {k: v.shape for k, v in renamed.items()} == {
        k: v.shape for k, v in ours.items()
    }
    # Only the second copy of the positional embedding, as some files have.
    one = dict(theirs.state_dict())
    del one['shared_image_embedding.positional_embedding']
    assert from_transformers(one).keys() == renamed.keys()
    assert from_transformers(ours) is ours


@pytest.mark.parametrize(
    ('key', 'title'),
    [
        ('image_encoder.trunk.pos_embed', 'SAM 2'),
        ('vision_encoder.backbone.pos_embed', 'SAM 2 in transformers'),
        ('mask_decoder.hf_token.weight', 'SAM-HQ'),
    ],
)
def test_other_sams_are_named(tmp_path, key, title):
    path = tmp_path / 'w.pth'
    torch.save({key: torch.zeros(2)}, path)
    with pytest.raises(UserError, match=f'w.pth holds the weights of {title}'):
        build_sam('vit_b', path)
