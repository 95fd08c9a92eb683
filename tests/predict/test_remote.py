"""Images, checkpoints and results in an S3-compatible store."""

import os
import time

import pytest
from mmengine import fileio
from tiny_run import read_config, write_config

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.datasets import DataError, GeneratedDataset
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.predict.predict_files import predict_files
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils import data_root
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError, read_image
from clouds_mmseg.utils.remote import fetch, list_below
from clouds_mmseg.weights.locate import fetch_checkpoint
from clouds_mmseg_cli.command import main

pytest.importorskip('s3fs', reason='pip install "clouds_mmseg[remote]"')
pytest.importorskip('moto', reason='pip install "moto[server]"')


@pytest.fixture(scope='module')
def address():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f'http://{host}:{port}'
    server.stop()


@pytest.fixture(autouse=True)
def account(address, monkeypatch, tmp_path):
    """An account of the store, and nothing of the user's own."""
    for name in list(os.environ):
        if name.startswith('AWS_'):
            monkeypatch.delenv(name)
    monkeypatch.setenv('AWS_ENDPOINT_URL', address)
    monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'someone')
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'secret')
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
    monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE'):
        monkeypatch.setenv(name, str(tmp_path / 'none'))
    forget()
    yield
    forget()


def forget():
    """fsspec keeps file systems with the account that they began with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope='module')
def bucket(address, tiny_data, tiny_checkpoint):
    import s3fs

    store = s3fs.S3FileSystem(
        key='someone', secret='secret', endpoint_url=address
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
    with pytest.raises(SystemExit):
        main([*words, '--shared'])
    assert 'share work through a folder' in capsys.readouterr().err


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
        results[name] = build_runner(cfg).test()
    assert results['store'] == results['local']


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
    bucket, monkeypatch, change, named, message, tmp_path
):
    change(monkeypatch)
    forget()
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
