"""Archives and manifests that would write elsewhere or fill disk and memory.

Zip slip and links are in test_prepare_archives.py.
"""

import io
import json
import os
import random
import tarfile
import zipfile

import pytest

from clouds_mmseg.bridges.review import read_review
from clouds_mmseg.data_tools.prepare.archives import ConcatenatedFile
from clouds_mmseg.data_tools.prepare.sources import SourceFiles, find_sources
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.image_set import read_entries
from clouds_mmseg.weights.model_folder import _shards


def read_all(path):
    """List and read everything, as a preparation does."""
    found = find_sources([path], path.parent / 'out')
    for source, members in found:
        for member in members:
            name = member.name.rpartition('/')[2]
            SourceFiles([(source, [member])]).read(name)
    return [m.name for _, members in found for m in members]


def tar_of(path, how='w', **fields):
    info = tarfile.TarInfo('images/0.png')
    payload = fields.pop('payload', b'x')
    info.size = len(payload)
    for key, value in fields.items():
        setattr(info, key, value)
    with tarfile.open(path, how) as archive:
        archive.addfile(info, io.BytesIO(payload))
    return path


def patched(path, marker, offset, value):
    """Replace bytes at an offset from the last occurrence of a marker."""
    data = bytearray(path.read_bytes())
    place = data.rindex(marker) + offset
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


def zip_of(path, payload=b'x', name='images/0.png'):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, payload)
    return path


@pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
def test_bombs(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    payload = bytes(80 << 20)
    if suffix == '.zip':
        zip_of(path, payload)
    else:
        tar_of(path, f'w:{suffix[5:]}', payload=payload)
    with pytest.raises(DataError, match='no photographs can be packed'):
        read_all(path)
    assert not (tmp_path / 'out').exists()


def test_a_bomb_in_an_archive_is_not_unpacked(tmp_path):
    inner = zip_of(tmp_path / 'inner.zip', bytes(80 << 20)).read_bytes()
    path = zip_of(tmp_path / 'x.zip', inner, 'a/inner.zip')
    with pytest.raises(DataError, match=r'inner\.zip claims'):
        read_all(path)


def test_headers_that_claim_terabytes(tmp_path):
    path = zip_of(tmp_path / 'x.zip')
    patched(path, b'PK\x01\x02', 24, b'\xfe\xff\xff\xff')
    with pytest.raises(DataError, match='no photographs'):
        read_all(path)
    path = tar_of(tmp_path / 'x.tar')
    with tarfile.open(path) as archive:
        info = archive.getmembers()[0]
    info.size = 1 << 40
    path.write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(DataError):
        read_all(path)
    with ConcatenatedFile([str(path)]) as stream:
        assert len(stream.read(1 << 46)) == path.stat().st_size


@pytest.mark.parametrize(
    'kind', [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_devices_are_passed_over(tmp_path, kind):
    path = tar_of(tmp_path / 'x.tar', type=kind, size=0, payload=b'')
    assert read_all(path) == []


def test_rights_are_not_taken_over(tmp_path):
    path = tar_of(tmp_path / 'x.tar', mode=0o6777, uid=0)
    assert read_all(path) == ['images/0.png']


@pytest.mark.parametrize('name', ['images/0\n.png', 'images/\x1b[31m.png'])
def test_names_with_control_characters(tmp_path, name):
    with tarfile.open(tmp_path / 'x.tar', 'w') as archive:
        archive.addfile(tarfile.TarInfo(name))
    for path in (zip_of(tmp_path / 'x.zip', name=name), tmp_path / 'x.tar'):
        with pytest.raises(DataError, match='control characters'):
            read_all(path)


def test_damage_inside_of_an_archive_is_one_error(tmp_path):
    for offset, value in ((16, b'\0\0'), (10, b'\x63\0'), (42, b'\x05')):
        path = zip_of(tmp_path / f'{offset}.zip')
        patched(path, b'PK\x01\x02', offset, value)
        with pytest.raises(DataError):
            read_all(path)
    path = tmp_path / 'x.tar.xz'
    tar_of(path, 'w:xz', payload=random.Random(0).randbytes(5000))
    data = path.read_bytes()
    path.write_bytes(data[:2000] + bytes(64) + data[2064:])
    with pytest.raises(DataError):
        read_all(path)
    # The end record of an archive in volumes that are not there.
    path = zip_of(tmp_path / 'v.zip')
    patched(path, b'PK\x05\x06', 4, b'\x02\0')
    with pytest.raises(DataError):
        read_all(path)


OUTSIDE = ['../../etc/passwd', '/etc/passwd', 'a/../../b', 'C:\\x', 'a\0b']


@pytest.mark.parametrize('name', OUTSIDE)
@pytest.mark.parametrize('key', ['file', 'label', 'evaluation_label'])
def test_manifests_name_nothing_outside(tmp_path, name, key):
    entry = dict(index=0, file='images/0.png', prompt='x', seed=0, bytes=1)
    entry |= dict(sha256='ab')
    path = tmp_path / 'manifest.jsonl'
    path.write_text(json.dumps(entry) + '\n')
    assert read_entries(tmp_path)[0] == entry
    path.write_text(json.dumps(entry | {key: name}) + '\n')
    with pytest.raises(UserError, match=r'line 1 of .*manifest\.jsonl'):
        read_entries(tmp_path)


@pytest.mark.parametrize('key', ['index', 'prompt', 'bytes', 'sha256'])
def test_entries_have_types(tmp_path, key):
    entry = dict(index=0, file='images/0.png', prompt='x', seed=0, bytes=1)
    entry |= {'sha256': 'ab', key: [1]}
    (tmp_path / 'manifest.jsonl').write_text(json.dumps(entry) + '\n')
    with pytest.raises(UserError, match=f'its {key} is'):
        read_entries(tmp_path)


@pytest.mark.parametrize('name', OUTSIDE)
def test_reviews_and_indices_name_nothing_outside(tmp_path, name):
    image = dict(name=name, width=1, height=1, sha256='ab')
    image |= dict(expected_iou=0.5, confidence=0.5)
    content = dict(format=1, tool='cvat', classes=['a'], colors=[[1, 2, 3]])
    content |= dict(checkpoint={}, rank='confidence', images=[image])
    (tmp_path / 'review.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match='was not written by this version'):
        read_review(tmp_path)
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(json.dumps(dict(weight_map=dict(w=name))))
    with pytest.raises(UserError, match='is no index of weights'):
        _shards(index)
    assert sorted(os.listdir(tmp_path)) == [index.name, 'review.json']
