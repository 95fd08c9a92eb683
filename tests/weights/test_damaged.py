"""Damaged weight files: an error, or what was written; nothing between.

More mutations than the suite has time for:

    MUTATIONS=600 python -m pytest -q tests/checkpoints/test_damaged.py
"""

import os
import random
import zipfile

import pytest
import torch

from clouds_mmseg.weights.integrity import BoundedReader, content_sha256
from clouds_mmseg.weights.io import (
    WeightFileError,
    read_content,
    read_state_dict,
    split_content,
    write_weights,
)

MUTATIONS = int(os.environ.get('MUTATIONS', 100))
META = dict(
    cfg='model = dict(type="X")\n',
    dataset_meta=dict(classes=['road', 'sky'], palette=[[1, 2, 3]] * 2),
    iter=3,
)
KINDS = ['cut', 'bits', 'zero', 'swap', 'append', 'random']


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        'backbone.conv.weight': torch.randn(4, 3, 3, 3, generator=generator),
        'backbone.bn.num_batches_tracked': torch.tensor(7),
        'decode_head.cls_embed.weight': torch.randn(3, 8, generator=generator),
        'decode_head.cls_embed.bias': torch.zeros(3),
    }


def write_zip(path):
    write_weights(path, weights(), META)


def write_old(path):
    meta = dict(META)
    meta['content_sha256'] = content_sha256(weights(), meta)
    torch.save(
        dict(meta=meta, state_dict=weights()),
        path,
        _use_new_zipfile_serialization=False,
    )


def write_pickle(path):
    write_weights(path, weights(), META, wrapper='model')


FORMATS = {
    'zip.pth': write_zip,
    'old.pth': write_old,
    'w.safetensors': write_zip,
    'w.pkl': write_pickle,
}


def mutate(data, kind, rng):
    """Damage some bytes as disks and downloads do."""
    data = bytearray(data)
    start = rng.randrange(len(data))
    length = min(rng.choice([1, 8, 64, 512]), len(data) - start)
    if kind == 'cut':
        del data[start:]
    elif kind == 'bits':
        for _ in range(rng.choice([1, 1, 4])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 'zero':
        data[start : start + length] = bytes(length)
    elif kind == 'swap':
        other = rng.randrange(len(data) - length + 1)
        one = data[start : start + length]
        data[start : start + length] = data[other : other + length]
        data[other : other + length] = one
    elif kind == 'append':
        data += rng.randbytes(length)
    else:
        data[start : start + length] = rng.randbytes(length)
    return bytes(data)


def same(content, path):
    """Whether a file says what was written into it."""
    found, rest = split_content(content, path)
    expected = weights()
    meta = rest.get('meta') or {}
    return (
        found.keys() == expected.keys()
        and all(found[k].dtype == v.dtype for k, v in expected.items())
        and all(torch.equal(found[k], v) for k, v in expected.items())
        and meta.get('dataset_meta') == META['dataset_meta']
    )


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', FORMATS)
def test_damage_is_an_error_or_changes_nothing(tmp_path, name):
    path = tmp_path / name
    FORMATS[name](path)
    data = path.read_bytes()
    assert same(read_content(path), path)
    rng = random.Random(f'{name} 0')
    refused = 0
    for index in range(MUTATIONS):
        kind = KINDS[index % len(KINDS)]
        path.write_bytes(mutate(data, kind, rng))
        try:
            assert same(read_content(path), path), f'{kind} {index}'
        except WeightFileError as error:
            assert str(path) in str(error)
            refused += 1
    print(f'{name}: {refused} of {MUTATIONS} refused, the rest unchanged')
    assert refused > MUTATIONS / 3


def test_a_flipped_bit_of_a_weight_is_found(tmp_path):
    # Files of other programs have no hash, but every zip has CRCs.
    path = tmp_path / 'w.pth'
    values = torch.full((500,), 2.0)
    torch.save(dict(state_dict=dict(w=values)), path)
    data = bytearray(path.read_bytes())
    data[data.index(values.numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightFileError, match=r'CRC-32.*data/0'):
        read_state_dict(path)


def test_an_archive_without_checksums_is_read(tmp_path):
    path = tmp_path / 'w.pth'
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(w=torch.ones(3)), path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert read_state_dict(path)['w'].sum() == 3


def test_the_hash_in_a_file_is_that_of_what_is_read(tmp_path):
    hashes = set()
    for name in ('w.pth', 'w.safetensors', 'w.pkl'):
        path = tmp_path / name
        write_weights(path, weights(), META)
        content = read_content(path)
        hashes.add(content['meta']['content_sha256'])
        assert content_sha256(weights(), content['meta']) in hashes
    assert len(hashes) == 1
    path = tmp_path / 'w.safetensors'
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightFileError, match=r'SHA-256.*download it again'):
        read_content(path)


@pytest.mark.parametrize('change', ['name', 'dtype', 'shape', 'value', 'meta'])
def test_the_hash_counts_everything(change):
    base, meta = weights(), dict(META)
    first = content_sha256(base, meta)
    key = 'decode_head.cls_embed.bias'
    value = base.pop(key)
    base[key] = value
    assert content_sha256(base, meta) == first  # whatever the order
    if change == 'name':
        base['decode_head.other.bias'] = base.pop(key)
    elif change == 'dtype':
        base[key] = value.int()
    elif change == 'shape':
        base[key] = value[None]
    elif change == 'value':
        base[key] = value + 1
    else:
        meta['iter'] = 4
    assert content_sha256(base, meta) != first


def test_changed_on_purpose_says_how(tmp_path):
    path = tmp_path / 'w.pth'
    write_weights(path, weights(), META)
    content = torch.load(path, weights_only=True)
    content['state_dict'].popitem()
    torch.save(content, path)
    with pytest.raises(WeightFileError, match='on purpose'):
        read_content(path)
    del content['meta']['content_sha256']
    torch.save(content, path)
    assert len(read_state_dict(path)) == 3


def test_no_more_is_read_than_there_is(tmp_path):
    path = tmp_path / 'w.pkl'
    # BINBYTES8 of 2**46 bytes, and BINUNICODE of 2 GiB.
    for length in (b'\x8e' + (1 << 46).to_bytes(8, 'little'), b'X\0\0\0\x7f'):
        path.write_bytes(b'\x80\x04' + length + b'abc.')
        with pytest.raises(WeightFileError, match=str(path)):
            read_state_dict(path)
    with BoundedReader(path) as stream:
        assert len(stream.read(1 << 46)) == path.stat().st_size
