"""The tool as users start it: killed, shared by processes, misused."""

import multiprocessing
import os
import runpy
import signal
import time

import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.image_set import read_entries, sha256_of


@pytest.fixture(scope='module')
def main(repo_root):
    path = repo_root / 'tools' / 'generate_images.py'
    return runpy.run_path(str(path))['main']


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / 'prompts.txt'
    path.write_text('a road in fog\nnight rain\nsnow\na sunny street\n')
    return path


def tree(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_makes_a_bank_and_then_nothing(main, tmp_path, prompts, capsys):
    command = ['--prompts', str(prompts), '--num', '3', '--out',
               str(tmp_path / 'bank'), '--size', '64x32']  # fmt: skip
    main(command)
    assert '3 images made, 0 were there, ' in capsys.readouterr().out
    before = tree(tmp_path / 'bank')
    main([*command, '--verify'])
    assert '0 images made, 3 were there\n' in capsys.readouterr().out
    assert tree(tmp_path / 'bank') == before
    (tmp_path / 'bank/images/000001.png').write_bytes(
        bytes(len(before['images/000001.png']))
    )
    main([*command, '--verify'])
    assert '1 images made, 2 were there' in capsys.readouterr().out
    assert tree(tmp_path / 'bank') == before


def test_a_share_by_hand(main, tmp_path, prompts, capsys):
    command = ['--prompts', str(prompts), '--num', '3', '--out',
               str(tmp_path / 'bank'), '--size', '64x32']  # fmt: skip
    main([*command, '--shard', '1/2'])
    assert 'other processes have the rest' in capsys.readouterr().out
    main([*command, '--shard', '0/2'])
    assert 'other processes' not in capsys.readouterr().out


@pytest.mark.parametrize('size', ['12y9', '0', '1x2x3', ''])
def test_bad_size(main, tmp_path, prompts, size, capsys):
    with pytest.raises(SystemExit):
        main(['--prompts', str(prompts), '--num', '1', '--out',
              str(tmp_path / 'bank'), '--size', size])  # fmt: skip
    assert 'must be WIDTHxHEIGHT' in capsys.readouterr().err


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """Folder of three images: restyling them takes milliseconds."""
    root = tmp_path_factory.mktemp('sources')
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (64, 128, 3), np.uint8)
        Image.fromarray(pixels).save(root / f'{number}.png')
    return root


def _restyle(root, prompts, sources):
    generate_images(
        root, prompts=prompts, num=40, mode='img2img', source=sources
    )


def test_killed_at_any_moment_nothing_but_the_image_in_flight_is_lost(
    tmp_path, prompts, sources
):
    _restyle(tmp_path / 'whole', prompts, sources)
    root = tmp_path / 'killed'
    images = root / 'images'
    context = multiprocessing.get_context('fork')
    seen, kills = 0, 0
    while seen < 36 and kills < 40:
        child = context.Process(target=_restyle, args=(root, prompts, sources))
        child.start()
        while child.is_alive():
            if len(list(images.glob('[0-9]*.png'))) >= seen + 3:
                break
        # Not always right after an image was finished.
        time.sleep(kills % 7 / 500)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        entries = read_entries(root)
        # Whatever the manifest has is whole.
        for entry in entries.values():
            assert sha256_of(root / entry['file']) == entry['sha256']
        now = len(list(images.glob('[0-9]*.png')))
        assert len(entries) in (now, now - 1)
        assert now >= seen
        seen = now
    assert kills >= 3
    _restyle(root, prompts, sources)
    assert tree(root) == tree(tmp_path / 'whole')


def test_torchrun_gives_the_files_of_one_process(
    repo_root, tmp_path, prompts, warm_python
):
    # torchrun takes a bare --num for one of its own options.
    command = [repo_root / 'tools/generate_images.py', '--num-images', '5']
    options = ['--prompts', prompts, '--size', '64x32', '--out']
    done = warm_python.torchrun(2, *command, *options, tmp_path / 'two')
    assert done.returncode == 0, done.stderr
    made = sorted(
        line.split(': ')[1].split(' were')[0]
        for line in done.stdout.splitlines()
        if 'images made' in line
    )
    assert made == ['2 images made, 0', '3 images made, 0']
    generate_images(tmp_path / 'one', prompts=prompts, num=5, size=(64, 32))
    assert tree(tmp_path / 'two') == tree(tmp_path / 'one')


def test_stopping_by_hand_is_explained(main, tmp_path, prompts, monkeypatch):
    from clouds_mmseg.generate import run as fill

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fill, 'encode_png', stop)
    with pytest.raises(KeyboardInterrupt, match='same command continues'):
        main(['--prompts', str(prompts), '--num', '1', '--size', '64x32',
              '--out', str(tmp_path / 'bank')])  # fmt: skip
