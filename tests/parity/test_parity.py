import importlib.util
import json
import re
import sys

import pytest
import torch
from parity import check_file
from safetensors import safe_open
from safetensors.torch import save_file

from clouds_mmseg.models import CLOUDSHead

FILES = [
    ('mask2former_zoo_tiny', 'zoo head'),
    ('clouds_official_head_linear_tiny', 'official head'),
    ('clouds_official_head_text_tiny', 'official head'),
    ('clouds_official_criterion', 'criterion'),
    ('clouds_official_sam_refine', 'refinement'),
]


@pytest.fixture
def tool(repo_root, monkeypatch, capsys):
    """tools/check_parity.py as a function: exit status and printed rows."""
    spec = importlib.util.spec_from_file_location(
        'check_parity', repo_root / 'tools/check_parity.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*files):
        monkeypatch.setattr(sys, 'argv', ['check_parity', *map(str, files)])
        with pytest.raises(SystemExit) as end:
            module.main()
        return int(end.value.code), capsys.readouterr().out.splitlines()

    return run


def read(path):
    with safe_open(path, 'pt') as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return tensors, file.metadata()


def test_all_recorded_files_pass(reference_dir, tool):
    files = sorted(reference_dir.glob('*.safetensors'))
    status, rows = tool(*files)
    assert status == 0
    assert len(rows) == len(files) == len(FILES)
    for row, file in zip(rows, files, strict=True):
        assert row.startswith('ok') and str(file) in row


@pytest.mark.parametrize(('name', 'kind'), FILES)
def test_any_changed_output_is_a_miss(reference_dir, tmp_path, name, kind):
    """Of every output: what is not compared would pass unseen."""
    tensors, metadata = read(reference_dir / f'{name}.safetensors')
    inputs = (
        'state.',
        'feat.',
        'label_map',
        'match_point',
        'loss_point',
        'sam_',
    )
    givens = {'text_classifier'}
    if kind == 'criterion':
        givens |= {'pred_logits', 'pred_masks'}
    outputs = [
        key
        for key in tensors
        if not key.startswith(inputs) and key not in givens
    ]
    assert len(outputs) >= 5
    # Each check builds its head anew: the first, the last and one between.
    for key in {outputs[0], outputs[len(outputs) // 2], outputs[-1]}:
        changed = dict(tensors)
        value = tensors[key].clone()
        first = (0,) * value.dim()
        if value.dtype == torch.bool:
            value[first] = ~value[first]
        else:
            value[first] = value[first] + (
                1e-3 if value.is_floating_point() else 1
            )
        changed[key] = value
        save_file(changed, tmp_path / 'changed.safetensors', metadata)
        report = check_file(tmp_path / 'changed.safetensors')
        assert report.kind == kind
        assert not report.passed and report.worst.name == key


def test_nan_is_a_miss(reference_dir, tmp_path):
    tensors, metadata = read(reference_dir / f'{FILES[0][0]}.safetensors')
    tensors['seg_logits'][0, 0, 0, 0] = float('nan')
    save_file(tensors, tmp_path / 'nan.safetensors', metadata)
    report = check_file(tmp_path / 'nan.safetensors')
    assert not report.passed and report.worst.name == 'seg_logits'


@pytest.mark.parametrize(
    ('size', 'batch', 'layers', 'points'),
    [((37, 61), 1, (1, 1), 4), ((64, 32), 3, (3, 5), 2)],
)
def test_other_sizes_and_numbers_of_layers(
    tmp_path, size, batch, layers, points
):
    """A recording of the head itself, of which only the file is known."""
    torch.manual_seed(0)
    head = CLOUDSHead(
        in_channels=[4, 8, 12, 16],
        num_classes=3,
        feat_channels=24,
        out_channels=20,
        num_queries=5,
        num_heads=2,
        num_encoder_layers=layers[0],
        encoder_ffn_channels=12,
        num_decoder_layers=layers[1],
        decoder_ffn_channels=28,
        num_groups=4,
        num_points=points,
    ).eval()
    feats = [
        torch.randn(batch, c, *(-(-side // s) for side in size))
        for c, s in zip([4, 8, 12, 16], (4, 8, 16, 32), strict=True)
    ]
    content = {f'state.{k}': v for k, v in head.state_dict().items()}
    content.update({f'feat.{i}': x for i, x in enumerate(feats)})
    with torch.no_grad():
        mask_features, multi_scale_features = head.pixel_decoder(feats)
        classes, masks = head(feats)
        scores = head.predict(feats, [dict(img_shape=size)])
    content['pixel_decoder.mask_features'] = mask_features
    for name, values in (
        ('pixel_decoder.memory', multi_scale_features),
        ('cls', classes),
        ('mask', masks),
    ):
        content.update({f'{name}.{i}': x for i, x in enumerate(values)})
    content['seg_logits'] = scores
    content = {k: v.contiguous() for k, v in content.items()}
    config = json.dumps(dict(heads=2, groups=4, hw=size))
    path = tmp_path / 'other.safetensors'
    save_file(content, path, dict(config=config))
    assert check_file(path).passed
    content['mask.1'] = content['mask.1'][:, :-1].contiguous()
    save_file(content, path, dict(config=config))
    assert 'mask.1' in check_file(path).detail


def test_names_and_shapes(reference_dir, tmp_path):
    path = reference_dir / 'mask2former_r50_cityscapes_zoo_keys.json'
    shapes = json.loads(path.read_text())
    small = {
        key: shape
        for key, shape in shapes.items()
        if not re.search(r'coder\.layers\.[1-9]', key)
    }
    file = tmp_path / 'keys.json'
    file.write_text(json.dumps(small))
    assert check_file(file).passed
    small['decode_head.level_embed.weight'] = [4, 256]
    file.write_text(json.dumps(small))
    report = check_file(file)
    assert report.worst[:2] == ('decode_head.level_embed.weight', 1)
    assert not report.passed
    del small['decode_head.cls_embed.bias']
    file.write_text(json.dumps(small))
    assert 'neither linear nor' in check_file(file).problem


def test_files_that_cannot_be_compared_are_rows_too(
    reference_dir, tmp_path, tool
):
    recorded = reference_dir / f'{FILES[0][0]}.safetensors'
    tensors, metadata = read(recorded)
    cut = tmp_path / 'cut.safetensors'
    cut.write_bytes(recorded.read_bytes()[:5000])
    strange = tmp_path / 'strange.safetensors'
    save_file({'weight': torch.zeros(1)}, strange, metadata)
    silent = tmp_path / 'silent.safetensors'
    save_file(tensors, silent)
    weightless = dict(tensors)
    del weightless['state.mask_embed.0.weight']
    lacking = tmp_path / 'lacking.safetensors'
    save_file(weightless, lacking, metadata)
    less = tmp_path / 'less.safetensors'
    save_file(
        {k: v for k, v in tensors.items() if k != 'cls.1'}, less, metadata
    )
    text = tmp_path / 'text.json'
    text.write_text('{')
    listing = tmp_path / 'list.json'
    listing.write_text('[]')
    expected = {
        tmp_path / 'none.safetensors': 'no such file',
        cut: 'no readable safetensors',
        strange: "none of the known references.*'weight'",
        silent: 'no "config"',
        lacking: '1 keys missing',
        less: "KeyError: 'cls.1'",
        text: 'no readable JSON',
        listing: 'JSON object',
    }
    status, rows = tool(*expected, recorded)
    assert status == 1
    assert len(rows) == len(expected) + 1
    assert rows[-1].startswith('ok')
    for row, message in zip(rows, expected.values(), strict=False):
        assert row.startswith('MISS')
        assert re.search(message, row), row
