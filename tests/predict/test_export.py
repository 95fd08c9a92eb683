"""Exported programs against the models that they were made of."""

import gc
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image
from timm.layers import Conv2dSame
from tiny_run import CLASSES, PALETTE
from torch import nn

from clouds_mmseg import ExportedSegmenter, Segmenter
from clouds_mmseg.predict import export as export_module
from clouds_mmseg.predict import exported as exported_module
from clouds_mmseg.predict import network as network_module
from clouds_mmseg.predict.export import export, export_lines
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import write_weights
from clouds_mmseg_cli.command import main

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


@MODELS.register_module()
class FourConvs(BaseModule):
    """The least backbone that has four maps."""

    channels = (8, 8, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 2, 1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 4, 2, 1) for _ in range(4))

    def forward(self, x):
        maps = [self.stem(x).relu()]
        for conv in self.convs:
            maps.append(conv(maps[-1]).relu())
        return maps[1:]


_HEAD_CFG = """
model = dict(
    type='DGSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[120.0, 115.0, 110.0],
        std=[50.0, 60.0, 70.0], bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
        size=(32, 32), test_cfg=dict(size_divisor=32)),
    backbone=dict(type='FourConvs'),
    decode_head=dict(
        type='CLOUDSHead', num_classes=3, feat_channels=16, out_channels=8,
        num_queries=6, num_heads=2, num_encoder_layers=1,
        encoder_ffn_channels=16, num_decoder_layers=1,
        decoder_ffn_channels=16, num_groups=4, num_points=2),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
"""


_ZOO_CFG = """
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[128.0, 128.0, 128.0],
        std=[64.0, 64.0, 64.0],
        bgr_to_rgb=False, pad_val=0, seg_pad_val=255, size=(32, 32)),
    backbone=dict(type='FourConvs'),
    decode_head=dict(
        type='FCNHead', in_channels=8, in_index=1, channels=32, num_convs=2,
        dropout_ratio=0, num_classes=3, norm_cfg=dict(type='BN'),
        align_corners=False),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
"""


@pytest.fixture(scope='session')
def head_checkpoint(tmp_path_factory):
    """A random CLOUDSHead that predicts all of its classes."""
    torch.manual_seed(0)
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromstring(_HEAD_CFG, '.py').model)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.decode_head.cls_embed.weight.data *= 4
    path = tmp_path_factory.mktemp('head') / 'head.pth'
    meta = dict(
        cfg=_HEAD_CFG, dataset_meta=dict(classes=CLASSES, palette=PALETTE)
    )
    write_weights(path, model.state_dict(), meta)
    return path


@pytest.fixture(scope='session')
def head_file(head_checkpoint):
    path = head_checkpoint.with_suffix('.onnx')
    export(head_checkpoint, path)
    return path


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory):
    """A random model of MMSegmentation, which does not pad."""
    torch.manual_seed(0)
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromstring(_ZOO_CFG, '.py').model)
    model.decode_head.conv_seg.weight.data *= 200
    path = tmp_path_factory.mktemp('tiny') / 'tiny.pth'
    meta = dict(
        cfg=_ZOO_CFG, dataset_meta=dict(classes=CLASSES, palette=PALETTE)
    )
    write_weights(path, model.state_dict(), meta)
    return path


@pytest.fixture(scope='session')
def tiny_file(tiny_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp('export') / 'tiny.onnx'
    done = export(tiny_checkpoint, path)
    assert done.equal >= 99.9 and done.difference < 1e-3
    assert done.images == 3 and len(done.sizes) == 2
    return path


@pytest.fixture
def translated(tiny_file, monkeypatch):
    """Let exports of the tiny checkpoint begin with its ONNX file."""

    def copy(program, path, **kwargs):
        shutil.copy(tiny_file, path)

    monkeypatch.setattr(export_module, 'record', lambda network: None)
    monkeypatch.setattr(export_module, 'write_onnx', copy)


def images_of(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for height, width in shapes:
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height))
        found.append(np.asarray(image))
    return found


def _with_other_bias(source, target):
    """Copy the tiny file, with another class in most pixels."""
    import onnx

    model = onnx.load(str(source))
    changed = 0
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [3] and tensor.data_type == 1:
            array = onnx.numpy_helper.to_array(tensor) + [0, 99, 0]
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    array.astype(np.float32), tensor.name
                )
            )
            changed += 1
    assert changed
    onnx.save(model, str(target))


def test_the_head_of_clouds_is_exported(head_checkpoint, head_file):
    segmenter = Segmenter.from_pretrained(head_checkpoint, device='cpu')
    program = ExportedSegmenter(head_file, threads=1)
    sampling = {
        module.deformable_sampling
        for module in segmenter.model.modules()
        if hasattr(module, 'deformable_sampling')
    }
    assert sampling == {None}, 'the reference samples as it does on a CPU'
    seen = set()
    for shapes in ([(64, 96)] * 3, [(97, 203)], [(33, 40)] * 2, [(128, 32)]):
        images = images_of(*shapes)
        options = dict(scores=True, confidence=True, batch_size=4)
        for expected, found in zip(
            segmenter(images, **options),
            program(images, **options),
            strict=True,
        ):
            assert found.labels.dtype == np.uint8
            assert found.labels.shape == expected.labels.shape
            assert (found.labels == expected.labels).mean() > 0.999
            assert np.allclose(found.scores, expected.scores, atol=1e-4)
            assert np.allclose(
                found.confidence, expected.confidence, atol=1e-4
            )
            seen |= set(expected.labels.flat)
    assert seen == {0, 1, 2}


def test_export_leaves_the_model_as_it_was(head_checkpoint):
    model = Segmenter.from_pretrained(head_checkpoint, device='cpu').model
    model.backbone.same = Conv2dSame(3, 8, 3, stride=2)
    attention = model.decode_head.pixel_decoder.encoder.layers[0].self_attn
    attention.deformable_sampling = 'cpu'
    network = network_module.ExportNetwork(model)
    image = torch.randn(1, 3, 64, 96)
    expected = model.backbone.same(image)
    with network_module.exportable(network):
        assert attention.deformable_sampling == 'grid_sample'
        assert 'forward' in vars(model.backbone.same)
        assert torch.equal(model.backbone.same(image), expected)
    assert attention.deformable_sampling == 'cpu'
    assert 'forward' not in vars(model.backbone.same)


@pytest.mark.parametrize('kernel', [2, 3, 5])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dilation', [1, 2])
def test_padding_as_in_tensorflow_is_fixed(kernel, stride, dilation):
    torch.manual_seed(0)
    conv = Conv2dSame(3, 4, kernel, stride=stride, dilation=dilation)
    image = torch.randn(1, 3, 32, 64)
    found = network_module._FixedPadding(conv)(image)
    assert torch.equal(found, conv(image))


def test_a_model_of_mmsegmentation_is_exported(
    tiny_checkpoint, tiny_file, tiny_data
):
    segmenter = Segmenter.from_pretrained(tiny_checkpoint, device='cpu')
    program = ExportedSegmenter(tiny_file, threads=1)
    paths = sorted((tiny_data / 'day_val' / 'images').glob('*.png'))
    images = [*paths, *images_of((50, 71), (50, 71))]
    for expected, found in zip(
        segmenter(images, scores=True, batch_size=2),
        program(images, scores=True, batch_size=2),
        strict=True,
    ):
        assert (found.labels == expected.labels).mean() > 0.999
        assert np.allclose(found.scores, expected.scores, atol=1e-3)
        assert found.path == expected.path
    assert np.array_equal(
        program(paths[0]).overlay(), segmenter(paths[0]).overlay()
    )


def test_what_a_file_says_of_itself(tiny_checkpoint, tiny_file, head_file):
    program = ExportedSegmenter(tiny_file)
    assert program.classes == CLASSES
    assert program.palette.tolist() == PALETTE
    # BGR and RGB are not mixed up: the model takes BGR.
    assert program.metadata['preprocessing']['channel_order'] == 'BGR'
    about = program.metadata
    assert about['source']['sha256'] == sha256_of(tiny_checkpoint)
    assert about['precision'] == 'fp32' and about['opset'] == 18
    assert about['preprocessing']['mean'] == [128.0] * 3
    assert about['preprocessing']['multiple'] == 1
    inside = ExportedSegmenter(head_file).metadata['preprocessing']
    assert inside['multiple'] == 32 and inside['std'] == [50.0, 60.0, 70.0]
    assert inside['channel_order'] == 'RGB'
    assert inside['resize_outside'] == []


@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_lower_precision(
    precision, translated, tiny_checkpoint, tiny_file, tiny_data, tmp_path
):
    import onnx

    out = tmp_path / 'low.onnx'
    done = export(
        tiny_checkpoint,
        out,
        precision=precision,
        calibration=tiny_data / 'day_val' if precision == 'int8' else None,
        check=[tiny_data / 'dusk_val' / 'images'],
        min_equal=90,
    )
    assert done.equal >= 90 and 0 < done.difference < 0.2
    assert done.images == 3 and done.sizes == [(32, 32)]
    assert out.stat().st_size < tiny_file.stat().st_size
    weights = {
        tensor.data_type
        for tensor in onnx.load(str(out)).graph.initializer
        if tensor.dims and len(tensor.dims) == 4
    }
    kind = dict(fp16='FLOAT16', int8='INT8')[precision]
    assert weights == {getattr(onnx.TensorProto, kind)}
    assert ExportedSegmenter(out).metadata['precision'] == precision


def test_layers_that_change_labels_stay_in_float32(
    tiny_file, tmp_path, monkeypatch
):
    import onnx

    from clouds_mmseg.predict import quantize

    groups = quantize._groups(onnx.load(str(tiny_file)))
    assert 'backbone.convs.0' in groups and len(groups) >= 6
    bad = [
        n.name
        for k in ('backbone.convs.1', 'backbone.stem')
        for n in groups[k]
    ]
    wrong = tmp_path / 'wrong.onnx'
    _with_other_bias(tiny_file, wrong)
    written = []

    def write(source, target, layers, ranges):
        written.append(layers)
        shutil.copy(wrong if set(bad) & set(layers) else tiny_file, target)

    monkeypatch.setattr(quantize, 'quantize', write)
    batches = [np.stack(images_of((32, 48))).transpose(0, 3, 1, 2)]
    target = tmp_path / 'x.onnx'
    done = quantize.to_int8(tiny_file, target, batches, 99)
    assert sorted(done.left) == ['backbone.convs.1', 'backbone.stem']
    assert done.equal == done.equal_changed == 100
    assert done.groups == len(groups)
    assert 0 < done.weights < 100
    assert not set(bad) & set(written[-1])
    assert 'stay in float32 (backbone' in export_module._int8_note(done)


def test_a_layer_takes_the_range_behind_its_activation(tiny_file, tmp_path):
    import onnx
    from onnx.numpy_helper import to_array

    from clouds_mmseg.predict import quantize

    model = onnx.load(str(tiny_file))
    batches = [np.stack(images_of((32, 48))).transpose(0, 3, 1, 2)]
    ranges = quantize._ranges(model, batches)
    layers = [n for v in quantize._groups(model).values() for n in v]
    for kind in ('extreme', 'mean'):
        # One image: its range is their mean.
        assert ranges[kind] == ranges['extreme']
    target = tmp_path / 'x.onnx'
    names = [node.name for node in layers]
    quantize.quantize(tiny_file, target, names, ranges['extreme'])
    graph = onnx.load(str(target)).graph
    relus = [n for n in model.graph.node if n.op_type == 'Relu']
    assert relus and not [n for n in graph.node if n.op_type == 'Relu']
    scales = {t.name: to_array(t) for t in graph.initializer}
    high = ranges['extreme'][relus[0].output[0]][1]
    scale = scales[f'{relus[0].output[0]}_scale']
    np.testing.assert_allclose(scale, high / 255, rtol=1e-3)


def test_openvino(translated, tiny_checkpoint, tiny_file, tmp_path):
    pytest.importorskip('openvino')
    image = images_of((40, 60))[0]
    expected = ExportedSegmenter(tiny_file)(image, scores=True)
    for precision in ('fp32', 'fp16'):
        out = tmp_path / f'{precision}.xml'
        export(tiny_checkpoint, out, precision=precision)
        program = ExportedSegmenter(out, threads=1)
        assert program.metadata['format'] == 'openvino'
        found = program(image, scores=True)
        assert (found.labels == expected.labels).mean() > 0.99
        assert np.allclose(found.scores, expected.scores, atol=0.01)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob('*.bin'))]
    assert sizes[0] < 0.8 * sizes[1]
    assert len(list(tmp_path.iterdir())) == 4
    # With a core for each, the second to go left no stack for signals.
    second = ExportedSegmenter(tmp_path / 'fp32.xml', threads=1)
    del program
    gc.collect()
    del second
    gc.collect()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        signal.raise_signal(signal.SIGUSR1)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_torch_export(tiny_checkpoint, tiny_file, tmp_path):
    done = export(tiny_checkpoint, tmp_path / 'tiny.pt2', outputs=['labels'])
    assert done.equal == 100 and done.difference is None
    program = ExportedSegmenter(tmp_path / 'tiny.pt2')
    images = images_of((70, 90), (101, 66))
    for expected, found in zip(
        ExportedSegmenter(tiny_file)(images), program(images), strict=True
    ):
        assert np.array_equal(found.labels, expected.labels)
    with pytest.raises(UserError, match='takes no images of 40x30'):
        program(images_of((30, 40))[0])
    with pytest.raises(UserError, match='--outputs labels scores'):
        program(images[0], confidence=True)


def test_images_are_resized_as_in_the_config(tiny_file, tmp_path):
    import onnx

    model = onnx.load(str(tiny_file))
    metadata = json.loads(model.metadata_props[0].value)
    step = dict(type='Resize', scale=(96, 64), keep_ratio=True)
    metadata['preprocessing']['resize_outside'] = [step]
    model.metadata_props[0].value = json.dumps(metadata)
    onnx.save(model, str(tmp_path / 'resize.onnx'))
    program = ExportedSegmenter(tmp_path / 'resize.onnx')
    image = images_of((32, 48))[0]
    found = program(image, scores=True)
    assert found.labels.shape == (32, 48)
    assert found.scores.shape == (3, 32, 48)
    large = np.asarray(Image.fromarray(image).resize((96, 64), 2))
    plain = ExportedSegmenter(tiny_file)(large).labels[1::2, 1::2]
    assert (found.labels == plain).mean() > 0.9


def test_large_images_are_predicted_in_windows(head_checkpoint, head_file):
    (image,) = images_of((150, 230))
    sizes = dict(max_pixels=96 * 96, window=96)
    wanted = dict(confidence=True, scores=True)
    segmenter = Segmenter.from_pretrained(
        head_checkpoint, device='cpu', **sizes
    )
    expected = segmenter(image, **wanted)
    found = ExportedSegmenter(head_file, **sizes)(image, **wanted)
    assert (found.labels == expected.labels).mean() > 0.999
    assert found.scores.dtype == np.float16
    assert np.allclose(found.confidence, expected.confidence, atol=1e-3)
    whole = ExportedSegmenter(head_file)(image).labels
    assert not np.array_equal(found.labels, whole)
    with pytest.raises(UserError, match='window must be a multiple of 32'):
        ExportedSegmenter(head_file, window=100)


def test_exported_files_predict_as_checkpoints_do(
    tiny_checkpoint, tiny_file, tiny_data, tmp_path, capsys
):
    folder = tiny_data / 'day_val' / 'images'
    for source, out in ((tiny_checkpoint, 'a'), (tiny_file, 'b')):
        words = ['predict', source, folder, '--out', tmp_path / out]
        words += ['--save', 'labels', 'confidence', 'rle', '--device', 'cpu']
        main([str(word) for word in words])
        assert '3 images predicted' in capsys.readouterr().out
    names = sorted(
        path.relative_to(tmp_path / 'a')
        for path in (tmp_path / 'a').rglob('*.*')
    )
    assert len(names) == 9
    for name in [n for n in names if n.suffix == '.png']:
        both = [np.array(Image.open(tmp_path / x / name)) for x in 'ab']
        difference = np.abs(both[0].astype(int) - both[1])
        assert (difference > 1).mean() < 0.001
    # A video: frames one after the other, smoothed.
    (first,) = images_of((40, 60))
    frames = [first, first // 2 + 60]
    program = ExportedSegmenter(tiny_file)
    smoothed = list(program.stream(iter(frames), smooth=0.5, scores=True))
    plain = program(frames, scores=True)
    middle = (plain[0].scores + plain[1].scores) / 2
    np.testing.assert_allclose(smoothed[1].scores, middle, atol=1e-5)
    assert np.array_equal(smoothed[1].labels, middle.argmax(0))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--flip', '--scales', '1', '2'], 'scales, flip cannot be given'),
        (['--classes', 'a', 'b'], '--classes needs the checkpoint'),
        (['--device', 'cuda'], 'device cuda is not there'),
        (['--device', 'mps'], 'is run on the CPU, not on mps'),
    ],
)
def test_options_that_an_exported_file_does_not_have(
    options, message, tiny_file, tiny_data, tmp_path, capsys
):
    words = ['predict', tiny_file, tiny_data / 'day_val' / 'images']
    words += ['--out', tmp_path / 'out', *options]
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    assert message in capsys.readouterr().err


def test_a_file_that_differs_is_not_written(
    translated, tiny_checkpoint, tiny_file, tmp_path, monkeypatch
):
    def write(program, path, **kwargs):
        _with_other_bias(tiny_file, path)

    monkeypatch.setattr(export_module, 'write_onnx', write)
    out = tmp_path / 'wrong.onnx'
    out.write_text('the file of yesterday')
    with pytest.raises(UserError, match=r'not written: \S+ % equal labels'):
        export(tiny_checkpoint, out)
    assert out.read_text() == 'the file of yesterday'
    assert [path.name for path in tmp_path.iterdir()] == ['wrong.onnx']


def test_the_command(translated, tiny_checkpoint, tiny_data, tmp_path, capsys):
    image = next((tiny_data / 'day_val' / 'images').glob('*.png'))
    out = tmp_path / 'new' / 'tiny.onnx'
    words = ['export', tiny_checkpoint, '--out', out, '--check', image]
    main([str(word) for word in words])
    text = capsys.readouterr().out
    assert 'equal labels, greatest difference of a score' in text
    assert '1 images (32x32)' in text and out.is_file()
    with pytest.raises(SystemExit):
        main(['export', 'x.pth', '--out', 'x.onnx', '--format', 'caffe'])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(out='x.tflite'), 'ends in none of'),
        (dict(format='caffe'), 'format must be one of onnx, pt2, openvino'),
        (dict(format='pt2'), r'ends in \.pt2'),
        (dict(outputs=['masks']), "'masks'"),
        (dict(outputs=['scores']), 'include labels'),
        (dict(precision='fp8'), 'fp32, fp16, int8'),
        (dict(out='x.pt2', precision='fp16'), 'fp32 only'),
        (dict(precision='int8'), '--calibration DIR'),
        (dict(calibration='.'), 'is for int8'),
        (dict(precision='int8', calibration='none'), 'no such folder'),
        (dict(opset=9), 'opset must be one of 18'),
        (dict(min_equal=101), 'percentage'),
        (dict(check=['nothing.png']), 'nothing.png'),
    ],
)
def test_wrong_options(options, message, tmp_path):
    out = tmp_path / options.pop('out', 'x.onnx')
    with pytest.raises(UserError, match=message):
        export('missing.pth', out, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        export('x.pth', tmp_path / 'file' / 'x.onnx')
    (tmp_path / 'x.onnx').mkdir()
    with pytest.raises(UserError, match='is a folder'):
        export('x.pth', tmp_path / 'x.onnx')


def test_a_missing_package_is_named(monkeypatch, tiny_file, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    monkeypatch.setattr(exported_module, 'import_module', missing)
    message = re.escape('pip install "clouds_mmseg[export]"')
    with pytest.raises(UserError, match=message):
        ExportedSegmenter(tiny_file)
    with pytest.raises(UserError, match=message):
        export('x.pth', tmp_path / 'x.onnx')
    with pytest.raises(UserError, match=r'clouds_mmseg\[openvino\]'):
        export('x.pth', tmp_path / 'x.xml')


def test_a_checkpoint_without_config(tiny_checkpoint, tmp_path):
    weights = torch.load(tiny_checkpoint, weights_only=False)['state_dict']
    write_weights(tmp_path / 'bare.pth', weights)
    with pytest.raises(UserError, match='holds no config'):
        export(tmp_path / 'bare.pth', tmp_path / 'x.onnx')


def test_files_that_are_no_exports(tmp_path, tiny_file):
    import onnx

    with pytest.raises(UserError, match='no such file'):
        ExportedSegmenter(tmp_path / 'x.onnx')
    with pytest.raises(UserError, match=r'Segmenter\.from_pretrained'):
        ExportedSegmenter(tmp_path / 'x.pth')
    with pytest.raises(UserError, match=r"ExportedSegmenter\('.*tiny.onnx"):
        Segmenter.from_pretrained(str(tiny_file))
    for name in ('x.onnx', 'x.pt2'):
        (tmp_path / name).write_bytes(b'no program')
        with pytest.raises(UserError, match='cannot be loaded'):
            ExportedSegmenter(tmp_path / name)
    model = onnx.load(str(tiny_file))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / 'y.onnx'))
    with pytest.raises(UserError, match='not written by clouds export'):
        ExportedSegmenter(tmp_path / 'y.onnx')


def test_models_that_have_no_such_program(head_checkpoint):
    model = Segmenter.from_pretrained(head_checkpoint, device='cpu').model
    model.data_preprocessor.test_cfg = dict(size=(64, 64))
    with pytest.raises(UserError, match='size_divisor instead'):
        network_module.ExportNetwork(model)
    model.data_preprocessor.test_cfg = None
    model.decode_head.out_channels = model.out_channels = 1
    model.num_classes = 2
    with pytest.raises(UserError, match='--outputs labels'):
        network_module.ExportNetwork(model)


def test_sliding_windows_are_told(tiny_checkpoint):
    model = Segmenter.from_pretrained(tiny_checkpoint, device='cpu').model
    model.test_cfg = type(model.test_cfg)(
        mode='slide', crop_size=(32, 48), stride=(16, 16)
    )
    (note,) = export_module._predict_whole(model)
    assert 'windows of 48x32' in note and model.test_cfg.mode == 'whole'
    assert export_module._predict_whole(model) == []
    done = export_module.Export(
        'x.onnx', 100.0, None, 1, [(32, 48)], 2**20, [note]
    )
    assert note in '\n'.join(export_lines(done))


def test_the_snippet_of_the_docs(repo_root, tiny_file, tmp_path, monkeypatch):
    text = (repo_root / 'docs' / 'export.md').read_text()
    (code,) = [
        block
        for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL)
        if 'import onnxruntime' in block
    ]
    assert 'clouds_mmseg import' not in code
    shutil.copy(tiny_file, tmp_path / 'model.onnx')
    Image.fromarray(images_of((40, 60))[0]).save(tmp_path / 'street.png')
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(code, scope)
    expected = ExportedSegmenter(tiny_file)('street.png').labels
    assert np.array_equal(scope['labels'][0], expected)
