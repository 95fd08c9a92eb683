"""What the servers' own code and rules say about an archive."""

import dataclasses
import fnmatch
import zipfile

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from cityscapesscripts.helpers.labels import labels
from mmseg.registry import METRICS
from PIL import Image

from clouds_mmseg.datasets.driving import SETS
from clouds_mmseg.evaluation import submission
from clouds_mmseg.evaluation.submission import (
    SERVERS,
    check_names,
    check_submission,
)
from clouds_mmseg.utils.errors import UserError

NAMES = dict(
    cityscapes=[f'berlin_00000{n}_000019_leftImg8bit.png' for n in range(2)],
    acdc=[f'GOPR0475_frame_00004{n}_rgb_anon.png' for n in range(2)],
)


def shrink(monkeypatch, server, **changes):
    """Two images are the whole split; sizes stay unless asked for."""
    changes.setdefault('counts', dict(test=2, val=2))
    rules = dataclasses.replace(SERVERS[server], **changes)
    monkeypatch.setitem(submission.SERVERS, server, rules)
    return rules


def write_zip(path, rules, files):
    """Write label maps: name in the archive -> id or array or bytes."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            if not isinstance(content, bytes):
                width, height = rules.size
                mask = np.full((height, width), content, np.uint8)
                picture = path.with_suffix('.png')
                Image.fromarray(mask).save(picture)
                content = picture.read_bytes()
            archive.writestr(name, content)
    return path


def test_ids_are_those_of_cityscapesscripts():
    ours = SERVERS['cityscapes'].ids
    theirs = {x.trainId: x.id for x in labels if 0 <= x.trainId < 255}
    assert ours == theirs
    assert SERVERS['acdc'].ids == {i: i for i in range(19)}
    assert SERVERS['cityscapes'].size == (2048, 1024)
    assert SERVERS['acdc'].size == (1920, 1080)
    assert SERVERS['cityscapes'].counts['test'] == 1525
    assert SERVERS['acdc'].counts['test'] == 2000


def test_names_are_found_by_cityscapesscripts():
    """By the pattern of getPrediction in evalPixelLevelSemanticLabeling."""
    for name in NAMES['cityscapes']:
        truth = name.replace('leftImg8bit', 'gtFine_labelIds')
        info = getCsFileInfo(truth)
        pattern = f'{info.city}_{info.sequenceNb}_{info.frameNb}*.png'
        assert fnmatch.filter(NAMES['cityscapes'], pattern) == [name]
        key = SERVERS['cityscapes'].key(name)
        assert key == f'{info.city}_{info.sequenceNb}_{info.frameNb}'


@pytest.mark.parametrize(
    ('server', 'right'), [('cityscapes', 26), ('acdc', 13)]
)
def test_a_right_archive_at_the_real_size(
    server, right, tmp_path, monkeypatch
):
    rules = shrink(monkeypatch, server)
    files = {f'{rules.folder}/{name}': right for name in NAMES[server]}
    path = write_zip(tmp_path / 'a.zip', rules, files)
    assert check_submission(path, server) == []


@pytest.mark.parametrize('server', ['cityscapes', 'acdc'])
def test_wrong_archives(server, tmp_path, monkeypatch):
    rules = shrink(monkeypatch, server, size=(32, 16))
    right = 26 if server == 'cityscapes' else 13
    first, second = (f'{rules.folder}/{name}' for name in NAMES[server])

    def problems(files):
        path = write_zip(tmp_path / 'a.zip', rules, files)
        return '\n'.join(check_submission(path, server))

    assert problems({first: right, second: right}) == ''
    name = NAMES[server][1]
    found = problems({first: right, name: right})
    assert f'{name}: files must lie in {rules.folder}/' in found
    assert '1 images, but the test split' in found
    found = problems({first: right, f'{second}.txt': b'x'})
    assert f'names must be like {rules.example}' in found
    found = problems({first: right, second: b'x' * 50})
    assert f'{name}: cannot be decoded' in found
    # 255 marks what is not labelled; a prediction must name a class.
    found = problems({first: right, second: 255})
    assert f'{name}: ids 255, which no evaluated class has' in found
    found = problems({first: right, f'{rules.folder}/deep/{name}': right})
    assert 'files must lie in' in found
    small = dataclasses.replace(rules, size=(16, 16))
    path = write_zip(tmp_path / 'b.zip', small, {first: right, second: right})
    (found,) = check_submission(path, server)
    assert '16x16 pixels, but the images' in found and 'have 32x16' in found
    picture = tmp_path / 'colour.png'
    Image.new('RGB', (32, 16)).save(picture)
    found = problems({first: right, second: picture.read_bytes()})
    assert f'{name}: mode RGB' in found


def test_train_ids_in_place_of_label_ids(tmp_path, monkeypatch):
    rules = shrink(monkeypatch, 'cityscapes', size=(19, 1))
    train_ids = np.arange(19)[None]
    files = {f'results/{name}': train_ids for name in NAMES['cityscapes']}
    (found,) = check_submission(
        write_zip(tmp_path / 'a.zip', rules, files), 'cityscapes'
    )
    assert 'ids 0, 1, 2, 3, 4, ...' in found
    assert 'Cityscapes wants label ids' in found


def test_two_files_of_one_image():
    names = [*NAMES['cityscapes'], 'berlin_000000_000019_pred.png']
    rules = dataclasses.replace(SERVERS['cityscapes'], counts=dict(test=2))
    (found,) = check_names(names, rules)
    assert found == (
        'berlin_000000_000019_pred.png: another file is of the same image'
    )


def test_no_archive(tmp_path):
    with pytest.raises(UserError, match='no zip file'):
        check_submission(tmp_path / 'a.zip', 'acdc')
    (tmp_path / 'a.zip').write_bytes(b'no zip')
    (found,) = check_submission(tmp_path / 'a.zip', 'acdc')
    assert 'is no zip file, or damaged' in found
    with pytest.raises(UserError, match="unknown server 'kitti'"):
        check_submission(tmp_path / 'a.zip', 'kitti')
    with pytest.raises(UserError, match="no split 'train'"):
        check_submission(tmp_path / 'a.zip', 'acdc', split='train')


def predictions(names, size, domain):
    rng = torch.Generator().manual_seed(0)
    return [
        dict(
            pred_sem_seg=dict(
                data=torch.randint(0, 19, (1, *size[::-1]), generator=rng)
            ),
            domain=domain,
            img_path=f'/data/x/{name}',
        )
        for name in names
    ]


@pytest.mark.parametrize('server', ['cityscapes', 'acdc'])
def test_metric_writes_an_archive(server, tmp_path, monkeypatch):
    rules = shrink(monkeypatch, server, size=(32, 16))
    metric = METRICS.build(
        dict(type='SubmissionMetric', servers=dict(x=server), out_dir=tmp_path)
    )
    samples = predictions(NAMES[server], rules.size, 'x')
    for sample in samples:
        metric.process({}, [sample])
    # A sampler that fills the last batch gives an image twice.
    metric.process({}, samples[:1])
    assert metric.evaluate(3) == {}
    path = tmp_path / f'{server}_test.zip'
    assert check_submission(path, server) == []
    table = {x.trainId: x.id for x in labels if x.trainId < 255}
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [
            f'{rules.folder}/{name}' for name in NAMES[server]
        ]
        for sample, name in zip(samples, archive.namelist(), strict=True):
            with archive.open(name) as stream:
                mask = np.asarray(Image.open(stream))
            expected = sample['pred_sem_seg']['data'][0].numpy()
            if server == 'cityscapes':
                expected = np.vectorize(table.get)(expected)
            np.testing.assert_array_equal(mask, expected)
    before = path.read_bytes()
    for sample in samples:
        metric.process({}, [sample])
    metric.evaluate(2)
    assert path.read_bytes() == before


def test_an_archive_that_breaks_a_rule_does_not_appear(tmp_path, monkeypatch):
    rules = shrink(monkeypatch, 'acdc', size=(32, 16))
    metric = METRICS.build(
        dict(type='SubmissionMetric', servers=dict(x='acdc'), out_dir=tmp_path)
    )
    metric.process({}, predictions(NAMES['acdc'][:1], rules.size, 'x'))
    with pytest.raises(UserError, match='1 images, but the test split of A'):
        metric.evaluate(1)
    assert not list(tmp_path.glob('*.zip'))
    with pytest.raises(UserError, match=r'is 16x16, but ACDC wants 32x16'):
        metric.process({}, predictions(NAMES['acdc'], (16, 16), 'x'))


@pytest.mark.parametrize('number', [19, 254])
def test_classes_that_the_server_does_not_know(tmp_path, monkeypatch, number):
    """They would become id 0, which is the road for ACDC."""
    rules = shrink(monkeypatch, 'acdc', size=(32, 16))
    metric = METRICS.build(
        dict(type='SubmissionMetric', servers=dict(x='acdc'), out_dir=tmp_path)
    )
    samples = predictions(NAMES['acdc'][:1], rules.size, 'x')
    samples[0]['pred_sem_seg']['data'][0, 3, 4] = number
    with pytest.raises(UserError, match=rf'0..{number}, but ACDC evaluates'):
        metric.process({}, samples)


@pytest.mark.parametrize('server', SERVERS)
def test_the_rules_fit_the_data_sets(server):
    rules, facts = SERVERS[server], SETS[server].FACTS
    assert rules.size == facts.size
    for split, count in rules.counts.items():
        assert count == facts.images[split]
