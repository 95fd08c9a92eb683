"""Choice of the worst images, and export for FiftyOne."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clouds_mmseg import Segmenter
from clouds_mmseg.bridges.fiftyone import load_fiftyone, write_fiftyone
from clouds_mmseg.bridges.review import (
    distinct_colors,
    export_review,
    import_review,
    read_review,
)
from clouds_mmseg.models.segmentors.pseudo_labels import expected_iou
from clouds_mmseg.predict.inputs import find_images
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of


def pixels(path):
    return np.array(Image.open(path))


def test_the_worst_are_those_of_the_lowest_expected_iou(
    export, reviewer, images, review_checkpoint, capsys
):
    folder = export('fiftyone', '--worst', 2)
    review = read_review(folder)
    values = {}
    for path in images.glob('*.png'):
        found = reviewer(path, scores=True)
        label = torch.from_numpy(found.labels).long()
        iou = expected_iou(torch.from_numpy(found.scores), label)
        values[path.name] = float(iou[label.unique()].mean())
    expected = sorted(values, key=values.get)[:2]
    assert [image.name for image in review.images] == expected
    for image in review.images:
        assert image.expected_iou == pytest.approx(values[image.name])
        copy = folder / 'images' / image.name
        assert sha256_of(copy) == image.sha256
    assert review.checkpoint['sha256'] == sha256_of(review_checkpoint)
    said = capsys.readouterr().out
    assert '2 images' in said and expected[0] in said


@pytest.mark.parametrize('rank', ['confidence', 'agreement'])
def test_other_orders(export, reviewer, images, rank):
    review = read_review(export('cvat', '--by', rank))
    values = [getattr(image, rank) for image in review.images]
    assert len(values) == 6 and values == sorted(values)
    found = reviewer(images / review.images[0].name, confidence=True)
    expected = found.confidence.mean()
    if rank == 'agreement':
        mirrored = reviewer(np.ascontiguousarray(found.image[:, ::-1]))
        expected = (mirrored.labels[:, ::-1] == found.labels).mean()
    assert values[0] == pytest.approx(float(expected))


def test_masks_and_errors_for_fiftyone(export, reviewer, images, labels):
    folder = export('fiftyone', '--labels', labels)
    review = read_review(folder)
    assert len(review.images) == 6
    for image in review.images:
        predicted = reviewer(images / image.name).labels
        truth = pixels(labels / image.name)
        known = truth != 255
        # 0 is shown as background.
        mask = pixels(folder / 'predictions' / image.name)
        assert np.array_equal(mask, predicted + 1)
        mask = pixels(folder / 'ground_truth' / image.name)
        assert np.array_equal(mask, np.where(known, truth + 1, 0))
        wrong = (truth != predicted) & known
        mask = pixels(folder / 'errors' / image.name)
        assert np.array_equal(mask, wrong)
        assert image.wrong == pytest.approx(wrong[known].mean())


def test_the_teacher_labels_instead(
    export, review_checkpoint, images, reviewer, tmp_path
):
    folder = export('fiftyone', '--teacher', '--worst', 1)
    review = read_review(folder)
    assert review.checkpoint['teacher'] is True
    name = review.images[0].name
    content = torch.load(review_checkpoint)
    weights = content['state_dict']
    prefix = 'teacher.module.'
    for key in [k for k in weights if k.startswith(prefix)]:
        weights[key.removeprefix(prefix)] = weights.pop(key)
    torch.save(content, tmp_path / 'as_student.pth')
    expected = Segmenter.from_pretrained(tmp_path / 'as_student.pth')
    expected = expected(images / name).labels
    assert np.array_equal(pixels(folder / 'predictions' / name), expected + 1)
    assert not np.array_equal(expected, reviewer(images / name).labels)

    weights['teacher.module.decode_head.w'] = torch.ones(1)
    weights['teacher.steps'] = torch.tensor(0)
    torch.save(content, tmp_path / 'early.pth')
    with pytest.raises(UserError, match='self-training has not begun'):
        Segmenter.from_pretrained(tmp_path / 'early.pth', teacher=True)
    del weights['teacher.module.decode_head.w']
    torch.save(content, tmp_path / 'none.pth')
    with pytest.raises(UserError, match='has no teacher'):
        Segmenter.from_pretrained(tmp_path / 'none.pth', teacher=True)


def test_wrong_arguments(reviewer, images, labels, tmp_path):
    def run(out='out', **changes):
        return export_review(
            reviewer,
            find_images(changes.pop('inputs', [images])),
            tmp_path / out,
            write_fiftyone,
            **dict(
                dict(tool='fiftyone', checkpoint=images / '000.png'), **changes
            ),
        )

    (tmp_path / 'there').mkdir()
    odd = tmp_path / 'odd'
    shutil.copytree(labels, odd)
    Image.fromarray(np.full((32, 32), 7, np.uint8)).save(odd / '000.png')
    small = tmp_path / 'small'
    shutil.copytree(labels, small)
    Image.fromarray(np.zeros((9, 32), np.uint8)).save(small / '000.png')
    for changes, message in (
        (dict(rank='best'), "'best' is none of"),
        (dict(worst=0), 'must be positive'),
        (dict(out='there'), 'exists'),
        (dict(labels=tmp_path), r'000\.png cannot be read'),
        (dict(labels=odd), r'000\.png has the ids \[7\]'),
        (dict(labels=small), r'000\.png is 32x9, its image 32x32'),
    ):
        with pytest.raises(UserError, match=message):
            run(**changes)
    # One that cannot be read does not stop the others.
    some = tmp_path / 'some'
    shutil.copytree(images, some)
    (some / '001.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    review, failed = run(inputs=[some])
    assert len(review.images) == 5
    assert list(failed) == [str(some / '001.png')]
    with pytest.raises(UserError, match='no image could be read'):
        run('no', inputs=[some / '001.png'])
    assert not (tmp_path / 'no').exists()


def test_what_was_not_exported_is_not_imported(export, tmp_path):
    with pytest.raises(UserError, match=r'holds no review\.json'):
        read_review(tmp_path)
    folder = export('cvat', '--worst', 1)
    (image,) = read_review(folder).images
    label = np.zeros((32, 32), np.uint8)
    with pytest.raises(UserError, match='no label of an image'):
        import_review(folder, tmp_path / 'new', iter([]))
    (folder / 'images' / image.name).write_bytes(b'other')
    with pytest.raises(UserError, match='not the image that was exported'):
        import_review(folder, tmp_path / 'new', iter([(image, label)]))
    assert not (tmp_path / 'new').exists()


def test_colours_are_told_apart():
    palette = [[1, 2, 3], [0, 0, 0], [1, 2, 3], [255, 255, 255]]
    colors = distinct_colors(palette)
    assert colors[0] == [1, 2, 3] and colors[3] == [255, 255, 255]
    assert len({tuple(c) for c in [*colors, (0, 0, 0)]}) == 5


def test_fiftyone_is_optional(export, tmp_path, monkeypatch):
    if importlib.util.find_spec('fiftyone') is None:
        with pytest.raises(UserError, match='pip install fiftyone'):
            load_fiftyone(tmp_path, 'x')
    monkeypatch.setitem(__import__('sys').modules, 'fiftyone', object())
    with pytest.raises(UserError, match='exported for cvat, not for'):
        load_fiftyone(export('cvat', '--worst', 1), 'x')
