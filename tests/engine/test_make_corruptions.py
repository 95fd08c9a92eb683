"""The folder of corrupted images: continued, verified, refused."""

import json
import runpy
import shutil

import interrupted_work
import numpy as np
import pytest
from interrupted_work import share_with_interruptions
from PIL import Image

from clouds_mmseg.robustness import run as module
from clouds_mmseg.robustness.dataset import read_entries, read_set
from clouds_mmseg.robustness.run import make_corruptions
from clouds_mmseg.utils.errors import UserError

CHOICE = dict(corruptions=['shot_noise', 'contrast'], severities=[1, 2])


@pytest.fixture
def source(tmp_path):
    root = tmp_path / 'images'
    rng = np.random.default_rng(0)
    for name in ('a/1.png', 'a/2.png', 'b/3.jpg'):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def tree(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_makes_every_domain_and_then_nothing(source, tmp_path):
    out = tmp_path / 'set'
    done = make_corruptions(source, out, workers=1, **CHOICE)
    assert done[:4] == (12, 0, 3, 4)
    files = tree(out)
    assert {'contrast/2/b/3.png', 'shot_noise/1/a/1.png'} < set(files)
    assert len(files) == 12 + 3
    sheet = Image.open(done.sheet)
    # Six columns beside the names; two rows of pictures below the head.
    assert 6 * 200 < sheet.width < 8 * 200
    assert 2 * 160 < sheet.height < 3 * 160
    again = make_corruptions(source, out, workers=1, **CHOICE)
    assert again[:2] == (0, 12)
    assert tree(out) == files
    assert read_set(out)['info']['versions']['numpy'] == np.__version__


def test_interrupted_processes_share_the_work(source, tmp_path):
    one, many = tmp_path / 'one', tmp_path / 'many'
    for number in range(4, 9):
        shutil.copy(source / 'a/1.png', source / f'a/{number}.png')
    make_corruptions(source, one, workers=1, **CHOICE)

    def run(**more):
        return make_corruptions(
            source, many, shared=True, lease=1, **CHOICE | more
        )

    done = share_with_interruptions(run, many)
    assert done.share.finished and done.share.taken_over
    assert interrupted_work.tree(many) == tree(one)
    # The set is extended, and a damaged image is replaced.
    (many / 'contrast/1/a/4.png').write_bytes(b'')
    make_corruptions(source, one, workers=1, **CHOICE | dict(severities=[3]))
    assert run(severities=[1, 2, 3])[:2] == (8 * 2 + 1, 8 * 4 - 1)
    assert interrupted_work.tree(many) == tree(one)


def test_a_set_that_another_process_has_just_begun_is_joined(
    source, tmp_path, monkeypatch
):
    """It begins between the looks for its file and for other files."""
    one, many = tmp_path / 'one', tmp_path / 'many'
    shared = dict(shared=True, lease=1, **CHOICE)
    make_corruptions(source, one, **shared)
    real = module._is_empty

    def begin_and_look(folder):
        monkeypatch.undo()
        make_corruptions(source, many, **shared)
        return real(folder)

    monkeypatch.setattr(module, '_is_empty', begin_and_look)
    assert make_corruptions(source, many, **shared).created == 0
    assert interrupted_work.tree(many) == interrupted_work.tree(one)


def test_processes_make_the_same(source, tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    make_corruptions(source, one, workers=1, **CHOICE)
    make_corruptions(source, two, workers=2, **CHOICE)
    assert tree(one) == tree(two)


def test_a_set_grows(source, tmp_path):
    out = tmp_path / 'set'
    small = dict(corruptions=['contrast'], severities=[1])
    make_corruptions(source, out, workers=1, **small)
    assert read_set(out)['complete'] == ['contrast_1']
    done = make_corruptions(source, out, workers=1, **CHOICE)
    assert done[:2] == (9, 3)
    assert len(read_set(out)['complete']) == 4


def test_a_stopped_run_continues(source, tmp_path, monkeypatch):
    whole, out = tmp_path / 'whole', tmp_path / 'set'
    make_corruptions(source, whole, workers=1, **CHOICE)
    corrupt, calls = module.corrupt_image, []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return corrupt(*args, **kwargs)

    monkeypatch.setattr(module, 'corrupt_image', stop)
    with pytest.raises(KeyboardInterrupt):
        make_corruptions(source, out, workers=1, **CHOICE)
    assert read_set(out)['complete'] == []
    # What a kill leaves: a temporary file, half a line.
    (out / 'contrast/1/a/.1-abcdefgh.png').write_bytes(b'x')
    (out / '.corruptions-abcdefgh.json').touch()
    with open(out / 'manifest.jsonl', 'a') as stream:
        stream.write('{"file": "contr')
    done = make_corruptions(source, out, workers=1, **CHOICE)
    assert 0 < done.existing < 12 and done.created + done.existing == 12
    assert tree(out) == tree(whole)


def test_lost_and_damaged_images_are_made_again(source, tmp_path):
    out = tmp_path / 'set'
    make_corruptions(source, out, workers=1, **CHOICE)
    files = tree(out)
    (out / 'contrast/1/a/1.png').unlink()
    # A file of the right size whose bytes rotted.
    path = out / 'contrast/2/a/2.png'
    path.write_bytes(path.read_bytes()[:-20] + b'x' * 20)
    with pytest.raises(UserError, match='contrast/2/a/2.png is trunc'):
        make_corruptions(source, out, workers=1, **CHOICE)
    assert (out / 'contrast/1/a/1.png').is_file()
    done = make_corruptions(source, out, workers=1, verify=True, **CHOICE)
    assert done.created == 1
    assert tree(out) == files


def test_entries_name_source_and_seed(source, tmp_path):
    out = tmp_path / 'set'
    make_corruptions(source, out, workers=1, seed=4, **CHOICE)
    entry = read_entries(out)['shot_noise/2/b/3.png']
    assert entry['source'] == 'b/3.jpg'
    seed = module.image_seed('3', 'shot_noise', 2, 4)
    assert entry['seed'] == seed
    image = np.asarray(Image.open(source / 'b/3.jpg'))
    expected = module.corrupt_image(image, 'shot_noise', 2, seed=seed)
    found = np.asarray(Image.open(out / entry['file']))
    np.testing.assert_array_equal(found, expected)


def test_other_arguments_and_places_are_refused(source, tmp_path):
    out = tmp_path / 'set'
    make_corruptions(source, out, workers=1, **CHOICE)
    with pytest.raises(UserError, match='it has seed 0; asked for: seed 1'):
        make_corruptions(source, out, seed=1, **CHOICE)
    (source / 'b/3.jpg').unlink()
    with pytest.raises(UserError, match='images 3, digest'):
        make_corruptions(source, out, **CHOICE)
    with pytest.raises(UserError, match='holds no corruptions.json'):
        make_corruptions(out / 'contrast', source, **CHOICE)
    with pytest.raises(UserError, match='made of itself'):
        make_corruptions(source, source / 'c', **CHOICE)
    with pytest.raises(UserError, match='no such folder'):
        make_corruptions(tmp_path / 'nowhere', out)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='holds no image'):
        make_corruptions(tmp_path / 'empty', tmp_path / 'c')


def test_two_images_of_one_name(source, tmp_path):
    Image.new('RGB', (32, 32)).save(source / 'a/1.jpg')
    with pytest.raises(UserError, match='a/1.jpg and a/1.png'):
        make_corruptions(source, tmp_path / 'c')


def test_a_damaged_image_is_named(source, tmp_path):
    path = source / 'a/2.png'
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match='a/2.png is truncated'):
        make_corruptions(source, tmp_path / 'c', workers=1, **CHOICE)


def test_a_full_disk_is_explained(source, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(module, 'write_file', full)
    monkeypatch.setattr(module, '_write_set', lambda *args: None)
    (tmp_path / 'c').mkdir()
    with pytest.raises(UserError, match='c is full'):
        make_corruptions(source, tmp_path / 'c', workers=1, **CHOICE)


def test_the_tool(source, tmp_path, repo_root, capsys):
    path = repo_root / 'tools' / 'make_corruptions.py'
    main = runpy.run_path(str(path))['main']
    out = str(tmp_path / 'set')
    words = '--corruptions blur --severities 2 --workers 1'.split()
    main([str(source), out, *words])
    shown = capsys.readouterr().out
    assert f'{out}: 3 images in 4 domains; 12 made, 0 were there' in shown
    assert 'contact_sheet.png' in shown
    assert json.loads((tmp_path / 'set/corruptions.json').read_text())
