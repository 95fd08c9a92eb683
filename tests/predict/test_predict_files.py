"""Prediction of files and folders into a folder of results."""

import json
import shutil

import numpy as np
import pytest
from interrupted_work import share_with_interruptions, tree
from PIL import Image

from clouds_mmseg.predict.formats import decode_rle, read_label_ids
from clouds_mmseg.predict.inputs import find_inputs
from clouds_mmseg.predict.predict_files import predict_files
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


def test_interrupted_processes_predict_as_one_does(
    segmenter, folder, tmp_path
):
    one, many = tmp_path / 'one', tmp_path / 'many'
    options = dict(kinds=['labels', 'confidence'])
    predict_files(segmenter, [folder], one, **options)

    def run(model=1, **more):
        return predict_files(
            segmenter, [folder], many, shared=dict(model=model), lease=1,
            **options | more,
        )  # fmt: skip

    done = share_with_interruptions(run, many)
    assert done.share.finished and done.share.taken_over
    assert tree(many) == tree(one)
    assert 'broken.jpg' in (many / 'failed.txt').read_text()
    (many / 'labels/a/000.png').unlink()
    assert run().written == 1
    assert tree(many) == tree(one)
    # Of images none of which can be read, one is repaired.
    broken = [folder / 'b/broken.jpg']
    inputs = dict(shared={}, lease=1, **options)
    with pytest.raises(UserError, match='broken.jpg'):
        predict_files(segmenter, broken, tmp_path / 'other', **inputs)
    shutil.copy(folder / 'a/000.png', broken[0])
    done = predict_files(segmenter, broken, tmp_path / 'other', **inputs)
    assert done.written == 1 and done.share.finished
    with pytest.raises(UserError, match='camera:0.*cannot be shared'):
        predict_files(segmenter, ['camera:0'], many, shared={})


def test_a_batch_script_of_slurm_is_alone(
    segmenter, folder, tmp_path, monkeypatch
):
    # Set outside of srun too, where no other process does the rest.
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('SLURM_NTASKS', '4')
    done = predict_files(segmenter, [folder], tmp_path / 'out')
    assert done.written == 6


def test_inputs(folder, tmp_path):
    found = find_inputs([folder / 'a/000.png', f'{folder}/a/*1.png'])
    assert [str(one.relative) for one in found] == ['000', '001']
    with pytest.raises(UserError, match='would both be written to 000.png'):
        find_inputs([folder / 'a/000.png', folder / 'b/000.png'])
    with pytest.raises(UserError, match='no file, no folder, and matches no'):
        find_inputs([tmp_path / 'x*.jpg'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='empty holds no image and no video'):
        find_inputs([tmp_path / 'empty'])
    with pytest.raises(UserError, match='camera:0 for the first'):
        find_inputs(['camera:'])
    for address in ('file:///etc/hosts', 'ftp://a/b.png', 'https://'):
        with pytest.raises(UserError, match='begin with http:// or https:/'):
            find_inputs([address])
    # A server decides about no folder here.
    named = ['http://a/..%2F..%2Fx.png?b=/c', 'http://a/%2E%2E', 'http://a']
    assert [str(find_inputs([x])[0].relative) for x in named] == [
        *('x', 'download', 'download')
    ]


def test_frames_of_a_video_have_a_folder_of_their_own(tmp_path):
    (tmp_path / 'drive').mkdir()
    for name in ('drive.mp4', 'drive.png', 'drive/000000.png'):
        (tmp_path / name).write_bytes(b'x')
    found = find_inputs([tmp_path / 'drive.mp4', tmp_path / 'drive.png'])
    assert [one.kind for one in found] == ['video', 'image']
    with pytest.raises(UserError, match='would be written to the folder driv'):
        find_inputs([tmp_path])
    (tmp_path / 'drive.avi').write_bytes(b'x')
    with pytest.raises(UserError, match='both be written to drive; predict'):
        find_inputs([tmp_path / 'drive.mp4', tmp_path / 'drive.avi'])


def test_results_inside_of_the_folder_are_no_inputs(segmenter, folder):
    (folder / 'b/broken.jpg').unlink()
    out = folder / 'predictions'
    assert predict_files(segmenter, [folder], out).written == 6
    done = predict_files(segmenter, [folder], out)
    assert done.written == 0 and done.existing == 6


def test_a_list_of_failures_is_that_of_the_last_run(
    segmenter, folder, tmp_path
):
    predict_files(segmenter, [folder], tmp_path / 'out')
    assert (tmp_path / 'out/failed.txt').is_file()
    (folder / 'b/broken.jpg').unlink()
    predict_files(segmenter, [folder], tmp_path / 'out')
    assert not (tmp_path / 'out/failed.txt').exists()
    # Neither image nor video, and nothing else.
    with pytest.raises(UserError, match='notes.txt cannot be decoded'):
        predict_files(segmenter, [folder / 'notes.txt'], tmp_path / 'out')


def test_own_ids_and_masks(segmenter, folder, tmp_path):
    ids = tmp_path / 'ids.yaml'
    ids.write_text('ground: 7\nsky: 300\nbox: 7\n')
    table = read_label_ids(ids, segmenter.classes)
    image = folder / 'a/000.png'
    predict_files(
        segmenter,
        [image],
        tmp_path / 'out',
        kinds=['labels', 'rle'],
        label_ids=table,
    )
    labels = segmenter(image).labels
    written = np.asarray(Image.open(tmp_path / 'out/labels/000.png'))
    assert np.array_equal(written, np.array([7, 300, 7])[labels])
    content = json.loads((tmp_path / 'out/rle/000.json').read_text())
    again = np.zeros(labels.shape, int)
    for one in content['annotations']:
        mask = decode_rle(one['segmentation'])
        assert one['area'] == mask.sum()
        again += one['category_id'] * mask
    assert np.array_equal(again, written)
    assert content['images'][0]['file_name'] == '000.png'
    names = {x['id']: x['name'] for x in content['categories']}
    assert names == {7: 'ground / box', 300: 'sky'}


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
