import errno
import io
import json
import multiprocessing
import os
import resource
import signal
from unittest.mock import Mock

import pytest

from clouds_mmseg.generate import image_bank
from clouds_mmseg.generate.image_bank import ImageBank, ShardFile
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import BankError, read_bank, read_entries

RECIPE = dict(model='m', mode='txt2img', seed=0, prompts=['a'], size=(8, 8))


def make(root, num=3, writer='rank-00000', **changes):
    return ImageBank(
        root, dict(RECIPE, **changes), info={}, num=num, writer=writer
    )


def add(bank, index, payload=b'image', **more):
    entry = dict(prompt='a', seed=index, bytes=len(payload), sha256='0')
    bank.add(index, payload, entry, **more)


def test_a_bank_is_created_filled_and_gathered(tmp_path):
    bank = make(tmp_path / 'bank')
    assert bank.done() == set()
    for index in (2, 0):
        add(bank, index)
    assert not bank.finish()
    assert bank.done() == {0, 2}
    add(bank, 1)
    assert bank.finish()
    bank.close()
    assert sorted(p.name for p in bank.root.iterdir()) == [
        'bank.json', 'images', 'manifest.jsonl',
    ]  # fmt: skip
    assert list(read_entries(bank.root)) == [0, 1, 2]
    assert read_bank(bank.root)['recipe']['size'] == [8, 8]


def test_another_recipe_is_an_error_that_says_what_differs(tmp_path):
    make(tmp_path).close()
    with pytest.raises(GenerationError) as caught:
        make(tmp_path, model='n', seed=5)
    message = str(caught.value)
    assert 'model: the image bank has "m", now "n"' in message
    assert 'seed: the image bank has 0, now 5' in message
    assert 'size' not in message


def test_a_bank_grows_and_never_shrinks(tmp_path):
    make(tmp_path, num=3).close()
    make(tmp_path, num=5).close()
    make(tmp_path, num=2).close()
    assert read_bank(tmp_path)['num'] == 5


def test_files_that_are_no_bank_are_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('x')
    with pytest.raises(GenerationError, match='holds files but no image bank'):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / 'bank').write_text('x')
    with pytest.raises(GenerationError, match='cannot be written'):
        make(tmp_path / 'bank')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'does not exist'),
        ('', 'cannot be read'),
        ('[]', 'format None'),
        ('{"format": 9}', 'format 9'),
        ('{"format": 1, "num": "3"}', "its num is '3', which is no int"),
        ('{"format": 1, "num": 3}', "its recipe is 'None', which is no dict"),
    ],
)
def test_damaged_bank_file(tmp_path, content, message):
    root = tmp_path / 'bank'
    if content is not None:
        root.mkdir()
        (root / 'bank.json').write_text(content)
    with pytest.raises(BankError, match=message) as caught:
        read_bank(root)
    assert 'clouds generate ' in str(caught.value)


def test_missing_and_changed_files_count_as_not_done(tmp_path):
    import hashlib

    bank = make(tmp_path)
    digest = hashlib.sha256(b'image').hexdigest()
    for index in range(3):
        entry = dict(prompt='a', seed=index, bytes=5, sha256=digest)
        bank.add(index, b'image', entry)
    (tmp_path / 'images/000000.png').unlink()
    (tmp_path / 'images/000001.png').write_bytes(b'imag')
    (tmp_path / 'images/000002.png').write_bytes(b'imagE')
    assert bank.done() == {2}
    assert bank.done(verify=True) == set()
    bank.close()


def test_labels_are_asked_for_and_survive_older_entries(tmp_path):
    bank = make(tmp_path, num=1)
    add(bank, 0)
    assert bank.finish() and bank.done() == {0}
    bank.close()
    bank = make(tmp_path, num=1)
    assert bank.done(labels=True) == set()
    add(bank, 0, label=b'label')
    assert bank.done(labels=True) == {0}
    assert bank.finish()
    bank.close()
    assert read_entries(tmp_path)[0]['evaluation_label'] == (
        'labels_for_evaluation/000000.png'
    )
    (tmp_path / 'labels_for_evaluation/000000.png').unlink()
    assert bank.done(labels=True) == set()


def test_a_torn_line_is_cut_off(tmp_path):
    bank = make(tmp_path)
    add(bank, 0)
    bank.close()
    shard = tmp_path / 'shards/rank-00000.jsonl'
    whole = shard.read_bytes()
    shard.write_bytes(whole + b'{"index": 1, "fi')
    assert list(read_entries(tmp_path)) == [0]
    bank = make(tmp_path)
    add(bank, 1)
    bank.close()
    assert list(read_entries(tmp_path)) == [0, 1]


@pytest.mark.parametrize('line', ['{}', 'nonsense', '3', '[]'])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / 'manifest.jsonl').write_text(line + '\n')
    with pytest.raises(BankError, match='line 1 of .*manifest.jsonl'):
        read_entries(tmp_path)


def test_only_own_leftovers_are_swept(tmp_path):
    bank = make(tmp_path)
    images = tmp_path / 'images'
    images.mkdir()
    for number in (0, 1):
        (images / f'.{number:06d}-abcd_fgh.png').touch()
    (images / '.foreign-abcdefgh.png').touch()
    bank.sweep({0, 2})
    assert sorted(p.name for p in images.iterdir()) == [
        '.000001-abcd_fgh.png', '.foreign-abcdefgh.png',
    ]  # fmt: skip
    bank.close()


def test_the_same_rank_twice_is_an_error(tmp_path):
    first, second = make(tmp_path), make(tmp_path)
    first.begin()
    with pytest.raises(GenerationError, match='another process is writing'):
        second.begin()
    other = make(tmp_path, writer='rank-00001')
    other.begin()
    other.close()
    first.close()
    second.begin()
    second.close()


def test_finishing_leaves_a_busy_shard_alone(tmp_path):
    one, two = (
        make(tmp_path, num=2),
        make(tmp_path, num=2, writer='rank-00001'),
    )
    add(one, 0)
    add(two, 1)
    assert one.finish()
    assert (tmp_path / 'shards/rank-00001.jsonl').exists()
    assert two.finish()
    assert not (tmp_path / 'shards').exists()
    assert list(read_entries(tmp_path)) == [0, 1]


def test_processes_that_begin_together_make_one_bank(tmp_path):
    context = multiprocessing.get_context('fork')
    for trial in range(5):
        root = tmp_path / str(trial)
        crowd = [
            context.Process(target=make, args=(root, 3, rank))
            for rank in range(6)
        ]
        for process in crowd:
            process.start()
        for process in crowd:
            process.join()
        assert [p.exitcode for p in crowd] == [0] * 6
        assert read_bank(root)['num'] == 3
        assert not list(root.glob('.*'))


def _with_small_files(limit, function):
    """Run in a child in which the kernel refuses to let files grow."""

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            function()
        except GenerationError as error:
            os._exit(7 if 'is full' in str(error) else 8)
        os._exit(0)

    child = multiprocessing.get_context('fork').Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def test_a_full_disk_leaves_no_half_image(tmp_path):
    make(tmp_path).close()

    def work():
        bank = make(tmp_path)
        add(bank, 0, b'x' * 900)
        add(bank, 1, b'x' * 1100)

    assert _with_small_files(1000, work) == 7
    assert [p.name for p in (tmp_path / 'images').iterdir()] == ['000000.png']
    assert list(read_entries(tmp_path)) == [0]
    bank = make(tmp_path)
    assert bank.done() == {0}
    add(bank, 1, b'x' * 1100)
    add(bank, 2)
    assert bank.finish()


def test_a_full_disk_leaves_no_half_line(tmp_path):
    make(tmp_path, num=50).close()

    def work():
        bank = make(tmp_path, num=50)
        for index in range(50):
            add(bank, index)

    assert _with_small_files(600, work) == 7
    shard = tmp_path / 'shards/rank-00000.jsonl'
    lines = shard.read_text().splitlines(keepends=True)
    assert 0 < len(lines) < 50
    assert all(json.loads(line) and line.endswith('\n') for line in lines)


def test_other_failures_of_the_disk_are_named(tmp_path, monkeypatch):
    bank = make(tmp_path)

    def fail(*_):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(GenerationError, match='cannot be written: .*Input'):
        add(bank, 0)
    monkeypatch.undo()
    assert list(read_entries(tmp_path)) == []
    bank.close()


def test_a_line_that_cannot_be_cut_off_is_told_with_its_file(
    tmp_path, monkeypatch
):
    class Failing(io.FileIO):
        def truncate(self, size=None):
            raise OSError(errno.EIO, 'Input/output error')

    path = tmp_path / 'rank-00000.jsonl'
    shard = ShardFile(path)
    shard.append(dict(index=0))
    shard._stream = Failing(os.dup(shard._stream.fileno()), 'r+')
    full = OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', Mock(side_effect=full))
    with pytest.raises(OSError, match='No space.*rank-00000'):
        shard.append(dict(index=1))
    shard.close()
    monkeypatch.undo()
    monkeypatch.setattr(
        image_bank, 'open', lambda file, *_: Failing(file, 'r+'), raising=False
    )
    with pytest.raises(OSError, match='output error.*rank-00000'):
        ShardFile(path)
    monkeypatch.undo()
    # Nor does the lock stay with the one that could not begin.
    ShardFile(path).close()


def test_without_hard_links_and_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOTSUP, 'Operation not supported')

    monkeypatch.setattr(os, 'link', refuse)
    monkeypatch.setattr(fcntl, 'flock', refuse)
    bank = make(tmp_path, num=1)
    add(bank, 0)
    assert bank.finish()
    bank.close()


def test_what_killed_processes_left_goes_with_the_bank(tmp_path):
    bank = make(tmp_path, num=1)
    add(bank, 0)
    (tmp_path / 'shards/rank-00007.lock').touch()
    (tmp_path / '.bank-abcd1234.json').touch()
    assert bank.finish()
    assert not (tmp_path / 'shards').exists()
    assert not (tmp_path / '.bank-abcd1234.json').exists()
