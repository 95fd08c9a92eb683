"""Archives of every kind, and those that must not be trusted."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepare_fake import write_archives, write_files, write_zip
from prepare_fakes import MAKERS
from zip_volumes import cut_zip

from clouds_mmseg.data_tools.prepare import run
from clouds_mmseg.data_tools.prepare.archives import (
    ConcatenatedFile,
    safe_name,
)
from clouds_mmseg.data_tools.prepare.run import Options, prepare_dataset
from clouds_mmseg.data_tools.prepare.sources import find_sources
from clouds_mmseg.datasets import DataError

ONE = Options(workers=1)


def contents(paths, out):
    """Name -> content of everything that is found."""
    return {
        member.name: source.read(member)
        for source, members in find_sources(paths, out)
        for member in members
    }


def zip_bytes(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def message_of(paths, out):
    with pytest.raises(DataError) as caught:
        find_sources(paths, out)
    return str(caught.value)


blobs = st.dictionaries(
    st.from_regex(r'[a-z]{1,5}/[a-z]{1,5}\.png', fullmatch=True),
    st.binary(max_size=300),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(files=blobs, wide=st.booleans(), data=st.data())
def test_a_zip_of_volumes_reads_as_the_whole(
    tmp_path_factory, files, wide, data
):
    whole = zip_bytes(files)
    start = whole.find(b'PK\x01\x02')
    cuts = data.draw(
        st.sets(st.integers(1, max(1, start)), min_size=1, max_size=4)
    )
    folder = tmp_path_factory.mktemp('volumes')
    volumes = cut_zip(whole, cuts, wide=wide)
    for number, content in enumerate(volumes[:-1], 1):
        (folder / f'x y.z{number:02d}').write_bytes(content)
    (folder / 'x y.zip').write_bytes(volumes[-1])
    out = folder / 'out'
    found = contents([folder], out)
    inside = {k: v for k, v in found.items() if k in files}
    assert inside == files
    # Any one of the volumes stands for all of them.
    assert contents([folder / 'x y.zip'], out) == files
    assert contents([folder / 'x y.z01'], out) == files
    (folder / 'x y.z01').unlink()
    assert 'volume 1 is missing' in message_of([folder / 'x y.zip'], out)


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.binary(max_size=9), min_size=1, max_size=5),
    tail=st.binary(max_size=4),
    place=st.integers(0, 40),
    count=st.integers(0, 40),
)
def test_joined_files_read_as_one(
    tmp_path_factory, pieces, tail, place, count
):
    folder = tmp_path_factory.mktemp('joined')
    paths = [folder / str(n) for n in range(len(pieces))]
    for path, piece in zip(paths, pieces, strict=True):
        path.write_bytes(piece)
    whole = b''.join(pieces) + tail
    with ConcatenatedFile(paths, tail) as file:
        assert file.read() == whole and file.seekable() and file.readable()
        assert file.seek(place) == file.tell() == place
        assert file.read(count) == whole[place : place + count]
        assert file.seek(0, os.SEEK_END) == len(whole)


@pytest.mark.skipif(not shutil.which('zip'), reason='needs Info-ZIP')
def test_volumes_written_by_info_zip(tmp_path):
    big = np.random.default_rng(0).bytes(200_000)
    write_files(tmp_path / 'a', {'images/1.png': big, 'labels/1.png': b'x'})
    subprocess.run(
        ['zip', '-q', '-r', '-s', '64k', '../v.zip', '.'],
        cwd=tmp_path / 'a',
        check=True,
    )
    assert len(list(tmp_path.glob('v.z*'))) > 3
    found = contents([tmp_path / 'v.zip'], tmp_path / 'out')
    assert found == {'images/1.png': big, 'labels/1.png': b'x'}


@pytest.mark.parametrize(
    'suffix, mode',
    [('tar', 'w'), ('tar.gz', 'w:gz'), ('tgz', 'w:gz'), ('tar.xz', 'w:xz')],
)
def test_tar_archives(tmp_path, suffix, mode):
    fake = MAKERS['gta5']()
    files = write_files(tmp_path / 'f', fake.files())
    with tarfile.open(tmp_path / f'gta5.{suffix}', mode) as archive:
        archive.add(files, 'a folder')
    out = tmp_path / 'out'
    result = prepare_dataset('gta5', tmp_path / f'gta5.{suffix}', out, ONE)
    assert (result.created, result.manifest.splits) == (6, dict(train=3))
    image = fake.archives['01_images.zip']['images/00001.png']
    assert (out / 'images/00001.png').read_bytes() == image
    assert prepare_dataset('gta5', [files], out, ONE).existing == 6


def test_a_tar_archive_is_read_in_its_order(tmp_path, monkeypatch):
    """Offsets are numbers: as text, 10240 would come before 2048."""
    fake = MAKERS['gta5']()
    names = sorted(
        (n, c) for files in fake.archives.values() for n, c in files.items()
    )
    with tarfile.open(tmp_path / 'gta5.tar', 'w') as archive:
        for name, content in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    plans = []
    make = run.make_plan
    monkeypatch.setattr(
        run, 'make_plan', lambda *a: plans.append(make(*a)) or plans[-1]
    )
    prepare_dataset('gta5', [tmp_path], tmp_path / 'out', ONE)
    offsets = [job.member.location for job in plans[0].jobs]
    assert offsets == sorted(offsets) != sorted(offsets, key=str)


@pytest.mark.parametrize('kind', ['zip', 'tar.gz'])
def test_archives_cut_into_numbered_files(tmp_path, kind):
    fake = MAKERS['urbansyn']()
    if kind == 'zip':
        whole = zip_bytes(fake.files())
    else:
        files = write_files(tmp_path / 'f', fake.files())
        with tarfile.open(tmp_path / 'whole', 'w:gz') as archive:
            archive.add(files, '.')
        whole = (tmp_path / 'whole').read_bytes()
    third = len(whole) // 3 + 1
    src = tmp_path / 'src'
    write_files(
        src,
        {
            f'urbansyn.{kind}.{n + 1:03d}': whole[n * third : (n + 1) * third]
            for n in range(3)
        },
    )
    result = prepare_dataset('urbansyn', src, tmp_path / 'out', ONE)
    assert result.manifest.splits == dict(train=2)
    (src / f'urbansyn.{kind}.002').unlink()
    assert 'volume 2 is missing' in message_of([src], tmp_path / 'out')


def test_archives_in_archives(tmp_path):
    fake = MAKERS['acdc']()
    inner = {f'pack/{n}': zip_bytes(f) for n, f in fake.archives.items()}
    write_zip(tmp_path / 'src/outer.zip', inner)
    out = tmp_path / 'out'
    result = prepare_dataset('acdc', [tmp_path / 'src/outer.zip'], out, ONE)
    assert result.manifest.splits == fake.splits
    assert not (out / '.unpacked').exists()


@pytest.mark.parametrize(
    'name',
    [
        '../images/00001.png',
        'images/../../00001.png',
        '/etc/images/00001.png',
        'C:/images/00001.png',
        'C:00001.png',
        r'..\images\00001.png',
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path, name):
    src = write_archives(tmp_path / 'src', MAKERS['gta5']())
    write_zip(src / '03_images.zip', {'images/00009.png': b'x', name: b'evil'})
    out = tmp_path / 'a/b/out'
    with pytest.raises(DataError) as caught:
        prepare_dataset('gta5', [src], out, ONE)
    assert '03_images.zip' in str(caught.value)
    assert 'leads out of its folder' in str(caught.value)
    assert not out.exists() and not (tmp_path / 'a').exists()


@given(name=st.text(alphabet='ab./\\:C', min_size=1, max_size=9))
def test_names_stay_inside(name):
    try:
        safe = safe_name(name, 'x.zip')
    except DataError:
        return
    full = os.path.normpath(os.path.join('/out', safe))
    assert full == '/out' or full.startswith('/out/')
    assert '\\' not in safe and not safe.startswith('/')


def test_links_in_archives_are_refused(tmp_path):
    link = zipfile.ZipInfo('images/00001.png')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / 'l.zip', 'w') as archive:
        archive.writestr(link, '/etc/passwd')
    assert "the link 'images/00001.png'" in message_of(
        [tmp_path / 'l.zip'], tmp_path / 'out'
    )
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info = tarfile.TarInfo('images/00001.png')
        info.type, info.linkname = kind, '/etc/passwd'
        with tarfile.open(tmp_path / 'l.tar', 'w') as archive:
            archive.addfile(info)
        assert 'Links in archives are not followed' in message_of(
            [tmp_path / 'l.tar'], tmp_path / 'out'
        )


def test_backslashes_are_separators(tmp_path):
    """SYNTHIA's archive leaves such names behind, and Windows writes them."""
    fake = MAKERS['synthia']()
    files = {k.replace('/', '\\'): v for k, v in fake.files().items()}
    unpacked = tmp_path / 'unpacked'
    unpacked.mkdir()
    for name, content in files.items():
        (unpacked / name).write_bytes(content)
    result = prepare_dataset('synthia', unpacked, tmp_path / 'out', ONE)
    assert result.manifest.splits == dict(train=2)
    write_zip(tmp_path / 'w.zip', files)
    prepare_dataset('synthia', tmp_path / 'w.zip', tmp_path / 'out2', ONE)


@pytest.mark.parametrize('name', ['x.zip', 'x.tar', 'x.tar.gz', 'x.z01'])
def test_a_broken_download_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'PK\x03\x04' + bytes(2000))
    text = message_of([path], tmp_path / 'out')
    assert str(tmp_path / 'x.z') in text or str(path) in text
    assert 'download' in text


def test_what_is_no_source(tmp_path):
    (tmp_path / 'notes.txt').write_text('x')
    out = tmp_path / 'out'
    assert 'no folder and no archive' in message_of(
        [tmp_path / 'notes.txt'], out
    )
    assert 'does not exist' in message_of([tmp_path / 'nowhere'], out)


def test_encrypted_archives(tmp_path):
    data = bytearray(zip_bytes({'images/00001.png': b'x'}))
    directory = data.find(b'PK\x01\x02')
    data[directory + 8] |= 1
    (tmp_path / 'e.zip').write_bytes(data)
    assert 'encrypted' in message_of([tmp_path / 'e.zip'], tmp_path / 'out')


def program(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)


def test_rar_archives_ask_a_program(tmp_path, monkeypatch):
    fake, out = MAKERS['synthia'](), tmp_path / 'out'
    files = write_files(tmp_path / 'files', fake.files())
    (tmp_path / 's.rar').write_bytes(b'Rar!')
    tools = tmp_path / 'bin'
    program(tools, 'true', 'exit 0')
    monkeypatch.setenv('PATH', f'{tools}')
    text = message_of([tmp_path / 's.rar'], out)
    assert 'none of unrar, 7zz, 7z, bsdtar is installed' in text
    program(tools, 'unrar', 'echo "CRC failed" >&2; exit 3')
    text = message_of([tmp_path / 's.rar'], out)
    assert 'exit status 3' in text and 'CRC failed' in text
    # The arguments end with the archive and the folder, closed by a slash.
    program(
        tools,
        'unrar',
        f'test "$1 $(/usr/bin/basename "$4")" = "x s.rar" && '
        f'/bin/cp -r {files}/. "$5"',
    )
    result = prepare_dataset('synthia', tmp_path / 's.rar', out, ONE)
    assert result.manifest.splits == dict(train=2)
    assert (out / 'RGB/0000001.png').is_file()
    assert not (out / '.unpacked').exists()
