"""Settings that would be ignored, or spoil the numbers."""

import logging

import pytest
from mmengine.config import ConfigDict
from test_segmentor_labels import CLOUDS, build

from clouds_mmseg.models import CLIPBackbone
from clouds_mmseg.models.segmentors import checks as segmentor_checks
from clouds_mmseg.models.segmentors.checks import check_input, check_test_cfg
from clouds_mmseg.utils.errors import UserError

WINDOWS = dict(mode='slide', crop_size=(64, 64), stride=(48, 48))


@pytest.fixture
def warnings(monkeypatch):
    """What is logged; mmengine's loggers do not reach caplog."""
    messages = []

    def collect(message, *, logger, level):
        assert logger == 'current' and level == logging.WARNING
        messages.append(message)

    monkeypatch.setattr(segmentor_checks, 'print_log', collect)
    return messages


@pytest.fixture(scope='module')
def model():
    return build(CLOUDS)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(mode='sliding'), "'whole' or 'slide', got 'sliding'"),
        (dict(crop_size=None), r'needs crop_size=\(height, width\)'),
        (dict(stride=None), 'needs stride'),
        (dict(crop_size=768), 'got 768'),
        (dict(stride=(48, 0)), r'got \(48, 0\)'),
        # Pixels between the windows had a prediction of 0 / 0.
        (dict(stride=(48, 65)), 'no prediction'),
        (dict(window_batch=0), 'window_batch'),
    ],
)
def test_windows_are_described(change, message):
    check_test_cfg(WINDOWS)
    with pytest.raises(UserError, match=message):
        check_test_cfg(WINDOWS | change)


@pytest.mark.parametrize(
    'test_cfg, message',
    [
        (
            dict(mode='whole', crop_size=(9, 9)),
            "crop_size, not used in the mode 'whole'",
        ),
        (dict(WINDOWS, crop_sise=(9, 9)), "perhaps 'crop_size'"),
    ],
)
def test_what_is_not_used_is_told(test_cfg, message, warnings):
    check_test_cfg(ConfigDict(test_cfg))
    (found,) = warnings
    assert message in found


def test_padding_is_no_class(model):
    model.data_preprocessor.seg_pad_val = 2
    try:
        with pytest.raises(UserError, match='seg_pad_val=2 is a class'):
            check_input(model)
    finally:
        model.data_preprocessor.seg_pad_val = 255
    check_input(model)


RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@pytest.mark.parametrize(
    'expects, bgr_to_rgb, words',
    [
        (None, False, []),
        (((120,) * 3, (60,) * 3), True, []),
        (((121.5,) * 3, (60,) * 3), True, []),
        (RGB, True, ['its mean is [120, 120, 120] instead of [123.7']),
        (((120,) * 3, (1,) * 3), True, ['its std']),
        (((120,) * 3, (60,) * 3), False, ['red and blue are exchanged']),
    ],
)
def test_colours_of_the_weights(model, expects, bgr_to_rgb, words, warnings):
    preprocessor = model.data_preprocessor
    model.backbone.expects = expects
    preprocessor._channel_conversion = bgr_to_rgb
    try:
        check_input(model)
    finally:
        model.backbone.expects = None
        preprocessor._channel_conversion = True
    assert len(warnings) == len(words)
    for word in words:
        assert word in warnings[0]


def test_backbones_know_the_colours_of_their_weights():
    clip = CLIPBackbone('RN50', pretrained='openai', load_pretrained=False)
    assert clip.expects[0] == pytest.approx((122.77, 116.75, 104.09), abs=0.1)
    assert CLIPBackbone('RN50').expects is None
