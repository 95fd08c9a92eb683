"""Videos of 48x64 pixels: three colours that grow brighter."""

from fractions import Fraction

import numpy as np
import pytest

# Red, green and blue thirds.
COLORS = np.array([[220, 30, 30], [30, 200, 40], [40, 40, 210]], np.uint8)


def picture(size=(48, 64), shade=0):
    image = np.zeros((*size, 3), np.uint8)
    for index, part in enumerate(np.array_split(np.arange(size[1]), 3)):
        image[:, part] = COLORS[index]
    return np.clip(image.astype(int) + shade, 0, 255).astype(np.uint8)


def write_video(
    path,
    stamps=range(20),
    *,
    size=(48, 64),
    time_base=Fraction(1, 10),
    sound=None,
    rotation=0,
    colorspace='ITU709',
    aspect=None,
    tagged=True,
):
    """Write a video whose frames grow brighter, with PyAV alone."""
    import av

    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.time_base = time_base
        stream.codec_context.options = {'crf': '5'}
        spaces = av.video.reformatter.Colorspace
        if tagged:
            stream.codec_context.colorspace = getattr(spaces, colorspace)
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            if not hasattr(stream, 'set_display_rotation'):
                pytest.skip('PyAV before 18 writes no rotation')
            stream.set_display_rotation(rotation)
        tone = None
        if sound:
            tone = file.add_stream(sound, rate=16000, layout='mono')
        for index, stamp in enumerate(stamps):
            image = picture(size, 2 * index)
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame = frame.reformat(format='yuv420p', dst_colorspace=colorspace)
            if not tagged:
                frame.colorspace = 2  # Unspecified.
            frame.pts, frame.time_base = stamp, time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if tone is not None:
            seconds = float(max(stamps) * time_base)
            count = int(seconds * 16000) // 1024
            for index in range(count):
                wave = np.sin(np.arange(1024) / 5) * 8000
                part = av.AudioFrame.from_ndarray(
                    wave.astype(np.int16)[None], format='s16', layout='mono'
                )
                part.sample_rate, part.pts = 16000, index * 1024
                part.time_base = Fraction(1, 16000)
                file.mux(tone.encode(part))
            file.mux(tone.encode(None))
    return path
