"""Prediction of files and folders into a folder of results."""

import shutil

import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.predict.predict_files import find_images, predict_files
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.command import main


@pytest.fixture(scope='module')
def segmenter(tiny_checkpoint):
    return Segmenter.from_pretrained(tiny_checkpoint, device='cpu')


@pytest.fixture
def folder(tiny_data, tmp_path):
    """Images in two sub-folders, one of them broken, and a text."""
    source = tiny_data / 'day_val' / 'images'
    for name in ('a', 'b'):
        shutil.copytree(source, tmp_path / 'images' / name)
    (tmp_path / 'images/b/broken.jpg').write_bytes(b'\xff\xd8no image')
    (tmp_path / 'images/notes.txt').write_text('none')
    return tmp_path / 'images'


def test_sub_folders_are_kept_and_broken_files_listed(
    segmenter, folder, tmp_path
):
    out = tmp_path / 'out'
    done = predict_files(segmenter, [folder], out, batch_size=4)
    assert done.written == 6 and done.existing == 0
    assert list(done.failed) == [str(folder / 'b/broken.jpg')]
    assert 'broken.jpg' in (out / 'failed.txt').read_text()
    names = sorted(p.relative_to(out) for p in out.rglob('*.png'))
    assert len(names) == 12
    for kind in ('labels', 'overlay'):
        for sub in ('a', 'b'):
            assert (out / kind / sub / '000.png').is_file()
    labels = np.asarray(Image.open(out / 'labels/a/001.png'))
    expected = segmenter(folder / 'a/001.png').labels
    assert np.array_equal(labels, expected)


def test_a_stopped_run_continues(segmenter, folder, tmp_path):
    out = tmp_path / 'out'
    (folder / 'b/broken.jpg').unlink()
    predict_files(segmenter, [folder], out)
    (out / 'labels/a/000.png').unlink()
    done = predict_files(segmenter, [folder], out)
    assert done.written == 1 and done.existing == 5
    # More is asked for now.
    done = predict_files(segmenter, [folder], out, kinds=['confidence'])
    assert done.written == 6


def test_processes_share_the_images(segmenter, folder, tmp_path, monkeypatch):
    written = []
    for rank in range(2):
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.setenv('WORLD_SIZE', '2')
        done = predict_files(segmenter, [folder], tmp_path / 'out')
        written.append(done.written)
    assert sum(written) == 6 and max(written) <= 4


def test_a_batch_script_of_slurm_is_alone(
    segmenter, folder, tmp_path, monkeypatch
):
    # Set outside of srun too, where no other process does the rest.
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('SLURM_NTASKS', '4')
    done = predict_files(segmenter, [folder], tmp_path / 'out')
    assert done.written == 6


def test_inputs(folder, tmp_path):
    found = find_images([folder / 'a/000.png', f'{folder}/a/*1.png'])
    assert [str(relative) for _, relative in found] == ['000', '001']
    with pytest.raises(UserError, match='would both be written to 000.png'):
        find_images([folder / 'a/000.png', folder / 'b/000.png'])
    with pytest.raises(UserError, match='no file, no folder, and matches no'):
        find_images([tmp_path / 'x*.jpg'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no image'):
        find_images([tmp_path / 'empty'])


def test_wrong_outputs(segmenter, folder, tmp_path):
    with pytest.raises(UserError, match="'masks' is no kind of result"):
        predict_files(segmenter, [folder], tmp_path / 'o', kinds=['masks'])
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file/o cannot be made'):
        predict_files(segmenter, [folder], tmp_path / 'file/o')


def test_command(tiny_checkpoint, folder, tmp_path, capsys):
    out = tmp_path / 'out'
    main(
        [
            'predict',
            str(tiny_checkpoint),
            str(folder),
            *('--out', str(out), '--save', 'color', '--device', 'cpu'),
        ]
    )
    said = capsys.readouterr().out
    assert f'6 images predicted: {out}' in said
    assert 'not read' in said and 'broken.jpg' in said
    assert (out / 'color/b/002.png').is_file()
