"""Valid files of each format, and the functions that read them.

Used by ``faults.mutations``.
"""

import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from clouds_mmseg.bridges.brush_rle import encode_mask
from clouds_mmseg.bridges.cvat import read_cvat
from clouds_mmseg.bridges.label_studio import read_label_studio
from clouds_mmseg.bridges.review import Review, Reviewed, read_review
from clouds_mmseg.data_tools.prepare import archives
from clouds_mmseg.data_tools.prepare.convert import (
    PanopticConverters,
    converter_of_config,
)
from clouds_mmseg.data_tools.prepare.sources import SourceFiles, find_sources
from clouds_mmseg.datasets import GeneratedDataset, prepared
from clouds_mmseg.datasets.transforms import LoadSegImage, LoadSegLabels
from clouds_mmseg.generate.conditions import read_palette
from clouds_mmseg.generate.image_bank import ImageBank
from clouds_mmseg.generate.pack import pack_images
from clouds_mmseg.generate.prompts import read_prompts
from clouds_mmseg.predict.exported import open_program
from clouds_mmseg.predict.formats import read_label_ids
from clouds_mmseg.report.read_run import read_runs
from clouds_mmseg.robustness import dataset as corrupted
from clouds_mmseg.toycity.dataset import read_manifest
from clouds_mmseg.utils.config_file import parse_config_text, read_file
from clouds_mmseg.utils.image_set import read_bank, used_entries
from clouds_mmseg.utils.images import decode_ids, read_image
from clouds_mmseg.weights.integrity import content_sha256
from clouds_mmseg.weights.io import (
    read_content,
    split_content,
    write_weights,
)


class Reader(NamedTuple):
    """A reader of one kind of file.

    Attributes:
        name: For people.
        make: Writes valid files into a folder.
        read: Reads one of them.
        suffixes: Of the files that are changed; another of them is tried too.
        checked: Every byte that matters has a checksum: other values than
            before are a defect.
    """

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    suffixes: tuple[str, ...]
    checked: bool = False


CLASSES = ('road', 'sky', 'car')
CONFIG = """model = dict(
    type='DGSegmentor',
    backbone=dict(type='ResNet', depth=50, out_indices=(0, 1, 2, 3)),
    decode_head=dict(type='FCNHead', num_classes=3, channels=1 + 2 * 8))
data_root = 'data/gta5'
train_cfg = dict(max_iters=40000, lr=1.0e-4, scale=[0.5] * 2)
"""


def picture(mode: str = 'RGB') -> Image.Image:
    """Draw an image or a label of 24 x 16 pixels."""
    rng = np.random.default_rng(0)
    if mode == 'RGB':
        return Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8))
    ids = rng.integers(0, 19, (4, 6), np.uint8).repeat(4, 0).repeat(4, 1)
    image = Image.fromarray(ids)
    if mode == 'P':
        image.putpalette(list(range(256)) * 3)
    return image


def _image_reader(kind, suffix, checked=False, **options):
    def make(folder):
        picture().save(folder / f'0{suffix}', kind, **options)

    suffixes = (suffix, '.png', '.jpg', '.webp', '.tif')
    return Reader(kind.lower(), make, read_image, suffixes, checked)


def _make_labels(folder):
    picture('L').save(folder / 'grey.png')
    picture('P').save(folder / 'palette.png')
    deep = np.asarray(picture('L')).astype(np.uint16)
    Image.fromarray(deep).save(folder / 'deep.png')


def _weights():
    generator = torch.Generator().manual_seed(0)
    return {
        'backbone.conv.weight': torch.randn(4, 3, 3, 3, generator=generator),
        'backbone.bn.num_batches_tracked': torch.tensor(7),
        'decode_head.bias': torch.zeros(3),
    }


def _meta():
    names = dict(classes=list(CLASSES), palette=[[1, 2, 3]] * 3)
    return dict(cfg=CONFIG, dataset_meta=names, iter=3)


def _make_old(folder):
    meta = _meta()
    meta['content_sha256'] = content_sha256(_weights(), meta)
    content = dict(meta=meta, state_dict=_weights())
    file = folder / 'old.pth'
    torch.save(content, file, _use_new_zipfile_serialization=False)


def _make_script(folder):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    traced = torch.jit.trace(model, torch.zeros(1, 3))
    torch.jit.save(traced, folder / 'script.pt')


def _read_weights(path):
    weights, rest = split_content(read_content(path), path)
    # What a publisher has to say about a file may change; the hash covers
    # everything else.
    rest = {k: v for k, v in rest.items() if k == 'meta'}
    for key in ('content_sha256', 'clouds_mmseg_version'):
        rest.get('meta', {}).pop(key, None)
    return dict(sorted(weights.items())), rest


def _weight_reader(name, suffix, checked=True):
    def make(folder):
        write_weights(folder / f'w{suffix}', _weights(), _meta())

    suffixes = (suffix, '.pth', '.pkl', '.safetensors')
    return Reader(name, make, _read_weights, suffixes, checked)


def _files():
    stream = io.BytesIO()
    picture().save(stream, 'PNG')
    folder = 'images', 'labels', 'deep/er/images'
    return {f'{f}/{i}.png': stream.getvalue() for f in folder for i in (0, 1)}


def _make_zips(folder):
    for name, method in (('a', 8), ('b', 0)):
        with zipfile.ZipFile(folder / f'{name}.zip', 'w', method) as archive:
            for member, payload in _files().items():
                archive.writestr(member, payload)


def _make_tars(folder):
    for suffix, mode in ((f'.tar{s}', f'w:{s[1:]}') for s in _PACKED):
        with tarfile.open(folder / f'a{suffix}', mode) as archive:
            for member, payload in _files().items():
                info = tarfile.TarInfo(member)
                info.size = len(payload)
                archive.addfile(info, io.BytesIO(payload))


_PACKED = ('', '.gz', '.xz', '.bz2')


def _read_archive(path):
    found = []
    # Of the file that had this name before.
    archives._open_zip_in.cache_clear()
    for source, members in find_sources([path], path.parent / 'out'):
        if source.streamed:
            names = {m.location: m.name for m in members}
            found += [(names[at], x) for at, x in source.stream(names)]
        else:
            # As the files are written.
            for member in members:
                only = SourceFiles([(source, [member])])
                name = member.name.rpartition('/')[2]
                found.append((member.name, only.read(name)))
    return sorted(found)


def _make_bank(folder):
    entries = [
        dict(index=i, file=f'images/{i:06d}.png', prompt=f'a road {i}')
        | dict(seed=i, bytes=100 + i, sha256='ab' * 32)
        for i in range(3)
    ]
    lines = ''.join(json.dumps(entry) + '\n' for entry in entries)
    (folder / 'manifest.jsonl').write_text(lines)
    recipe = dict(backend='toycity', size=[24, 16], steps=50, guidance=7.5)
    content = dict(format=1, num=3, recipe=recipe, info={})
    (folder / 'bank.json').write_text(json.dumps(content, indent=1))


def _read_bank(path):
    return read_bank(path.parent), used_entries(path.parent)


def _make_packed_set(folder):
    """Pack an image set of three images with labels."""
    with tempfile.TemporaryDirectory() as plain:
        image, label = io.BytesIO(), io.BytesIO()
        picture().save(image, 'PNG')
        picture('L').save(label, 'PNG')
        bank = ImageBank(plain, dict(backend='toycity'), info={}, num=3)
        sha256 = hashlib.sha256(image.getvalue()).hexdigest()
        size = len(image.getvalue())
        for index in range(3):
            entry = dict(prompt='a road', seed=index, width=24, height=16)
            bank.add(
                index,
                image.getvalue(),
                entry | dict(bytes=size, sha256=sha256),
                training_label=label.getvalue(),
            )
        bank.finish()
        bank.close()
        pack_images(plain, folder)


def _read_packed_set(path):
    steps = [LoadSegImage(), LoadSegLabels()]
    dataset = GeneratedDataset(
        bank=str(path.parent), labels=True, pipeline=steps
    )
    return [
        (sample['sample_name'], sample['img'], sample['gt_seg_map'])
        for sample in dataset
    ]


def _make_prepared(folder):
    manifest = prepared.Manifest(
        name='gta5',
        splits=dict(train=10, val=2),
        label_source='label_ids',
        complete=True,
    )
    prepared.write_manifest(folder, manifest)


def _make_corrupted(folder):
    recipe = dict(seed=0, images=2, digest='ab' * 32)
    content = dict(format=corrupted.FORMAT, recipe=recipe, complete=['fog-1'])
    path = folder / corrupted.SET_FILE
    path.write_text(json.dumps(content | dict(info={})))
    entry = dict(file='fog-1/a.png', source='a', seed=1, bytes=9, sha256='ab')
    path = folder / corrupted.MANIFEST_FILE
    path.write_text(json.dumps(entry) + '\n' + json.dumps(entry) + '\n')


def _make_toycity(folder):
    images = dict(source=2, source_val=1)
    images |= dict.fromkeys(_toy_domains(), 1)
    content = dict(renderer=1, size=[24, 16], seed=0, images=images)
    (folder / 'toycity.json').write_text(json.dumps(content))


def _toy_domains():
    from clouds_mmseg.toycity.dataset import DOMAINS

    return DOMAINS


def _make_results(folder):
    classes = dict(zip(CLASSES, (50.0, 40.5, None), strict=True))
    domain = dict(metrics=dict(mIoU=45.25), class_iou=classes)
    domain |= dict(confusion=[[1, 2, 3]] * 3, images=4)
    content = dict(
        metrics={'mean_mIoU': 45.25},
        domains=dict(day=domain),
        classes=list(CLASSES),
        iteration=2,
        date='2026-01-01',
        config=dict(text=CONFIG),
    )
    (folder / 'results.json').write_text(json.dumps(content))


def _read_results(path):
    (run,) = read_runs([path.parent])
    return run.results, run.config, run.notes


def _review():
    images = [Reviewed('a/0.png', 24, 16, 'ab' * 32, 0.5, 0.9)]
    colors = [[128, 64, 128], [70, 130, 180], [0, 0, 142]]
    return Review('cvat', list(CLASSES), colors, {}, 'confidence', images)


def _make_review(folder):
    content = dict(format=1, **asdict(_review()))
    (folder / 'review.json').write_text(json.dumps(content))


def _make_tasks(folder):
    mask = np.zeros((16, 24), bool)
    mask[3:9] = True
    region = dict(
        type='brushlabels',
        original_width=24,
        original_height=16,
        value=dict(brushlabels=['sky'], rle=encode_mask(mask), format='rle'),
    )
    from clouds_mmseg.bridges.label_studio import _NAME_KEY

    task = dict(id=1, data={_NAME_KEY: 'a/0.png'})
    task['annotations'] = [dict(result=[region])]
    (folder / 'tasks.json').write_text(json.dumps([task]))


def _read_tasks(path):
    return [(i.name, x) for i, x in read_label_studio(path, _review())]


def _make_cvat(folder):
    mask = np.zeros((16, 24, 3), np.uint8)
    mask[:8] = (70, 130, 180)
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, 'PNG')
    rows = zip(CLASSES, _review().colors, strict=True)
    text = '\n'.join(f'{n}:{",".join(map(str, c))}::' for n, c in rows)
    with zipfile.ZipFile(folder / 'task.zip', 'w') as archive:
        archive.writestr('labelmap.txt', text + '\nbackground:0,0,0::')
        archive.writestr('SegmentationClass/a/0.png', stream.getvalue())


def _read_cvat(path):
    return [(i.name, x) for i, x in read_cvat(path, _review())]


def _make_ids(folder):
    ids = dict(zip(CLASSES, (7, 23, 26), strict=True))
    (folder / 'ids.json').write_text(json.dumps(ids))
    lines = ''.join(f'{name}: {i}\n' for name, i in ids.items())
    (folder / 'ids.yaml').write_text(lines)


def _make_palette(folder):
    colors = dict(zip(CLASSES, _review().colors, strict=True))
    (folder / 'palette.json').write_text(json.dumps(colors))


def _make_panoptic(folder):
    categories = [dict(id=7, name='road'), dict(id=23, name='sky')]
    segments = [dict(id=1, category_id=7), dict(id=2, category_id=23)]
    one = dict(file_name='a.png', segments_info=segments)
    content = dict(categories=categories, annotations=[one])
    (folder / 'panoptic.json').write_text(json.dumps(content))


def _read_panoptic(path):
    table = PanopticConverters(path.read_bytes(), str(path))
    return table._segments


def _make_vistas(folder):
    from clouds_mmseg.data_tools.prepare.convert import (
        CLASSES_OF_VISTAS,
        IGNORED_OF_VISTAS,
    )

    names = [*CLASSES_OF_VISTAS['1.2'], *IGNORED_OF_VISTAS['1.2']]
    content = dict(labels=[dict(name=name) for name in names])
    (folder / 'config_v1.2.json').write_text(json.dumps(content))


def _read_vistas(path):
    return repr(converter_of_config(path.read_bytes(), str(path), '1.2'))


def _make_prompts(folder):
    lines = [f'A street with {n} cars, in the rain.' for n in range(20)]
    (folder / 'prompts.txt').write_text('\n'.join(lines) + '\n')


def _make_config(folder):
    (folder / 'config.py').write_text(CONFIG)


class _Shift(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return self.conv(image.float()).argmax(1)


_METADATA = json.dumps(dict(classes=CLASSES, outputs=['labels']))


def _make_pt2(folder):
    inputs = (torch.zeros(1, 3, 8, 8, dtype=torch.uint8),)
    program = torch.export.export(_Shift().eval(), inputs)
    extra = {'clouds_mmseg.json': _METADATA}
    torch.export.save(program, folder / 'x.pt2', extra_files=extra)


def _make_onnx(folder):
    import onnx
    from onnx import TensorProto, helper

    float_type, kernel = TensorProto.FLOAT, np.ones((3, 3, 3, 3), 'f4')
    nodes = [
        helper.make_node('Cast', ['image'], ['x'], to=float_type),
        helper.make_node('Conv', ['x', 'w'], ['y'], pads=[1, 1, 1, 1]),
        helper.make_node('ArgMax', ['y'], ['labels'], axis=1, keepdims=0),
    ]
    size = [1, 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        'g',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, size)],
        [helper.make_tensor_value_info('labels', TensorProto.INT64, None)],
        [helper.make_tensor('w', float_type, kernel.shape, kernel.ravel())],
    )
    opset = [helper.make_opsetid('', 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = 'clouds_mmseg', _METADATA
    onnx.save(model, folder / 'x.onnx')


def _read_program(path):
    run, meta = open_program(path, threads=1)
    found = run(np.full((1, 3, 8, 8), 9, np.uint8))
    return meta, {name: np.asarray(value) for name, value in found.items()}


_JSON = ('.json', '.jsonl')
_ALL = (
    _image_reader('PNG', '.png', checked=True),
    _image_reader('JPEG', '.jpg', quality=90),
    _image_reader('WEBP', '.webp'),
    _image_reader('TIFF', '.tif', compression='tiff_lzw'),
    Reader(
        'label PNG',
        _make_labels,
        lambda path: decode_ids(path.read_bytes()),
        ('.png', '.tif'),
        True,
    ),
    _weight_reader('pth (zip)', '.pth'),
    Reader('pth (old)', _make_old, _read_weights, ('.pth', '.pt')),
    _weight_reader('safetensors', '.safetensors'),
    _weight_reader('pkl', '.pkl'),
    Reader('TorchScript', _make_script, _read_weights, ('.pt', '.pth'), True),
    Reader('zip', _make_zips, _read_archive, ('.zip', '.tar'), True),
    Reader('tar', _make_tars, _read_archive, ('.tar', '.zip', *_PACKED[1:])),
    Reader('bank.json, manifest.jsonl', _make_bank, _read_bank, _JSON),
    Reader('packed set', _make_packed_set, _read_packed_set, ('.json',), True),
    Reader(
        'prepared set',
        _make_prepared,
        lambda path: prepared.read_manifest(path.parent),
        _JSON,
    ),
    Reader(
        'corrupted set',
        _make_corrupted,
        lambda path: (
            corrupted.read_set(path.parent),
            corrupted.read_entries(path.parent),
        ),
        _JSON,
    ),
    Reader('ToyCity set', _make_toycity, read_manifest, _JSON),
    Reader('results.json', _make_results, _read_results, _JSON),
    Reader(
        'review.json',
        _make_review,
        lambda path: read_review(path.parent),
        _JSON,
    ),
    Reader('Label Studio', _make_tasks, _read_tasks, _JSON),
    Reader('CVAT', _make_cvat, _read_cvat, ('.zip',)),
    Reader(
        'label ids',
        _make_ids,
        lambda path: read_label_ids(path, CLASSES),
        ('.json', '.yaml'),
    ),
    Reader(
        'palette',
        _make_palette,
        lambda path: repr(read_palette(str(path), CLASSES)),
        _JSON,
    ),
    Reader('panoptic.json', _make_panoptic, _read_panoptic, _JSON),
    Reader('config of Vistas', _make_vistas, _read_vistas, _JSON),
    Reader('prompts', _make_prompts, read_prompts, ('.txt',)),
    Reader(
        'config in a checkpoint',
        _make_config,
        lambda path: parse_config_text(path.read_bytes().decode('latin1')),
        ('.py',),
    ),
    Reader(
        'config file',
        _make_config,
        lambda path: read_file(path).to_dict(),
        ('.py',),
    ),
    Reader('onnx', _make_onnx, _read_program, ('.onnx',)),
    Reader('pt2', _make_pt2, _read_program, ('.pt2',)),
)
READERS = {reader.name: reader for reader in _ALL}
