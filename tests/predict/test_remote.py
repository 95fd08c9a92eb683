"""Images, checkpoints and results in an S3-compatible store."""

import os
import time

import numpy as np
import pytest
import torch
from interrupted_work import tree
from mmengine import fileio
from tiny_run import (
    CLASSES,
    PALETTE,
    read_bank_config,
    read_config,
    write_config,
    write_labelled_bank,
)

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.cli.preflight import require_inputs
from clouds_mmseg.datasets import DataError, DiffusionAugment, GeneratedDataset
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.predict.predict_files import predict_files
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils import data_root
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError, read_image
from clouds_mmseg.utils.remote import fetch, list_below, upload
from clouds_mmseg.weights.locate import fetch_checkpoint
from clouds_mmseg_cli.command import main

pytestmark = pytest.mark.usefixtures('s3_account')


@pytest.fixture(scope='module')
def bucket(s3_address, tiny_data, tiny_checkpoint):
    import s3fs

    store = s3fs.S3FileSystem(
        key='someone', secret='secret', endpoint_url=s3_address
    )
    store.mkdir('street')
    store.put(str(tiny_data), 'street/data', recursive=True)
    store.put(str(tiny_checkpoint), 'street/model.pth')
    return 's3://street'


def test_predictions_of_a_store_are_those_of_local_files(
    bucket, tiny_data, tiny_checkpoint, tmp_path
):
    segmenter = Segmenter.from_pretrained(tiny_checkpoint, device='cpu')
    predict_files(segmenter, [tiny_data / 'day_val/images'], tmp_path / 'out')
    words = ['predict', f'{bucket}/model.pth', f'{bucket}/data/day_val/images']
    main([*words, '--out', f'{bucket}/out', '--device', 'cpu'])
    found = list_below(f'{bucket}/out')
    local = sorted((tmp_path / 'out').rglob('*.png'))
    assert list(found) == [
        str(path.relative_to(tmp_path / 'out')) for path in local
    ]
    for path, name in zip(local, found, strict=True):
        assert fileio.get(f'{bucket}/out/{name}') == path.read_bytes()


def test_a_stopped_prediction_into_a_store_continues(
    bucket, tiny_checkpoint, capsys
):
    words = ['predict', str(tiny_checkpoint), f'{bucket}/data/dusk_val/images']
    words += ['--out', f'{bucket}/again', '--save', 'labels']
    main(words)
    backend = fileio.get_file_backend(bucket)
    backend.remove(f'{bucket}/again/labels/001.png')
    capsys.readouterr()
    main(words)
    assert '1 image predicted, 2 were there already' in capsys.readouterr().out


def test_predictions_in_a_store_are_shared(
    bucket, tiny_data, tiny_checkpoint, tmp_path, capsys
):
    photos = tiny_data / 'dusk_val/images'
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    words = ['predict', str(tiny_checkpoint), str(photos), str(broken)]
    main([*words, '--out', str(tmp_path / 'one'), '--save', 'labels'])
    words += ['--save', 'labels', '--shared', '--lease', '1', '--out']
    main([*words, f'{bucket}/many'])
    fileio.remove(f'{bucket}/many/labels/001.png')
    capsys.readouterr()
    main([*words, f'{bucket}/many'])
    assert '1 image predicted' in capsys.readouterr().out
    found = list_below(f'{bucket}/many')
    assert set(found) == set(tree(tmp_path / 'one'))
    for name, content in tree(tmp_path / 'one').items():
        assert fileio.get(f'{bucket}/many/{name}') == content
    (tmp_path / 'film.mp4').write_bytes(b'')
    words[2:4] = [str(tmp_path / 'film.mp4')]
    with pytest.raises(SystemExit):
        main([*words, f'{bucket}/films'])
    assert 'cannot share videos' in capsys.readouterr().err


@pytest.mark.parametrize(
    'words, advice',
    [
        ('filter s3://street/bank --checkpoint m.pth', 'before it is copied'),
        ('filter s3://street/bank --undo', 'before it is copied'),
        (
            'generate --out bank --num 2 --backend photometric '
            '--mode img2img --source s3://street/images',
            '--source s3://street/images: an address',
        ),
    ],
)
def test_what_needs_a_folder_refuses_an_address(words, advice, capsys):
    with pytest.raises(SystemExit):
        main(words.split())
    assert advice in capsys.readouterr().err


def test_data_and_checkpoint_of_a_test_lie_in_a_store(
    bucket, tiny_data, tiny_checkpoint, tmp_path
):
    results = {}
    for name, root, checkpoint in (
        ('local', tiny_data, tiny_checkpoint),
        ('store', f'{bucket}/data', f'{bucket}/model.pth'),
    ):
        config = write_config(tmp_path / f'{name}.py', root)
        cfg = read_config(
            config,
            tmp_path / name,
            load_from=str(checkpoint),
            test_dataloader__num_workers=1,
        )
        require_inputs(cfg, 'test')
        results[name] = build_runner(cfg).test()
    assert results['store'] == results['local']
    write_config(config, f'{bucket}/none')
    cfg = read_config(config, tmp_path / 'none', load_from=str(checkpoint))
    with pytest.raises(UserError, match='no folder s3://street/none'):
        require_inputs(cfg, 'test')


def test_a_checkpoint_is_published_to_a_store(bucket, tmp_path):
    target = f'{bucket}/shared/model.safetensors'
    main(['publish', f'{bucket}/model.pth', target])
    segmenter = Segmenter.from_pretrained(target, device='cpu')
    assert segmenter.classes == ('ground', 'sky', 'box')


def test_an_image_set_is_copied_to_a_store_and_read_there(
    bucket, tiny_data, tmp_path
):
    options = dict(
        num=3, backend='photometric', mode='img2img', shared=True,
        source=tiny_data / 'day_val/images', copy_to=f'{bucket}/bank',
    )  # fmt: skip
    out = tmp_path / 'bank'
    generate_images(out, **options)
    assert set(list_below(f'{bucket}/bank')) == {
        *(f'images/00000{i}.png' for i in range(3)),
        *('bank.json', 'manifest.jsonl', 'contact_sheet.png'),
    }
    pipeline = [dict(type='LoadSegImage')]
    local, remote = (
        GeneratedDataset(bank=str(bank), pipeline=pipeline)
        for bank in (out, f'{bucket}/bank')
    )
    assert len(remote) == 3
    for i in range(3):
        assert (remote[i]['img'] == local[i]['img']).all()
    backend = fileio.get_file_backend(bucket)
    backend.remove(f'{bucket}/bank/images/000001.png')
    backend.put(b'x', f'{bucket}/bank/images/000002.png')
    dataset = GeneratedDataset(
        bank=f'{bucket}/bank', pipeline=pipeline, lazy_init=True
    )
    with pytest.raises(DataError, match='1.png: missing\n.*2.png: has 1 by'):
        dataset.full_init()
    # The same command puts them there again.
    generate_images(out, **options)
    assert len(GeneratedDataset(bank=f'{bucket}/bank', pipeline=pipeline)) == 3
    with pytest.raises(DataError, match='s3://street/none does not exist'):
        GeneratedDataset(bank=f'{bucket}/none', pipeline=pipeline)
    with pytest.raises(UserError, match='--copy-to .* must be an address'):
        generate_images(out, **options | dict(copy_to=str(tmp_path)))


def test_a_packed_set_is_read_from_a_store(bucket, tiny_data, tmp_path):
    plain = write_labelled_bank(tmp_path / 'bank', tiny_data)
    shards = ['--shard-size', '0.03']
    main(['pack', str(plain), '--out', str(tmp_path / 'packed'), *shards])
    main(['pack', str(plain), '--out', f'{bucket}/packed', *shards])

    def files(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    local = files(tmp_path / 'packed')
    assert len(list_below(f'{bucket}/packed')) == len(local) > 8
    for name, content in local.items():
        assert fileio.get(f'{bucket}/packed/{name}') == content
    config = write_config(tmp_path / 'tiny.py', tiny_data)
    weights = []
    for name, bank in (('plain', plain), ('store', f'{bucket}/packed')):
        cfg = read_bank_config(
            config,
            tmp_path / name,
            bank,
            train_cfg__max_iters=2,
            train_dataloader__num_workers=1,
        )
        runner = build_runner(cfg)
        runner.train()
        weights.append(runner.model.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    step = DiffusionAugment(f'{bucket}/packed', prob=1.0)
    source = tiny_data / 'day_train/images/002.png'
    sample = step(dict(img_path=str(source), img=np.zeros((32, 32, 3))))
    assert (sample['img'] == read_image(source)[..., ::-1]).all()
    out = ['--out', str(tmp_path / 'a')]
    main(['pack', f'{bucket}/packed', '--unpack', *out])
    backend = fileio.get_file_backend(bucket)
    for path in (tmp_path / 'a').rglob('*'):
        if path.is_file():
            name = path.relative_to(tmp_path / 'a')
            assert path.read_bytes() == (plain / name).read_bytes()
            backend.put(path.read_bytes(), f'{bucket}/plain/{name}')
    main(['pack', f'{bucket}/plain', '--out', str(tmp_path / 'b'), *shards])
    assert files(tmp_path / 'b') == local


def test_damage_in_a_store_is_named(bucket, tiny_data, tmp_path):
    plain = write_labelled_bank(tmp_path / 'bank', tiny_data)
    main(['pack', str(plain), '--out', f'{bucket}/bad'])
    for name in ('bank.json', 'manifest.jsonl'):
        upload(plain / name, f'{bucket}/flat/{name}')
    for path in plain.rglob('*.png'):
        upload(path, f'{bucket}/flat/{path.relative_to(plain)}')
    backend = fileio.get_file_backend(bucket)
    step = [dict(type='LoadSegImage')]
    meta = dict(classes=CLASSES, palette=PALETTE)

    def spoil(address, at):
        whole = backend.get(address)
        backend.put(whole[:at] + b'X' + whole[at + 1 :], address)

    # Of a plain set in a store, too, hashes are compared when files are read.
    spoil(f'{bucket}/flat/images/000001.png', 99)
    flat = GeneratedDataset(
        bank=f'{bucket}/flat', metainfo=meta, pipeline=step
    )
    flat[0]
    with pytest.raises(DataError, match='flat/images/000001.png: its hash'):
        flat[1]
    with pytest.raises(DataError, match='  images/000001.png: its hash'):
        GeneratedDataset(bank=f'{bucket}/flat', metainfo=meta, pipeline=[])
    packed = GeneratedDataset(
        bank=f'{bucket}/bad', metainfo=meta, pipeline=step
    )
    place = packed.get_data_info(2)['img_path'].split('@')[1]
    shard = f'{bucket}/bad/shard-000000.tar'
    spoil(shard, int(place.split('+')[0]) - 300)
    with pytest.raises(DataError, match='s3://.*000.tar: at byte .* 000002.p'):
        packed[2]
    backend.put(backend.get(shard)[:9000], shard)
    with pytest.raises(DataError, match='000.tar breaks off|000.tar: its mem'):
        packed[9]
    backend.remove(shard)
    with pytest.raises(DataError, match='000.tar: its member 000000.png can'):
        packed[0]
    with pytest.raises(DataError, match='bad/shard-000000.tar is missing'):
        GeneratedDataset(bank=f'{bucket}/bad', metainfo=meta, pipeline=step)


def test_all_data_roots_are_moved_to_a_store(bucket, monkeypatch):
    monkeypatch.setattr(data_root, '_chosen', {})
    data_root.use_folder(data_root.DATA_ROOT_VARIABLE, bucket)
    assert data_root.resolve_data_root('data/gta5') == f'{bucket}/gta5'
    assert data_root.resolve_data_root('/disk/gta5') == '/disk/gta5'
    # As --data-root asks.
    assert fileio.isdir(bucket) and fileio.isdir(f'{bucket}/data')
    assert not fileio.isdir(f'{bucket}/nothing')


def test_a_copy_is_kept_until_the_file_changes(bucket, tmp_path):
    backend = fileio.get_file_backend(bucket)
    backend.put_text('one', f'{bucket}/text.txt')
    first = fetch(f'{bucket}/text.txt', tmp_path)
    os.utime(first, (1, 1))
    again = fetch(f'{bucket}/text.txt', tmp_path)
    assert again == first and again.stat().st_mtime == 1
    backend.put_text('three', f'{bucket}/text.txt')
    assert fetch(f'{bucket}/text.txt', tmp_path).read_text() == 'three'
    assert backend.get_text(f'{bucket}/text.txt') == 'three'
    with backend.get_local_path(f'{bucket}/text.txt') as path:
        assert open(path).read() == 'three'


def test_folders_of_a_store_are_listed(bucket):
    backend = fileio.get_file_backend(bucket)
    assert backend.isdir(f'{bucket}/data') and not backend.isfile(
        f'{bucket}/data'
    )
    assert not backend.exists(f'{bucket}/data/nothing')
    assert list(backend.list_dir_or_file(f'{bucket}/data/day_val')) == [
        'images',
        'labels',
    ]
    files = backend.list_dir_or_file(
        f'{bucket}/data/day_val', list_dir=False, recursive=True,
        suffix='0.png',
    )  # fmt: skip
    assert list(files) == ['images/000.png', 'labels/000.png']


def wrong_key(monkeypatch):
    monkeypatch.delenv('AWS_ACCESS_KEY_ID')
    monkeypatch.delenv('AWS_SECRET_ACCESS_KEY')


def wrong_server(monkeypatch):
    monkeypatch.setenv('AWS_ENDPOINT_URL', 'http://127.0.0.1:9')


def nothing(monkeypatch):
    pass


@pytest.mark.parametrize(
    'change, named, message',
    [
        (wrong_key, 's3://street/data', 's3://street/data: .*no credentials'),
        (wrong_server, 's3://street/data', 'does not answer.*AWS_ENDPOINT'),
        (nothing, 's3://nowhere/data', 'nowhere/data: .*no such bucket'),
        (nothing, 's3://street/none', 's3://street/none is no image and no'),
        (nothing, 'oss://street/x', 'oss://street/x: .*another package'),
    ],
)
def test_each_mistake_is_told_at_once(
    bucket, s3_account, monkeypatch, change, named, message, tmp_path
):
    change(monkeypatch)
    s3_account()
    begun = time.monotonic()
    with pytest.raises(UserError, match=message):
        predict_files(None, [named], tmp_path / 'out')
    with pytest.raises(UserError):
        Segmenter.from_pretrained(f'{named}/model.pth')
    assert time.monotonic() - begun < 15


def test_a_file_that_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(ImageFileError, match='street/none.png cannot be read'):
        read_image(f'{bucket}/none.png')
    with pytest.raises(UserError, match='street/none.pth: there is no such'):
        Segmenter.from_pretrained(f'{bucket}/none.pth')
    with pytest.raises(UserError, match='street/none.pth: there is no such'):
        fetch_checkpoint(f'{bucket}/none.pth', 'weights', fetch=False)
    assert not list_below(f'{bucket}/nothing')
    with pytest.raises(UserError, match='petrel://a/b.png'):
        predict_files(None, ['petrel://a/b.png'], tmp_path)
