"""Large images: windows, strips, and the labels of the whole."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F

from clouds_mmseg.predict import predictor as module
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.predict.windows import StripResizer, predict_bands
from clouds_mmseg.utils.images import read_image


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(
    ('source', 'target'),
    [
        ((7, 9), (7, 9)),
        ((7, 9), (20, 33)),
        ((40, 30), (11, 13)),
        ((1, 5), (6, 5)),
        ((6, 5), (1, 9)),
    ],
)
def test_strips_are_those_of_interpolate(
    source, target, align_corners, monkeypatch
):
    scores = torch.rand(3, *source)
    expected = F.interpolate(
        scores[None], target, mode='bilinear', align_corners=align_corners
    )[0]
    # Strips of two rows, bands of three.
    monkeypatch.setattr(
        'clouds_mmseg.predict.windows._STRIP', 2 * 4 * 3 * target[1]
    )
    resizer = StripResizer(source, target, align_corners)
    found, next_row = [], 0
    for band in scores.split(3, dim=1):
        for first, strip in resizer.add(band):
            assert first == next_row and strip.shape[1] <= 2
            next_row += strip.shape[1]
            found.append(strip.clone())
    torch.testing.assert_close(torch.cat(found, 1), expected)


def test_windows_are_averaged():
    scores = torch.rand(2, 150, 70)
    counts = torch.zeros(150, 70)

    def predict(rows, columns):
        counts[rows, columns] += 1
        assert rows.stop - rows.start == columns.stop - columns.start == 64
        return scores[:, rows, columns]

    bands = [b.clone() for b in predict_bands(predict, (150, 70), 64)]
    assert len(bands) > 2
    torch.testing.assert_close(torch.cat(bands, 1), scores)
    assert counts.min() == 1 and counts.max() > 1


@pytest.fixture(scope='module')
def large(tiny_data):
    """An image of several windows that differ."""
    paths = sorted((tiny_data / 'day_val' / 'images').glob('*.png'))
    rows = [[read_image(paths[(i + j) % 3]) for j in range(5)] for i in (0, 1)]
    rows += rows
    return np.concatenate([np.concatenate(row, 1) for row in rows])


@pytest.fixture(scope='module')
def base(tiny_checkpoint):
    return Segmenter.from_pretrained(tiny_checkpoint, device='cpu')


@pytest.fixture
def windowed(base):
    def build(**kwargs):
        return Segmenter(
            base.model,
            base.classes,
            base.palette,
            max_pixels=64 * 64,
            window=64,
            **kwargs,
        )

    return build


def test_labels_are_those_of_sliding_windows(windowed, large):
    segmenter = windowed()
    found = segmenter(large)
    model = segmenter.model
    test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(42, 42))
    planes = torch.from_numpy(large[..., ::-1].copy()).permute(2, 0, 1)
    model.test_cfg = Config(dict(a=test_cfg)).a
    with torch.no_grad():
        (expected,) = model.test_step(
            dict(inputs=[planes], data_samples=[_sample(large)])
        )
    assert np.array_equal(found.labels, expected.pred_sem_seg.data[0].numpy())
    # Whatever else is asked for, labels are the same.
    more = segmenter(large, confidence=True, scores=True)
    assert np.array_equal(more.labels, found.labels)
    logits = expected.seg_logits.data
    probabilities = logits.softmax(0).numpy()
    assert more.scores.dtype == np.float16
    assert np.allclose(more.scores, probabilities, atol=1e-3)
    assert np.allclose(more.confidence, probabilities.max(0), atol=1e-5)


def _sample(image):
    from mmseg.structures import SegDataSample

    size = image.shape[:2]
    return SegDataSample(metainfo=dict(ori_shape=size, img_shape=size))


def test_views_of_windows(windowed, large):
    plain = windowed()(large, scores=True).scores.astype(np.float32)
    mirrored = windowed()(large[:, ::-1], scores=True).scores
    mirrored = mirrored[..., ::-1].astype(np.float32)
    found = windowed(flip=True)(large, scores=True)
    assert np.allclose(found.scores, (plain + mirrored) / 2, atol=0.05)
    assert np.array_equal(
        found.labels, windowed(flip=True)(large, confidence=True).labels
    )
    scaled = windowed(scales=[1, 1.5])(large)
    assert scaled.labels.shape == large.shape[:2]


def test_a_small_input_and_a_large_result(base, large, monkeypatch):
    """An image that the config's test resizes, with scores of all classes."""
    segmenter = Segmenter(
        base.model,
        base.classes,
        base.palette,
        resize=[dict(type='Resize', scale=(80, 64))],
    )
    expected = segmenter(large, confidence=True, scores=True)
    labels = segmenter(large).labels
    assert np.array_equal(labels, expected.labels)
    monkeypatch.setattr(module, '_MOST_SCORES', 1000)
    found = segmenter(large, confidence=True, scores=True)
    assert (found.labels == labels).mean() > 0.9999
    assert np.allclose(found.confidence, expected.confidence, atol=1e-5)
    assert np.allclose(found.scores, expected.scores, atol=1e-3)
