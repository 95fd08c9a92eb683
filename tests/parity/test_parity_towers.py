"""Towers and adapters against recorded outputs of the originals."""

import pytest
import torch
from parity import check_file
from safetensors import safe_open
from safetensors.torch import save_file
from test_parity import tool  # noqa: F401

FILES = {
    'rein_module_tiny': 'rein module',
    'rein_vit_tiny': 'rein vit',
    'rein_convnext_tiny': 'rein convnext',
    'rein_head_tiny': 'rein head',
    'soma_decomposition_tiny': 'soma svd',
    'soma_vit_tiny': 'soma vit',
    'soma_merge_tiny': 'soma merge',
    'converters_tiny': 'converters',
    'pmt_dinov3_tiny': 'pmt',
    'pmt_dinov2_tiny': 'pmt',
    'eomt_dinov2_tiny': 'eomt',
    'eomt_dinov3_tiny': 'eomt',
    'tqdm_tiny': 'tqdm',
}


def test_recorded_files_pass(reference_dir, tool):  # noqa: F811
    files = sorted((reference_dir / 'towers').glob('*.safetensors'))
    assert {file.stem for file in files} == set(FILES)
    status, rows = tool(*files)
    assert status == 0, rows
    # Without the warnings of towers that are frozen with random weights.
    rows = [row for row in rows if row.startswith(('ok', 'MISS'))]
    for row, file in zip(rows, files, strict=True):
        assert row.startswith('ok') and FILES[file.stem] in row


@pytest.mark.parametrize(
    ('name', 'key'),
    [
        ('rein_module_tiny', 'nolink.grad.scale'),
        ('rein_vit_tiny', 'rect.pos'),
        ('rein_vit_tiny', 'same.grad.reins.merge.weight'),
        ('rein_convnext_tiny', 'queries'),
        ('rein_head_tiny', 'per_image.mask'),
        ('rein_head_tiny', 'grad.querys2feat.bias'),
        ('soma_decomposition_tiny', 'm2.moved.merged_weight'),
        ('soma_vit_tiny', 'same.grad.model.blocks.3.attn.k.lora_A.weight'),
        ('converters_tiny', 'eva.out.pos_embed'),
        ('pmt_dinov3_tiny', 'masked.grad.decoder.q.weight'),
        ('pmt_dinov3_tiny', 'lateral.2'),
        ('pmt_dinov2_tiny', 'plain.block.1'),
        ('eomt_dinov2_tiny', 'masked.tokens_before_block.3'),
        (
            'eomt_dinov3_tiny',
            'masked.grad.encoder.backbone.blocks.0.attention.k_proj.weight',
        ),
        ('tqdm_tiny', 'pixel.layer.1.after_text_cross'),
        ('tqdm_tiny', 'loss.reg.textual.loss'),
        ('tqdm_tiny', 'grad.contexts'),
        ('soma_merge_tiny', 'merged.state_dict|decode_head.cls_embed.bias'),
    ],
)
def test_a_changed_output_is_a_miss(reference_dir, tmp_path, name, key):
    path = reference_dir / f'towers/{name}.safetensors'
    with safe_open(path, 'pt') as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
        metadata = file.metadata()
    value = tensors[key].clone()
    value.view(-1)[0] += max(1e-3, 1e-3 * value.abs().max().item())
    tensors[key] = value
    save_file(tensors, tmp_path / 'changed.safetensors', metadata)
    report = check_file(tmp_path / 'changed.safetensors')
    assert not report.passed, key
    assert torch.isfinite(torch.tensor(report.worst.error))
