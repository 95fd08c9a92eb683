"""PMT, EoMT and queries of text, recorded for images of any size."""

import open_clip
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from clouds_mmseg.predict.network import ExportNetwork, record

_TOWER = dict(
    type='TIMMTower',
    model_name='vit_tiny_patch16_dinov3_qkvb',
    embed_dim=32,
    depth=2,
    num_heads=2,
    output='tokens',
    load_pretrained=False,
)
_FIVE = dict(num_queries=5)
_CLIP = dict(
    embed_dim=16,
    vision_cfg=dict(image_size=32, patch_size=16, width=64, layers=1),
    text_cfg=dict(
        context_length=77, vocab_size=49408, width=16, heads=2, layers=1
    ),
)
_TEXT_HEAD = dict(
    type='TextQueryHead',
    text=dict(
        classes=['road', 'car', 'sky'],
        model_name='tiny-exported',
        pretrained=None,
        decoder=dict(width=16, num_heads=2, num_layers=1),
    ),
    feat_channels=16,
    out_channels=16,
    num_heads=2,
    num_groups=4,
    num_encoder_layers=1,
    num_decoder_layers=1,
    encoder_ffn_channels=8,
    decoder_ffn_channels=8,
)


@pytest.mark.parametrize(
    ('tower', 'head'),
    [
        (
            dict(norm=True),
            dict(type='PMTHead', num_blocks=1, ffn_channels=32, **_FIVE),
        ),
        (
            dict(frozen=False, open_blocks=1),
            dict(type='EoMTHead', **_FIVE),
        ),
        (
            dict(
                type='TIMMCLIPTower',
                model_name='test_vit',
                embed_dim=32,
                depth=2,
                num_heads=2,
                img_size=64,
                num_classes=16,
                keep_initial=True,
            ),
            _TEXT_HEAD,
        ),
    ],
    ids=['pmt', 'eomt', 'text'],
)
def test_recorded_program_predicts_what_the_model_does(
    tower, head, monkeypatch
):
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, 'tiny-exported', _CLIP
    )
    init_default_scope('mmseg')
    backbone = tower if 'type' in tower else {**_TOWER, **tower}
    cfg = dict(
        type='DGSegmentor',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            bgr_to_rgb=True,
            pad_val=0,
            seg_pad_val=255,
            size=(64, 64),
            test_cfg=dict(size_divisor=32),
        ),
        backbone=backbone,
        decode_head=dict(head, num_classes=3),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    torch.manual_seed(0)
    model = MODELS.build(Config(dict(model=cfg)).model).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    network = ExportNetwork(model, ('labels', 'scores')).eval()
    # Masks are on: whether they are cannot depend on data in a program.
    program = record(network).module()
    if hasattr(model.decode_head, 'attn_mask_probs'):
        assert model.decode_head.recorded_probs is None
        assert 'get_embed' not in vars(model.backbone.model.rope)
    for size in ((1, 3, 64, 96), (3, 3, 75, 130)):
        image = torch.randint(0, 256, size, dtype=torch.uint8)
        with torch.no_grad():
            labels, scores = program(image)
            expected = network(image)
        torch.testing.assert_close(scores, expected[1], atol=1e-4, rtol=0)
        assert (labels == expected[0]).float().mean() > 0.999
        # Of each pixel.
        assert (scores.amax((2, 3)) - scores.amin((2, 3))).max() > 1e-3
