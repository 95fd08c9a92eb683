"""Image sets packed into tar shards: the same bytes, samples and training."""

import hashlib
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.registry import init_default_scope
from tiny_run import (
    CLASSES,
    PALETTE,
    read_bank_config,
    write_config,
    write_data,
    write_labelled_bank,
)

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.data_tools.verify.listing import list_files
from clouds_mmseg.datasets import DataError, DiffusionAugment, GeneratedDataset
from clouds_mmseg.engine.resumable_runner import CHANGES_KEY
from clouds_mmseg.engine.self_training_runner import require_generated_images
from clouds_mmseg.generate import pack
from clouds_mmseg.generate.image_bank import ImageBank
from clouds_mmseg.generate.pack import pack_images, unpack_images
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import BankError
from clouds_mmseg.utils.packed_set import plain_path
from clouds_mmseg_cli.command import main

STEPS = [dict(type='LoadSegImage'), dict(type='LoadSegLabels')]
META = dict(classes=CLASSES, palette=PALETTE)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def bank(data, tmp_path_factory):
    return write_labelled_bank(tmp_path_factory.mktemp('plain') / 'bank', data)


@pytest.fixture
def packed(bank, tmp_path):
    """Twelve images in four shards of three."""
    pack_images(bank, tmp_path / 'packed', shard_mb=0.0205)
    return tmp_path / 'packed'


def tree(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


def build(bank, **options):
    return GeneratedDataset(
        bank=str(bank), metainfo=META, labels=True, pipeline=STEPS, **options
    )


def rewrite(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def restate(packed, old, new):
    """Change a manifest, and the hash that was taken of it."""
    path = packed / 'manifest.jsonl'
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(path, old, new)
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(packed / 'pack.json', before.encode(), after.encode())


def test_shards_follow_the_convention_and_are_the_same_again(
    bank, packed, tmp_path, capsys
):
    words = ['--out', str(tmp_path / 'again'), '--shard-size', '0.0205']
    main(['pack', str(bank), *words])
    said = '12 images in 4 shards of 0.1 MB in all; 0 shards were there'
    assert said in capsys.readouterr().out
    content = tree(packed)
    assert tree(tmp_path / 'again') == content
    shards = [f'shard-00000{i}' for i in range(4)]
    assert sorted(content) == [
        *('bank.json', 'manifest.jsonl', 'pack.json'),
        *(f'{shard}{end}' for shard in shards for end in ('.idx', '.tar')),
    ]
    entries, samples = [], {}
    for shard in shards:
        lines = content[f'{shard}.idx'].decode().splitlines()
        assert lines[0] == 'v1.2 3'
        with tarfile.open(packed / f'{shard}.tar') as archive:
            members = archive.getmembers()
            for member in members:
                assert (member.mtime, member.uid, member.uname) == (0, 0, '')
                key, _, kind = member.name.partition('.')
                payload = archive.extractfile(member).read()
                samples.setdefault(key, {})[kind] = payload
        # By GNU tar or Python: the index says what the archive says.
        assert ' '.join(lines[1:]).split(' ') == [
            word
            for m in members
            for word in (
                m.name.partition('.')[2], str(m.offset_data), str(m.size),
                m.name,
            )
        ]  # fmt: skip
    for index, (key, sample) in enumerate(samples.items()):
        assert key == f'{index:06d}' and list(sample) == [
            'png', 'label.png', 'evaluation_label.png', 'json'
        ]  # fmt: skip
        entries.append(json.loads(sample['json']))
        for kind, folder in (('png', 'images'), ('label.png', 'labels')):
            assert sample[kind] == (bank / folder / f'{key}.png').read_bytes()
    assert (
        b''.join(s['json'] for s in samples.values())
        == (content['manifest.jsonl'])
    )


def test_a_packed_set_is_unpacked_to_the_last_byte(bank, packed, tmp_path):
    main(['pack', str(packed), '--unpack', '--out', str(tmp_path / 'plain')])
    assert tree(tmp_path / 'plain') == tree(bank)


@pytest.mark.parametrize('back', [False, True])
def test_a_stopped_command_continues(
    bank, packed, tmp_path, monkeypatch, back
):
    out = tmp_path / 'out'
    options = {} if back else dict(shard_mb=0.0205)
    run, source = (unpack_images, packed) if back else (pack_images, bank)
    real, calls = pack._written, []

    def stops(target):
        calls.append(target)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(target)

    monkeypatch.setattr(pack, '_written', stops)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, **options)
    monkeypatch.undo()
    if not back:
        with pytest.raises(DataError, match='out lacks manifest.jsonl.*stopp'):
            build(out)
    done = run(source, out, **options)
    assert done.existing == 1
    assert tree(out) == tree(bank if back else packed)
    # Of a finished one nothing is done again.
    again = run(source, out, **options)
    assert again.existing == (12 if back else 4)


def test_samples_are_those_of_the_folder(bank, packed):
    plain, shards = build(bank), pickle.loads(pickle.dumps(build(packed)))
    assert len(plain) == len(shards) == 12
    for index in range(12):
        one, other = plain[index], shards[index]
        assert (one['img'] == other['img']).all()
        assert (one['gt_seg_map'] == other['gt_seg_map']).all()
        assert one['sample_name'] == other['sample_name']
        name = f'/packed/{index:06d}.png'
        assert plain_path(other['img_path']).endswith(name)
    assert shards.least_size == (32, 32)
    assert plain_path('s3://bucket/a.png') == 's3://bucket/a.png'
    evaluated = GeneratedDataset(
        bank=str(packed), metainfo=META, evaluation_labels=True, pipeline=STEPS
    )
    assert (evaluated[3]['gt_seg_map'] == plain[3]['gt_seg_map']).all()


def test_variants_are_those_of_the_folder(bank, packed, data):
    steps = [DiffusionAugment(str(b), prob=1.0) for b in (bank, packed)]
    for name in ('000.png', '005.png'):
        seen = []
        for step in steps:
            np.random.seed(1)
            sample = dict(
                img_path=str(data / 'day_train/images' / name),
                img=np.zeros((32, 32, 3), np.uint8),
                gt_seg_map=np.zeros((32, 32), np.uint8),
            )
            seen.append(step.transform(sample))
        for key in ('img', 'gt_seg_map'):
            assert (seen[0][key] == seen[1][key]).all() and seen[0][key].any()
        assert seen[1]['variant_path'].startswith('tar://')


def test_a_training_on_the_folder_goes_on_on_the_shards(
    bank, packed, data, tmp_path
):
    """From the start on shards: in tests/predict/test_remote.py."""
    config = write_config(tmp_path / 'tiny.py', data)

    def run(name, bank, **changes):
        cfg = read_bank_config(config, tmp_path / name, bank, **changes)
        runner = build_runner(cfg)
        runner.train()
        # Nothing of the plan has changed, the names of the images neither.
        assert runner.message_hub.runtime_info.get(CHANGES_KEY) in (None, [])
        return runner.model.state_dict()

    one = run('plain', bank)
    resume = str(tmp_path / 'plain/iter_2.pth')
    other = run('shards', packed, resume=resume)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda p: (p / 'shard-000001.tar').unlink(),
         'shard-000001.tar is missing, pack.json says 20480'),
        (lambda p: (p / 'shard-000003.tar').write_bytes(b'x' * 9),
         'shard-000003.tar has 9 bytes, pack.json says 20480'),
        (lambda p: (p / 'shard-000002.idx').unlink(),
         'shard-000002.idx, the index of shard-000002.tar, cannot be used'),
        (lambda p: rewrite(p / 'shard-000002.idx', b'v1.2 3', b'v1.2 2'),
         'shard-000002.idx.* it has 3 of 3 samples, and begins with'),
        (lambda p: rewrite(p / 'shard-000000.idx', b'512', b'513'),
         "shard-000000.idx.* line 2 has '000000.png' at byte 513"),
        (lambda p: rewrite(p / 'shard-000000.idx', b' 512 ', b' -99 '),
         "shard-000000.idx.* line 2 has '000000.png' at byte -99"),
        (lambda p: rewrite(p / 'shard-000000.idx', b' 000001.png', b' ../a'),
         "shard-000000.idx.* line 3 has '../a' at byte"),
        (lambda p: rewrite(p / 'shard-000000.idx', b' 000001.', b' 000000.'),
         "shard-000000.idx.* line 3 has '000000.png' at byte"),
        (lambda p: rewrite(p / 'shard-000000.idx', b'512 ', b'512  '),
         'shard-000000.idx.*cannot be used'),
        (lambda p: rewrite(p / 'shard-000000.idx', b' 000001.png', b' 7.png'),
         '000001.png: missing'),
        (lambda p: rewrite(p / 'pack.json', b'shard-000002', b'../000002'),
         "pack.json does not list.*shard 2 has the name '../000002.tar'"),
        (lambda p: rewrite(p / 'pack.json', b': 20480', b': -1'),
         'pack.json does not list.*its bytes are -1'),
        (lambda p: rewrite(p / 'pack.json', b'"manifest"', b'"manifold"'),
         "pack.json does not list.*'manifest'"),
        (lambda p: (p / 'pack.json').write_text('[1]'),
         'pack.json does not list.*its format is not 1'),
        (lambda p: rewrite(p / 'manifest.jsonl', b'"seed": 3', b'"seed": 4'),
         'manifest.jsonl is not the one that was packed'),
        (lambda p: restate(p, b'images/', b'imagos/'),
         "'imagos/000000.png' cannot be a file of a packed image set"),
    ],
)  # fmt: skip
def test_damage_is_named_when_a_set_is_opened(packed, change, message):
    change(packed)
    with pytest.raises(DataError, match=f'(?s){message}'):
        build(packed)


def test_damage_is_named_when_a_member_is_read(packed):
    dataset = build(packed)
    assert len(build(packed, verify_hash=False)) == 12
    shards = [packed / f'shard-00000{i}.tar' for i in range(4)]
    whole = [shard.read_bytes() for shard in shards]
    # Another shard in its place, which differs in names alone.
    shards[0].write_bytes(whole[1])
    with pytest.raises(DataError, match='shard-000000.tar: at byte 512 there'):
        dataset[0]
    with pytest.raises(DataError, match='no member 000000.png of .* bytes'):
        dataset[0]
    # After the set was opened: a byte, the end, the file.
    at = whole[1].index(b'IDAT') + 9
    shards[1].write_bytes(
        whole[1][:at] + bytes([whole[1][at] ^ 1]) + whole[1][at + 1 :]
    )
    with pytest.raises(DataError, match='01.tar@.*/000003.png: its hash diff'):
        dataset[3]
    # A pipeline whose steps compare no hashes: they are when it is opened.
    shards[0].write_bytes(whole[0])
    with pytest.raises(DataError, match='000003.png: its hash differs'):
        GeneratedDataset(bank=str(packed), metainfo=META, pipeline=[])
    shards[2].write_bytes(whole[2][:600])
    with pytest.raises(
        DataError, match='shard-000002.tar breaks off: of its member 000006.p'
    ):
        dataset[6]
    shards[3].unlink()
    with pytest.raises(
        DataError, match='shard-000003.tar: its member 000009.png cannot be r'
    ):
        dataset[9]
    at = whole[1].index(b'IHDR', whole[1].index(b'label.png'))
    shards[1].write_bytes(whole[1][:at] + b'x' + whole[1][at + 1 :])
    with pytest.raises(DataError, match='label .*03.label.png: its hash diff'):
        dataset[3]
    for path in ('tar:///etc/passwd', 'tar://a/shard-000000.tar@1+1/../b'):
        with pytest.raises(DataError, match='no path of a member'):
            fileio.get(path)


def test_a_damaged_set_is_not_unpacked(packed, tmp_path):
    out = tmp_path / 'out'
    rewrite(packed / 'shard-000001.tar', b'"seed": 3', b'"seed": 4')
    with pytest.raises(BankError, match='000003.json in shard-000001.tar of'):
        unpack_images(packed, out)
    rewrite(packed / 'shard-000001.tar', b'"seed": 4', b'"seed": 3')
    # What the filter's entries name is written: it stays in the folder.
    restate(
        packed,
        b'{"index": 5,',
        b'{"index": 5, "filter": {"label": "filter/labels-a/../../b.png"},',
    )
    with pytest.raises(UserError, match='labels-a/../../b.png.* cannot be a'):
        unpack_images(packed, tmp_path / 'other')


def test_what_cannot_be_packed_is_refused(bank, packed, data, tmp_path):
    def refused(message, run, *args, **options):
        with pytest.raises(UserError, match=message):
            run(*args, **options)

    out = tmp_path / 'out'
    refused('bank holds files, but no pack.json', pack_images, bank, bank)
    refused('packed/pack.json is not what .*another --shard-size',
            pack_images, bank, packed)  # fmt: skip
    refused('packed is a packed image set.*--unpack', pack_images, packed, out)
    refused('--shard-size must be above 0, got 0',
            pack_images, bank, out, shard_mb=0)  # fmt: skip
    refused('is no packed image set', unpack_images, bank, out)
    refused('got the address s3://a/b', unpack_images, packed, 's3://a/b')
    refused('holds files, but no bank.json', unpack_images, packed, data)
    refused('packed is packed, and verification',
            list_files, build(packed))  # fmt: skip
    # A training that would check a folder takes it as it is.
    require_generated_images(dict(out=str(packed), make=True), 'none')
    refused('packed is a packed image set, which can be read but not',
            ImageBank, packed, {}, info={}, num=1)  # fmt: skip
    other = write_labelled_bank(tmp_path / 'bank', data)
    (other / 'labels/000003.png').write_bytes(b'')
    refused('labels/000003.png .* is not what', pack_images, other, out)
    (other / 'images/000002.png').unlink()
    refused('images/000002.png of the image set .* is missing',
            pack_images, other, tmp_path / 'new')  # fmt: skip
    rewrite(other / 'manifest.jsonl', b'images/000001', b'images/000000')
    refused('two images .* have the name images/000000.png',
            pack_images, other, tmp_path / 'new')  # fmt: skip
    rewrite(other / 'manifest.jsonl', b'images/000000', b'images/00.0000')
    refused("'images/00.0000.png' cannot be a file",
            pack_images, other, tmp_path / 'new')  # fmt: skip
    (other / 'manifest.jsonl').unlink()
    refused('lacks 12 of 12 images', pack_images, other, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()
