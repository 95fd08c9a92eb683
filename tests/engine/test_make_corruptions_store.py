"""Corrupted images that are read from a store and written to it."""

import json
from collections import Counter

import numpy as np
import pytest
from interrupted_work import share_after_a_kill
from mmengine import fileio
from PIL import Image

from clouds_mmseg.robustness import run as module
from clouds_mmseg.robustness.dataset import read_entries, read_set
from clouds_mmseg.robustness.run import make_corruptions
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.remote import list_below, upload
from clouds_mmseg_cli.command import main

pytest.importorskip('imagecorruptions')
CHOICE = dict(corruptions=['pixelate', 'contrast'], severities=[1, 2])


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for name in ('a/1.png', 'a/2.png', 'b/3.jpg'):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope='module')
def local(source, tmp_path_factory):
    """The files of a set that was made on the disk."""
    out = tmp_path_factory.mktemp('local') / 'set'
    make_corruptions(source, out, workers=1, **CHOICE)
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob('*')
        if path.is_file()
    }
    return without_source(files)


@pytest.fixture
def stored(source, s3_folder):
    for path in source.rglob('*.*'):
        upload(path, f'{s3_folder}/images/{path.relative_to(source)}')
    return f'{s3_folder}/images'


def without_source(files):
    content = json.loads(files['corruptions.json'])
    assert content['info'].pop('source')
    return files | {'corruptions.json': content}


def read(address):
    return without_source(
        {name: fileio.get(f'{address}/{name}') for name in list_below(address)}
    )


@pytest.fixture
def requests(monkeypatch):
    """Operation and key of each request of this process."""
    from aiobotocore.client import AioBaseClient

    made, call = [], AioBaseClient._make_api_call

    def note(self, operation, params):
        made.append((operation, params.get('Key', '').removeprefix('folder/')))
        return call(self, operation, params)

    monkeypatch.setattr(AioBaseClient, '_make_api_call', note)
    return made


def test_a_set_of_a_store_is_that_of_a_disk(
    source, local, stored, s3_folder, tmp_path, requests, capsys
):
    out = f'{s3_folder}/set'
    words = ['corrupt', stored, out, '--workers', '1', '--corruptions']
    words += [*CHOICE['corruptions'], '--severities', '1', '2']
    main(words)
    assert f'{out}: 3 images in 4 domains; 12 made' in capsys.readouterr().out
    made = list(requests)
    assert read(out) == local
    done = Counter(operation for operation, _ in made)
    images = [key for what, key in made if what == 'GetObject']
    # For each corruption an image is read once, and all for the sheet.
    assert sum(key.startswith('images/') for key in images) == 3 * 2 + 1
    assert done['PutObject'] == 12 + 2 + 2 + 1 and done['HeadObject'] <= 3
    written = [key for what, key in made if what == 'PutObject']
    ends = ['set/manifest.jsonl', 'set/corruptions.json']
    assert written[-3:] == [*ends, 'set/contact_sheet.png']
    del requests[:]
    main(words)
    assert '0 made, 12 were there' in capsys.readouterr().out
    assert sum(what == 'PutObject' for what, _ in requests) == 3
    assert read(out) == local
    mixed = f'{s3_folder}/mixed/'
    make_corruptions(source, mixed, workers=2, **CHOICE)
    assert read(mixed.rstrip('/')) == local
    make_corruptions(stored, tmp_path / 'set', workers=1, **CHOICE)
    files = {n: (tmp_path / 'set' / n).read_bytes() for n in local}
    assert without_source(files) == local


def test_a_stopped_run_continues_in_a_store(
    source, local, s3_folder, monkeypatch
):
    out = f'{s3_folder}/set'
    corrupt, calls = module.corrupt_image, []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return corrupt(*args, **kwargs)

    monkeypatch.setattr(module, 'corrupt_image', stop)
    with pytest.raises(KeyboardInterrupt):
        make_corruptions(source, out, workers=1, **CHOICE)
    assert read_set(out)['complete'] == [] and len(read_entries(out)) == 4
    done = make_corruptions(source, out, workers=1, **CHOICE)
    assert (done.created, done.existing) == (8, 4)
    assert read(out) == local
    # As after a kill, with the manifest of some time ago.
    backend = fileio.get_file_backend(out)
    lines = backend.get(f'{out}/manifest.jsonl').splitlines(keepends=True)
    backend.put(b''.join(lines[:5]), f'{out}/manifest.jsonl')
    backend.remove(f'{out}/contrast/1/a/1.png')
    rotten = bytearray(backend.get(f'{out}/contrast/2/a/2.png'))
    rotten[-30] ^= 1
    backend.put(rotten, f'{out}/contrast/2/a/2.png')
    make_corruptions(source, out, workers=1, verify=True, **CHOICE)
    assert read(out) == local


def test_the_manifest_is_written_now_and_then(
    source, local, s3_folder, monkeypatch, requests
):
    monkeypatch.setattr(module, '_MANIFEST_SECONDS', 0)
    out = f'{s3_folder}/set'
    make_corruptions(source, out, workers=1, **CHOICE)
    puts = [k for what, k in requests if what == 'PutObject']
    assert puts.count('set/manifest.jsonl') == 6 + 2
    assert read(out) == local


def test_processes_share_a_set_in_a_store(source, local, s3_folder):
    out = f'{s3_folder}/set'

    def run():
        return make_corruptions(source, out, shared=True, lease=1, **CHOICE)

    done = share_after_a_kill(run, out, module, 'corrupt_image')
    assert done.share.finished and read(out) == local
    # The set is complete: what is lost is made again.
    fileio.get_file_backend(out).remove(f'{out}/contrast/1/a/1.png')
    again = run()
    assert (again.created, again.existing) == (1, 11)
    assert read(out) == local


def test_mistakes_about_places_in_a_store(source, stored, s3_folder):
    with pytest.raises(UserError, match='s3://.*/images/c is inside of s3://'):
        make_corruptions(stored, f'{stored}/c')
    with pytest.raises(UserError, match='holds no corruptions.json'):
        make_corruptions(source, stored)
    with pytest.raises(UserError, match='s3://.*/none holds no image'):
        make_corruptions(f'{s3_folder}/none', f'{s3_folder}/set')
    with pytest.raises(UserError, match='s3://nowhere/x.* no such bucket'):
        make_corruptions('s3://nowhere/x', f'{s3_folder}/set')
    with pytest.raises(UserError, match='s3://nowhere/x.* no such bucket'):
        make_corruptions(source, 's3://nowhere/x')
