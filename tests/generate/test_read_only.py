"""What is complete needs nothing written, and says so."""

import errno
import os
import tempfile

import pytest
from generate_helpers import tree

from clouds_mmseg.generate.image_bank import encode_entry
from clouds_mmseg.generate.prompts import write_prompts
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils import image_set as bank_manifest
from clouds_mmseg.utils.errors import GenerationError

pytestmark = pytest.mark.usefixtures('one_process')
SMALL = dict(num=3, size=(64, 32))


@pytest.fixture
def read_only(monkeypatch):
    """Function that makes every attempt at writing fail, as a mount does."""

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    real = os.open

    def guarded(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse()
        return real(path, flags, *args, **kwargs)

    def switch():
        monkeypatch.setattr(os, 'open', guarded)
        monkeypatch.setattr(tempfile, 'mkstemp', refuse)
        for name in ('mkdir', 'replace', 'rename', 'unlink', 'rmdir', 'link'):
            monkeypatch.setattr(os, name, refuse)

    return switch


def test_a_complete_bank_needs_no_writing(tmp_path, prompt_file, read_only):
    first = generate_images(tmp_path / 'bank', prompts=prompt_file, **SMALL)
    assert first.created == 3
    before = tree(tmp_path / 'bank')
    read_only()
    for verify in (False, True):
        again = generate_images(
            tmp_path / 'bank', prompts=prompt_file, verify=verify, **SMALL
        )
        assert again.complete and (again.created, again.existing) == (0, 3)
    fewer = generate_images(
        tmp_path / 'bank', prompts=prompt_file, **{**SMALL, 'num': 2}
    )
    assert fewer.complete
    assert tree(tmp_path / 'bank') == before
    with pytest.raises(GenerationError, match='Read-only file system'):
        generate_images(
            tmp_path / 'bank', prompts=prompt_file, **{**SMALL, 'num': 4}
        )


def test_what_lacks_an_image_says_that_it_cannot_be_written(
    tmp_path, prompt_file, read_only
):
    generate_images(tmp_path / 'bank', prompts=prompt_file, **SMALL)
    (tmp_path / 'bank/images/000001.png').unlink()
    read_only()
    with pytest.raises(GenerationError, match='cannot be written.*Read-only'):
        generate_images(tmp_path / 'bank', prompts=prompt_file, **SMALL)


def test_a_missing_contact_sheet_is_no_failure(
    tmp_path, prompt_file, read_only
):
    generate_images(
        tmp_path / 'bank', prompts=prompt_file, contact_sheet=False, **SMALL
    )
    read_only()
    assert generate_images(
        tmp_path / 'bank', prompts=prompt_file, **SMALL
    ).complete


def test_the_same_prompts_are_not_written_again(tmp_path, read_only):
    path = tmp_path / 'prompts.txt'
    write_prompts(path, ['a road', 'rain'], dict(seed=0))
    before = tree(tmp_path)
    read_only()
    assert write_prompts(path, ['a road', 'rain'], dict(seed=0)).is_file()
    assert tree(tmp_path) == before
    with pytest.raises(GenerationError, match='cannot be written to'):
        write_prompts(path, ['a road', 'snow'], dict(seed=0))


@pytest.fixture
def logged(monkeypatch):
    from clouds_mmseg.generate import image_bank as bank
    from clouds_mmseg.generate import run as module

    texts = []
    for place in (module, bank, bank_manifest):
        monkeypatch.setattr(
            place, 'print_log', lambda text, **_: texts.append(text)
        )
    return texts


def test_images_that_are_copies_are_told(tmp_path, prompt_file, logged):
    generate_images(tmp_path / 'bank', prompts=prompt_file, **SMALL)
    assert not any('are copies of others' in text for text in logged)
    entries = list(bank_manifest.read_entries(tmp_path / 'bank').values())
    entries[2]['sha256'] = entries[0]['sha256']
    manifest = tmp_path / 'bank' / bank_manifest.MANIFEST_FILE
    manifest.write_bytes(b''.join(encode_entry(e) for e in entries))
    assert generate_images(
        tmp_path / 'bank', prompts=prompt_file, **SMALL
    ).complete
    (text,) = [text for text in logged if 'are copies of others' in text]
    assert text.startswith('1 of the 3 images of the image bank')
    assert 'images/000002.png of images/000000.png' in text


def test_other_versions_in_a_bank_are_told(
    tmp_path, prompt_file, logged, tiny_sd
):
    options = dict(
        prompts=prompt_file, backend='diffusers', model=str(tiny_sd), size=32,
        steps=1, device='cpu', contact_sheet=False,
    )  # fmt: skip
    generate_images(tmp_path / 'bank', num=1, **options)
    path = tmp_path / 'bank/bank.json'
    import torch

    now = f'"torch": "{torch.__version__}"'
    assert now in path.read_text()
    path.write_text(path.read_text().replace(now, '"torch": "1.0"'))
    logged.clear()
    generate_images(tmp_path / 'bank', num=1, **options)
    assert not any('begun with torch' in text for text in logged)
    generate_images(tmp_path / 'bank', num=2, **options)
    (text,) = [text for text in logged if 'begun with' in text]
    assert 'begun with torch 1.0, the rest of it is made with' in text


def test_prompts_that_leave_classes_out_or_repeat_are_told(tmp_path, logged):
    prompts = tmp_path / 'p.txt'
    prompts.write_text('a car on a road\na car on a road\nrain\n')
    generate_images(tmp_path / 'bank', prompts=prompts, **SMALL)
    text = '\n'.join(logged)
    assert '1 of 3 prompts stand there more than once' in text
    (unnamed,) = [t for t in logged if 'no prompt names' in t]
    assert 'train' in unnamed and 'car' not in unnamed
