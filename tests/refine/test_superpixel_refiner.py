import multiprocessing
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmseg.registry import MODELS

from clouds_mmseg.refine import SuperpixelRefiner
from clouds_mmseg.refine.superpixel_refiner import vote
from clouds_mmseg.utils.errors import UserError

VOID = 11  # of CamVid
POLE, SIGN = 2, 6


@st.composite
def label_and_segments(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
    labels = st.sampled_from([0, 4, 18, 255])
    label = draw(hnp.arrays(np.int64, shape, elements=labels))
    segments = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 5)))
    return label, segments


@settings(max_examples=150, deadline=None)
@given(
    label_and_segments(),
    st.sampled_from([0, 0.5, 0.75, 0.9, 1]),
    st.sampled_from(['keep', 'ignore']),
)
def test_vote_is_what_it_says_segment_by_segment(pair, purity, impure):
    label, segments = pair
    refined = vote(label, segments, purity, impure=impure)
    assert refined.dtype == np.int64
    for number in np.unique(segments):
        inside = segments == number
        had, has = label[inside], refined[inside]
        counts = {c: (had == c).sum() for c in set(had.tolist()) - {255}}
        most = max(counts.values(), default=0)
        if most and most >= purity * inside.sum():
            assert len(set(has.tolist())) == 1
            assert counts[has[0]] == most
        elif impure == 'keep':
            np.testing.assert_array_equal(has, had)
        else:
            assert (has == 255).all()


@settings(max_examples=50, deadline=None)
@given(label_and_segments(), st.sampled_from([0.6, 0.9]))
def test_a_second_vote_changes_nothing(pair, purity):
    once = vote(*pair, purity)
    np.testing.assert_array_equal(vote(once, pair[1], purity), once)


def test_ignored_pixels_do_not_vote_but_count():
    label = np.array([[3, 3, 255, 255]])
    segments = np.zeros((1, 4), np.int64)
    assert (vote(label, segments, 0.5) == 3).all()
    np.testing.assert_array_equal(vote(label, segments, 0.6), label)
    nothing = np.full((1, 4), 255)
    np.testing.assert_array_equal(vote(nothing, segments, 0), nothing)
    np.testing.assert_array_equal(
        vote(label, segments, 0.5, ignore_index=3), np.full((1, 4), 255)
    )


@pytest.fixture(scope='module')
def camvid(camvid_dir):
    """Eight photographs (360, 480) and their labels."""
    pairs = []
    for path in sorted(camvid_dir.glob('images/*/*.png'))[2::5]:
        label = cv2.imread(
            str(path).replace('images', 'labels'), cv2.IMREAD_UNCHANGED
        )
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        pairs.append(
            (
                torch.from_numpy(image).permute(2, 0, 1),
                torch.from_numpy(label.astype(np.int64)),
            )
        )
    return pairs


def as_a_network_would(label, stride, noise):
    """The label at a network's output stride, noisy, and enlarged again."""
    scores = F.one_hot(label, VOID + 1)[..., :VOID]
    scores = scores.permute(2, 0, 1)[None].float()
    scores = F.avg_pool2d(scores, stride, ceil_mode=True)
    blobs = F.pad(torch.randn(scores.shape), (1, 1, 1, 1), mode='reflect')
    scores += noise * 3 * F.avg_pool2d(blobs, 3, 1)
    return F.interpolate(scores, label.shape, mode='bilinear').argmax(1)[0]


def class_ious(pairs):
    matrix = torch.zeros(VOID, VOID, dtype=torch.int64)
    for label, predicted in pairs:
        valid = label != VOID
        index = label[valid] * VOID + predicted[valid]
        matrix += torch.bincount(index, minlength=VOID**2).view(VOID, VOID)
    hits = matrix.diag()
    return 100 * hits / (matrix.sum(0) + matrix.sum(1) - hits)


@pytest.mark.parametrize(
    'stride, noise, gain', [(4, 0.2, 0.1), (8, 0.2, 0.3), (8, 0.35, 1.0)]
)
def test_labels_of_photographs_get_better_in_every_class(
    camvid, stride, noise, gain
):
    torch.manual_seed(0)
    refiner = SuperpixelRefiner()
    wrong = [as_a_network_would(la, stride, noise) for _, la in camvid]
    refined = [
        refiner(image, la)
        for (image, _), la in zip(camvid, wrong, strict=True)
    ]
    truth = [label for _, label in camvid]
    before = class_ious(zip(truth, wrong, strict=True))
    after = class_ious(zip(truth, refined, strict=True))
    assert after.mean() > before.mean() + gain
    assert (after - before).min() > -1
    assert after[SIGN] > before[SIGN] - 0.3
    assert after[POLE] > before[POLE] - 0.7


def test_a_config_builds_it(photographs):
    refiner = MODELS.build(dict(type='SuperpixelRefiner', purity=0.6))
    image, label = photographs[0]
    refined = refiner.to('cpu')(image, label)
    assert refined.shape == label.shape and refined.dtype == torch.int64
    assert (refined != label).any()
    assert not isinstance(refiner, torch.nn.Module)


@pytest.mark.parametrize('method', ['felzenszwalb', 'slic'])
def test_a_single_class_stays_whole(photographs, method):
    image, label = photographs[1]
    refiner = SuperpixelRefiner(method=method, num_segments=50)
    flat = torch.full_like(label, 7)
    assert torch.equal(refiner(image, flat), flat)
    segments = refiner.segment(image.permute(1, 2, 0).numpy())
    assert segments.min() == 0 and 20 < segments.max() < 2000


def test_impure_segments_can_be_ignored(photographs):
    image, label = photographs[0]
    kept = SuperpixelRefiner()(image, label)
    ignored = SuperpixelRefiner(impure='ignore')(image, label)
    void = ignored == 255
    assert 0 < void.float().mean() < 0.9
    assert torch.equal(ignored[~void], kept[~void])
    assert torch.equal(kept[void], label[void])


def test_segments_are_cut_once_for_an_image(photographs, tmp_path):
    plain = SuperpixelRefiner()
    refiner = SuperpixelRefiner(cache_dir=str(tmp_path))
    calls, function = [], refiner._function
    refiner._function = lambda *a, **k: calls.append(1) or function(*a, **k)
    for _ in range(2):
        for image, label in photographs:
            assert torch.equal(refiner(image, label), plain(image, label))
    assert len(calls) == 2
    stored = list(tmp_path.rglob('*.arr'))
    assert len(stored) == 2
    pixels = photographs[0][1].numel()
    assert all(p.stat().st_size < 2 * pixels + 300 for p in stored)
    # Other options use other entries.
    SuperpixelRefiner(cache_dir=str(tmp_path), scale=60)(*photographs[0])
    assert len(list(tmp_path.rglob('*.arr'))) == 3


def refine_all(folder, pairs, results):
    refiner = SuperpixelRefiner(cache_dir=folder)
    results.put([refiner(*p).numpy() for _ in range(3) for p in pairs])


def test_processes_share_the_segments(photographs, tmp_path):
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    workers = [
        context.Process(
            target=refine_all, args=(str(tmp_path), photographs, results)
        )
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    expected = [SuperpixelRefiner()(*p).numpy() for p in photographs]
    for labels in outcomes:
        for index, label in enumerate(labels):
            np.testing.assert_array_equal(label, expected[index % 2])


@pytest.mark.parametrize(
    'option, value, said',
    [
        ('method', 'watershed', 'felzenszwalb, slic'),
        ('impure', 'drop', 'keep, ignore'),
        ('purity', 90, 'in [0, 1]'),
        ('scale', -1, 'at least 0'),
        ('min_size', 0, 'a whole number of at least 1'),
        ('num_segments', 1e3, 'a whole number'),
    ],
)
def test_bad_options_are_named(option, value, said):
    with pytest.raises(UserError) as error:
        SuperpixelRefiner(**{option: value})
    assert f'SuperpixelRefiner: {option} must be' in str(error.value)
    assert said in str(error.value) and repr(value) in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage', None)
    with pytest.raises(UserError, match='pip install scikit-image'):
        SuperpixelRefiner()
