"""Exchange with Label Studio."""

import copy
import json

import numpy as np
import pytest
from tiny_run import CLASSES

from clouds_mmseg.bridges.brush_rle import decode_mask, encode_mask
from clouds_mmseg.bridges.label_studio import read_label_studio
from clouds_mmseg.bridges.review import read_review
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.command import main

# mask2rle of label_studio_sdk 2.1.2 for the mask below.
RECORDED = [
    *(0, 0, 0, 140, 57, 27, 254, 35, 0, 191),
    *(255, 108, 2, 255, 254, 55, 0, 143, 252),
]


def recorded_mask():
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    mask[4, 6] = True
    return mask


@pytest.fixture
def folder(export):
    return export('labelstudio', '--worst', 2)


@pytest.fixture
def tasks(folder):
    """What comes back where every prediction was accepted."""
    tasks = json.loads((folder / 'tasks.json').read_text())
    for number, task in enumerate(tasks):
        task['id'] = number + 1
        result = task.pop('predictions')[0]['result']
        task['annotations'] = [dict(result=result, was_cancelled=False)]
    return tasks


def read(tasks, folder):
    path = folder / 'back.json'
    path.write_text(json.dumps(tasks))
    return {
        image.name: label
        for image, label in read_label_studio(path, read_review(folder))
    }


def test_the_code_is_that_of_label_studio():
    assert encode_mask(recorded_mask()) == RECORDED
    assert np.array_equal(decode_mask(RECORDED, 5, 7), recorded_mask())


def test_masks_survive():
    generator = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 5), (64, 33), (300, 301)):
        for share in (0.0, 0.02, 0.5, 1.0):
            mask = generator.random((height, width)) < share
            found = decode_mask(encode_mask(mask), height, width)
            assert np.array_equal(found, mask)


def test_lists_of_single_values_are_read():
    """Its web page writes them; two pixels, the second is painted."""
    values = [9, 9, 9, 0, 1, 2, 3, 200]
    bits = f'{8:032b}{7:05b}' + ''.join(f'{s - 1:04b}' for s in (3, 4, 8, 16))
    bits += '000' + f'{7:03b}' + ''.join(f'{v:08b}' for v in values)
    bits += '0' * (-len(bits) % 8)
    code = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_mask(code, 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ('code', 'message'),
    [
        (RECORDED[:12], 'ends too early'),
        (RECORDED[:2], 'ends too early'),
        ([255, *RECORDED[1:]], 'an image of 7x5 has 140'),
        ([*RECORDED[:4], 255, *RECORDED[5:]], 'values of 32 bits'),
        # A run of 65,536 values.
        ([*RECORDED[:7], 255, 255, 255, 255], 'more values than the image'),
        ('abc', 'no list of bytes'),
        ([300], 'no list of bytes'),
        (None, 'no list of bytes'),
    ],
)
def test_damaged_codes(code, message):
    with pytest.raises(UserError, match=message):
        decode_mask(code, 5, 7)


def test_accepted_predictions_come_back(
    folder, tasks, reviewer, images, tmp_path
):
    path = tmp_path / 'back.json'
    path.write_text(json.dumps(tasks))
    words = ('review', 'import', folder, path, '--out', tmp_path / 'new')
    main([str(word) for word in words])
    assert len(list((tmp_path / 'new/labels').glob('*.png'))) == 2
    for name, label in read(tasks, folder).items():
        assert np.array_equal(label, reviewer(images / name).labels)
    config = (folder / 'labels.xml').read_text()
    assert '<Label value="ground" background="#785a3c"/>' in config
    scores = [
        task['predictions'][0]['score']
        for task in json.loads((folder / 'tasks.json').read_text())
    ]
    assert scores == [i.expected_iou for i in read_review(folder).images]


def test_regions_cover_those_before_them(folder, tasks, caplog):
    result = tasks[0]['annotations'][0]['result']
    # Erased, and a box painted over what is left.
    mask = np.zeros((32, 32), bool)
    mask[4:8] = True
    first, box = result[0], copy.deepcopy(result[0])
    box['value'].update(rle=encode_mask(mask), brushlabels=['box'])
    tasks[0]['annotations'][0]['result'] = [first, box]
    label = read(tasks, folder)[tasks[0]['data']['clouds_image']]
    before = decode_mask(first['value']['rle'], 32, 32)
    index = CLASSES.index(first['value']['brushlabels'][0])
    expected = np.where(before, index, 255)
    expected[mask] = 2
    assert np.array_equal(label, expected)


def test_tasks_without_annotation_are_left_out(folder, tasks):
    tasks[0]['annotations'][0]['was_cancelled'] = True
    assert list(read(tasks, folder)) == [tasks[1]['data']['clouds_image']]


def test_what_cannot_be_used_is_told(folder, tasks):
    def changed(**changes):
        new = copy.deepcopy(tasks)
        region = new[0]['annotations'][0]['result'][0]
        region['value'].update(changes.pop('value', {}))
        region.update(changes)
        return new

    twice = copy.deepcopy(tasks)
    twice[0]['annotations'] *= 2
    other = copy.deepcopy(tasks)
    other[0]['data']['clouds_image'] = '../x.png'
    for content, message in (
        ({}, 'is no list of tasks'),
        ([1], 'is no list of tasks'),
        (twice, 'task 1 .* has 2 annotations'),
        (other, r"'\.\./x\.png' was not exported"),
        ([tasks[0], tasks[0]], 'occurs twice'),
        (changed(type='polygonlabels'), "the type 'polygonlabels'"),
        (changed(value=dict(brushlabels=['moon'])), "'moon', which is no"),
        (changed(value=dict(brushlabels=[])), 'a region has one'),
        (changed(original_width=64), 'an image of 64x32'),
        (changed(image_rotation=90), 'rotated by 90'),
        (changed(value=dict(rle=[1, 2])), 'task 1 .* ends too early'),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read(content, folder)
        assert 'back.json' in str(caught.value)
