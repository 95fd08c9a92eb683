"""A filter on image banks: what is left out, how it is kept and undone."""

import json
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
from filter_helpers import CLASSES, PALETTE, ByColour, scene, write_bank
from PIL import Image

from clouds_mmseg.datasets import FolderDataset, GeneratedDataset
from clouds_mmseg.datasets.transforms import DiffusionAugment
from clouds_mmseg.generate.image_bank import Shard
from clouds_mmseg.generate.pack import pack_images, unpack_images
from clouds_mmseg.image_filter import FilterRule, filter_bank, undo_filter
from clouds_mmseg.image_filter.measures import pixel_loss
from clouds_mmseg.utils import image_set
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.utils.image_set import BankError, read_entries, used_entries

META = dict(classes=list(CLASSES), palette=PALETTE.tolist())


def tree(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file() and path.suffix != '.lock'
    }


def run(bank, checkpoint, model=None, **options):
    rule = FilterRule(**options.pop('rule', {}))
    options = {'sheet': 0, **options}
    return filter_bank(
        bank, model or ByColour(), checkpoint=checkpoint, rule=rule, **options
    )


def pixels(path):
    return np.asarray(Image.open(path))


def test_spoilt_images_are_left_out_and_nothing_is_changed(spoilt, checkpoint):
    before = tree(spoilt.root)
    summary = run(spoilt.root, checkpoint, sheet=6)
    entries = read_entries(spoilt.root)
    why = {n: e['filter']['why'] for n, e in entries.items()}
    assert why == {
        0: [], 1: [], 2: ['loss'], 3: [], 4: [], 5: ['blank'],
        6: ['copy of 4'], 7: [],
    }  # fmt: skip
    assert summary.used == 5 and summary.labelled == 7
    assert summary.reasons == {'loss': 1, 'blank': 1, 'copy': 1}
    scores = {n: e['filter']['score'] for n, e in entries.items()}
    assert scores[5] == 0 < scores[2] < 0.5 < scores[0]
    after = tree(spoilt.root)
    changed = {k for k in before if after[k] != before[k]}
    assert changed == {'manifest.jsonl'}
    assert [e['index'] for e in used_entries(spoilt.root)] == [0, 1, 3, 4, 7]
    with Image.open(spoilt.root / 'filter/contact_sheet.png') as sheet:
        assert sheet.width > 6 * 192


def test_filtered_labels_follow_the_rule(spoilt, checkpoint):
    k = 1.1
    summary = run(spoilt.root, checkpoint, rule=dict(k=k))
    losses = {}
    for number in (0, 1, 2, 3, 4, 6, 7):
        found = ByColour()(spoilt.images[number], scores=True, confidence=True)
        losses[number] = pixel_loss(found.scores, spoilt.labels[number])
    means = [
        np.concatenate(
            [losses[n][spoilt.labels[n] == c] for n in losses]
        ).astype(np.float64).mean()
        for c in range(3)
    ]  # fmt: skip
    assert list(summary.class_losses.values()) == pytest.approx(
        means, abs=1e-4
    )
    kept = total = 0
    for number, entry in read_entries(spoilt.root).items():
        if number == 5:
            assert 'label' not in entry['filter']
            continue
        label = spoilt.labels[number]
        expected = label.copy()
        for index in range(3):
            gone = (label == index) & (losses[number] > k * means[index])
            expected[gone] = 255
        found = pixels(spoilt.root / entry['filter']['label'])
        assert np.array_equal(found, expected)
        known = (label != 255).sum()
        share = (expected != 255).sum() / known
        assert entry['filter']['kept'] == pytest.approx(share, abs=1e-4)
        if entry['filter']['used']:
            kept, total = kept + (expected != 255).sum(), total + known
    assert summary.kept_pixels == pytest.approx(kept / total)


def test_other_limits_need_no_model_and_undo_restores_all(spoilt, checkpoint):
    before = tree(spoilt.root)
    run(spoilt.root, checkpoint)
    first = tree(spoilt.root)
    again = ByColour()
    run(spoilt.root, checkpoint, again)
    assert tree(spoilt.root) == first and again.calls == 0
    summary = run(
        spoilt.root, checkpoint, again,
        rule=dict(k=50, min_kept=0, duplicates=0),
    )  # fmt: skip
    # A copy that is a little brighter has the same hash.
    assert summary.used == 6 and again.calls == 0
    assert len(list((spoilt.root / 'filter').glob('labels-*'))) == 1
    run(spoilt.root, checkpoint, again)
    assert tree(spoilt.root) == first
    assert undo_filter(spoilt.root) == 3
    assert tree(spoilt.root) == before
    assert undo_filter(spoilt.root) == 0


def test_images_without_label_by_confidence(tmp_path, checkpoint):
    images = [scene(seed)[0] for seed in range(4)]
    # Grey but not blank: no class is better than the others.
    images[2] = np.repeat(images[2][..., :1], 3, axis=2)
    root = write_bank(tmp_path / 'bank', images)
    summary = run(root, checkpoint)
    why = [e['filter']['why'] for e in read_entries(root).values()]
    assert why == [[], [], ['confidence'], []]
    assert summary.labelled == 0 and summary.kept_pixels is None
    assert run(root, checkpoint, rule=dict(min_confidence=0.1)).used == 4


def restyled(tmp_path):
    """A dataset, and a bank of two variants of each of its images."""
    images, labels = tmp_path / 'set/images/a', tmp_path / 'set/labels/a'
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    variants, names = [], []
    for number in range(3):
        image, label = scene(number)
        Image.fromarray(image).save(images / f'{number}.png')
        Image.fromarray(label).save(labels / f'{number}.png')
        for shade in (0, 5):
            variants.append(image + np.uint8(shade))
            names.append(f'a/{number}.png')
    # The model cannot read the last one's label in it.
    variants[-1] = scene(7)[0]
    root = write_bank(tmp_path / 'variants', variants, source=names)
    bank = json.loads((root / 'bank.json').read_text())
    bank['info']['source_root'] = str(tmp_path / 'set/images')
    (root / 'bank.json').write_text(json.dumps(bank))
    dataset = dict(
        domain='toy', data_root=str(tmp_path / 'set'), metainfo=META
    )
    return root, dataset


def test_restyled_images_have_the_labels_of_their_sources(
    tmp_path, checkpoint
):
    root, dataset = restyled(tmp_path)
    lazy = FolderDataset(lazy_init=True, **dataset)
    rule = dict(k=0.75, min_kept=0.3)
    summary = run(root, checkpoint, datasets=[lazy], rule=rule)
    entries = read_entries(root)
    # Variants of one source are no copies of each other.
    why = [e['filter']['why'] for e in entries.values()]
    assert why == [[], [], [], [], [], ['loss']]
    assert summary.labelled == 6
    with pytest.raises(UserError, match='images with a label: 6, now 0'):
        run(root, checkpoint)
    undo_filter(root)
    by_folder = run(
        root, checkpoint, labels=tmp_path / 'set/labels', rule=rule
    )
    assert by_folder == summary
    entries = read_entries(root)
    step = DiffusionAugment(str(root), prob=1.0)
    index = {v: n for n, v in enumerate(x['file'] for x in entries.values())}
    for info in FolderDataset(pipeline=[], **dataset):
        _, label = scene(int(info['sample_name'][-1]))
        for _ in range(4):
            results = dict(
                info, img=np.zeros((32, 48, 3), np.uint8),
                gt_seg_map=label.copy(),
            )  # fmt: skip
            results = step(results)
            file = os.path.relpath(results['variant_path'], root)
            found = entries[index[file]]['filter']
            assert found['used']
            expected = pixels(root / found['label'])
            assert np.array_equal(results['gt_seg_map'], expected)
            assert (expected == 255).any()
    whole = DiffusionAugment(str(root), prob=1.0, use_filter=False)
    assert sum(map(len, whole.variants.values())) == 6
    assert sum(map(len, step.variants.values())) == 5
    labels = tmp_path / 'set/labels'
    run(root, checkpoint, labels=labels, rule=dict(min_kept=1, k=0.01))
    with pytest.raises(DataError, match='leaves out all images'):
        DiffusionAugment(str(root))


def test_restyled_images_without_labels_are_told(
    tmp_path, checkpoint, monkeypatch
):
    said = []
    # The package has a function of the module's name.
    module = sys.modules['clouds_mmseg.image_filter.filter_bank']
    monkeypatch.setattr(
        module, 'print_log', lambda text, **_: said.append(text)
    )
    root, dataset = restyled(tmp_path)
    lazy = FolderDataset(lazy_init=True, **dataset)
    run(root, checkpoint, datasets=[lazy])
    assert not said
    undo_filter(root)
    (tmp_path / 'set').rename(tmp_path / 'moved')
    dataset['data_root'] = str(tmp_path / 'moved')
    run(root, checkpoint, datasets=[FolderDataset(lazy_init=True, **dataset)])
    (text,) = said
    assert f'none of the 6 restyled images of {root} has a label' in text
    assert f'no image below {tmp_path}/set/images' in text


def test_dataset_of_a_filtered_bank(spoilt, checkpoint):
    options = dict(
        bank=str(spoilt.root), metainfo=META, evaluation_labels=True,
        pipeline=[dict(type='LoadSegImage'), dict(type='LoadSegLabels')],
    )  # fmt: skip
    run(spoilt.root, checkpoint, rule=dict(k=1.1))
    entries = read_entries(spoilt.root)
    trained = GeneratedDataset(**options)
    names = [trained.get_data_info(i)['sample_name'] for i in range(5)]
    assert names == [f'images/{n:06d}' for n in (0, 1, 3, 4, 7)]
    expected = pixels(spoilt.root / entries[1]['filter']['label'])
    assert np.array_equal(trained[1]['gt_seg_map'], expected)
    # In test mode a filter must not make results better.
    tested = GeneratedDataset(test_mode=True, **options)
    assert len(tested) == 8
    assert np.array_equal(tested[1]['gt_seg_map'], spoilt.labels[1])
    assert len(GeneratedDataset(use_filter=False, **options)) == 8
    other = dict(classes=['a', 'b', 'c'], palette=PALETTE.tolist())
    with pytest.raises(DataError, match='classes ground, sky, box'):
        GeneratedDataset(**{**options, 'metainfo': other})
    # Only the labels have classes.
    GeneratedDataset(
        **{**options, 'metainfo': other, 'evaluation_labels': False}
    )
    run(spoilt.root, checkpoint, rule=dict(min_kept=1, k=0.01))
    with pytest.raises(DataError, match='leaves out all 8 images.*--undo'):
        GeneratedDataset(**options)


def test_images_made_after_the_filter_are_told(
    spoilt, checkpoint, monkeypatch
):
    run(spoilt.root, checkpoint)
    lines = (spoilt.root / 'manifest.jsonl').read_text().splitlines()
    last = json.loads(lines[-1])
    del last['filter']
    lines[-1] = json.dumps(last)
    (spoilt.root / 'manifest.jsonl').write_text('\n'.join(lines) + '\n')
    logged = []
    monkeypatch.setattr(
        image_set, 'print_log', lambda text, **_: logged.append(text)
    )
    # The last image is used.
    assert len(used_entries(spoilt.root)) == 5
    said = ' '.join(logged)
    assert '1 images' in said and 'run clouds filter again' in said


def test_an_image_that_is_made_again_is_measured_again(spoilt, checkpoint):
    run(spoilt.root, checkpoint, shard=Shard(1, 2))
    run(spoilt.root, checkpoint, shard=Shard(0, 2))
    manifest = spoilt.root / 'manifest.jsonl'
    lines = [json.loads(x) for x in manifest.read_text().splitlines()]
    lines[3]['sha256'] = 'f' * 64
    manifest.write_text(''.join(json.dumps(x) + '\n' for x in lines))
    for calls in (1, 0):
        model = ByColour()
        assert run(spoilt.root, checkpoint, model).complete
        assert model.calls == calls


def _filter(root, checkpoint):
    # Slow enough to be killed within an image.
    class Slow(ByColour):
        def __call__(self, *args, **kwargs):
            time.sleep(0.005)
            return super().__call__(*args, **kwargs)

    run(root, checkpoint, Slow(), workers=1)


def test_killed_at_any_moment_it_ends_with_the_same_files(
    tmp_path, checkpoint
):
    pairs = [scene(seed) for seed in range(24)]
    options = dict(labels=[label for _, label in pairs])
    images = [image for image, _ in pairs]
    whole = write_bank(tmp_path / 'whole', images, **options)
    run(whole, checkpoint)
    root = write_bank(tmp_path / 'killed', images, **options)
    context = multiprocessing.get_context('fork')
    file, lost = root / 'filter/measures/rank-00000.jsonl', 0
    for kill in range(6):
        child = context.Process(target=_filter, args=(root, checkpoint))
        child.start()
        begun = _lines(file)
        while child.is_alive() and _lines(file) < begun + 2:
            time.sleep(0.001)
        time.sleep(kill % 4 / 400)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        lost += 'filter' not in read_entries(root)[0]
        assert _lines(file) >= begun
    assert lost >= 3
    model = ByColour()
    run(root, checkpoint, model)
    assert model.calls < 24
    assert tree(root) == tree(whole)


def _lines(path):
    return path.read_bytes().count(b'\n') if path.is_file() else 0


def test_shards_give_the_files_of_one_process(tmp_path, spoilt, checkpoint):
    pairs = [scene(seed) for seed in range(5)]
    options = dict(labels=[label for _, label in pairs])
    images = [image for image, _ in pairs]
    one = write_bank(tmp_path / 'one', images, **options)
    run(one, checkpoint)
    two = write_bank(tmp_path / 'two', images, **options)
    assert not run(two, checkpoint, shard=Shard(1, 2)).complete
    assert 'filter' not in read_entries(two)[0]
    assert run(two, checkpoint, shard=Shard(0, 2)).complete
    found, expected = tree(two), tree(one)
    for files in (found, expected):
        for name in [n for n in files if '/measures/' in n]:
            del files[name]
    assert found == expected


def test_bad_input(tmp_path, spoilt, checkpoint):
    with pytest.raises(BankError, match='does not exist.*clouds generate'):
        run(tmp_path / 'none', checkpoint)
    with pytest.raises(BankError, match='holds no bank.json'):
        undo_filter(tmp_path)
    unfinished = write_bank(tmp_path / 'part', [scene(0)[0]] * 2)
    manifest = unfinished / 'manifest.jsonl'
    manifest.write_text(manifest.read_text().splitlines()[0] + '\n')
    with pytest.raises(UserError, match='lacks 1 of 2 images'):
        run(unfinished, checkpoint)
    fewer = ByColour(('ground', 'sky'))
    with pytest.raises(UserError, match=r'ids \[2\].*classes 0 to 1'):
        run(spoilt.root, checkpoint, fewer)
    undo_filter(spoilt.root)
    run(spoilt.root, checkpoint)
    checkpoint.write_bytes(b'other weights')
    with pytest.raises(UserError, match='content of the checkpoint: '):
        run(spoilt.root, checkpoint)
    with pytest.raises(UserError, match='backend toy do not describe'):
        run(spoilt.root, checkpoint, clip=('ViT-B-32', 'openai'))
    toycity = write_bank(
        tmp_path / 'toycity', spoilt.images, labels=spoilt.labels,
        backend='toycity',
    )  # fmt: skip
    with pytest.raises(UserError, match='19 classes of Cityscapes'):
        run(toycity, checkpoint)
    root, dataset = restyled(tmp_path)
    names = dict(classes=['a', 'b', 'c'], palette=PALETTE.tolist())
    other = FolderDataset(lazy_init=True, **{**dataset, 'metainfo': names})
    with pytest.raises(UserError, match='toy have the classes a, b, c'):
        run(root, checkpoint, datasets=[other])
    Image.new('L', (9, 9)).save(tmp_path / 'set/labels/a/0.png')
    with pytest.raises(UserError, match='is 9x9, the image 48x32'):
        run(root, checkpoint, labels=tmp_path / 'set/labels')
    undo_filter(root)
    with pytest.raises(UserError, match='cannot be read'):
        run(root, checkpoint, labels=tmp_path / 'nowhere')


def test_a_packed_set_keeps_what_the_filter_decided(
    spoilt, checkpoint, tmp_path
):
    run(spoilt.root, checkpoint)
    packed, plain = tmp_path / 'packed', tmp_path / 'plain'
    pack_images(spoilt.root, packed)
    steps = [dict(type='LoadSegImage'), dict(type='LoadSegLabels')]
    one, other = (
        GeneratedDataset(
            bank=str(bank),
            metainfo=META,
            evaluation_labels=True,
            use_filter=True,
            pipeline=steps,
        )  # fmt: skip
        for bank in (spoilt.root, packed)
    )
    assert len(one) == len(other) == 5
    for index in range(5):
        assert (one[index]['img'] == other[index]['img']).all()
        label = one[index]['gt_seg_map']
        assert (label == other[index]['gt_seg_map']).all()
    with pytest.raises(UserError, match='packed is a packed image set'):
        run(packed, checkpoint)
    with pytest.raises(UserError, match='packed is a packed image set'):
        undo_filter(packed)
    unpack_images(packed, plain)
    before = tree(spoilt.root)
    assert tree(plain) == {
        name: content
        for name, content in before.items()
        if not name.startswith(
            ('filter/measures/', 'filter/losses/', 'filter/given_labels/')
        )
    }
    # It is measured anew there, with the same result.
    run(plain, checkpoint)
    assert tree(plain) == before
