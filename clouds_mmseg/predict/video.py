"""Reading and writing of videos, and cameras, frame by frame.

Letters: H and W of a frame.
"""

import io
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from clouds_mmseg.utils.errors import UserError

# Containers that hold a film themselves: playlists and scripts, which name
# other files, are not read.
_FORMATS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg'
# A video of which less than this share is there, and that ends this many
# seconds early, is truncated.
_WHOLE, _SHORT = 0.95, 0.5
# Value in a file -> colour space. A file that has none is taken as players
# take it: high definition has another one than what was before.
_COLORSPACES = {
    **{1: 'ITU709', 4: 'FCC', 5: 'ITU601', 6: 'ITU601'},
    **{7: 'SMPTE240M', 9: 'BT2020', 10: 'BT2020'},
}
_HIGH = 720
_QUALITY = dict(crf='20', preset='veryfast')


class VideoFileError(UserError):
    """A file or camera gives no video. The message begins with its name."""


def load_av() -> ModuleType:
    """Import PyAV.

    Raises:
        UserError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            'videos are read and written by PyAV, which is not installed: '
            'pip install "clouds_mmseg[video]"'
        ) from error
    return av


class VideoReader:
    """The frames of a video file, decoded one after the other.

    Frames are upright, whatever way the camera was held, and keep their time
    stamps, so that a variable frame rate is kept.

    Args:
        path: The file.
        most_pixels: Larger frames are refused.

    Attributes:
        time_base (Fraction): Unit of the time stamps, seconds.
        rate (Fraction): Frames a second, an average.
        frames (int | None): Number of frames, an estimate.
        aspect (Fraction | None): Width of a pixel over its height.
        sound: The streams of sound.
        on_sound: Called with each packet of sound, if set.

    Raises:
        VideoFileError: The file cannot be opened, or holds no video.
    """

    def __init__(self, path: str | Path, most_pixels: int | None = None):
        self.path = str(path)
        self._av = load_av()
        try:
            self._file = self._av.open(
                self.path,
                metadata_errors='ignore',
                options=dict(
                    format_whitelist=_FORMATS, protocol_whitelist='file'
                ),
            )
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._error(
                f'cannot be read as a video: {_reason(error)}'
            ) from error
        if not self._file.streams.video:
            self._file.close()
            raise self._error('holds no video')
        stream = self._stream = self._file.streams.video[0]
        stream.thread_type = 'AUTO'
        width, height = stream.codec_context.width, stream.codec_context.height
        if most_pixels is not None and width * height > most_pixels:
            self._file.close()
            raise self._error(
                f'has frames of {width}x{height} pixels; up to '
                f'{most_pixels // 10**6} million are read'
            )
        self.time_base = stream.time_base
        self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.aspect = stream.sample_aspect_ratio or None
        self.sound = list(self._file.streams.audio)
        self.on_sound: Callable[[Any], None] | None = None
        self._number = 0  # Of frames that were decoded.
        self.frames = stream.frames or None
        if self.frames is None and self._duration():
            self.frames = round(self._duration() * self.rate)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """Decode.

        Yields:
            (H, W, 3) uint8 RGB, and the time stamp in units of
            ``time_base``; time stamps increase.

        Raises:
            VideoFileError: The file is damaged or truncated, or its frames
                change their size.
        """
        size = last = None
        end, self._number = 0.0, 0
        streams = (self._stream, *self.sound)
        for packet in self._checked(self._file.demux(*streams)):
            if packet.pts is not None and packet.time_base:
                stop = packet.pts + (packet.duration or 0)
                end = max(end, float(stop * packet.time_base))
            if packet.stream.type == 'audio':
                if self.on_sound and packet.dts is not None:
                    self.on_sound(packet)
                continue
            for frame in self._checked(_decoded(packet)):
                image, turns = _upright(frame)
                if turns % 2 and last is None and self.aspect:
                    self.aspect = 1 / self.aspect
                if size not in (None, image.shape):
                    raise self._error(
                        f'changes its size at frame {self._number}, from '
                        f'{size[1]}x{size[0]} to '
                        f'{image.shape[1]}x{image.shape[0]}; cut it there'
                    )
                size = image.shape
                last = self._time(frame, last)
                self._number += 1
                yield image, last
        self._check_whole(end)

    def _checked(self, values):
        """Yield values; an error of the decoder is one of the file."""
        values = iter(values)
        while True:
            try:
                value = next(values)
            except StopIteration:
                return
            except (self._av.FFmpegError, OSError, ValueError) as error:
                raise self._error(
                    f'is damaged after frame {self._number}: {_reason(error)}'
                ) from error
            yield value

    def _time(self, frame, last):
        """Return the time stamp of a frame, above the one before."""
        stamp = frame.pts
        if stamp is None:
            stamp = round(self._number / self.rate / self.time_base)
        return stamp if last is None else max(stamp, last + 1)

    def _duration(self):
        """Return the duration that the file announces, seconds, or 0."""
        return (self._file.duration or 0) / 1e6

    def _check_whole(self, end):
        if not self._number:
            raise self._error('holds no frame that can be decoded')
        end -= max((self._file.start_time or 0) / 1e6, 0)
        whole = self._duration()
        if end < _WHOLE * whole and end < whole - _SHORT:
            raise self._error(
                f'is truncated: it ends after {end:.1f} of {whole:.1f} '
                f'seconds (frame {self._number})'
            )

    def _error(self, text):
        return VideoFileError(f'video {self.path} {text}')

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _reason(error):
    text = getattr(error, 'strerror', None) or str(error)
    return text.strip() or type(error).__name__


def _decoded(packet):
    # A generator: its errors are raised where it is run.
    yield from packet.decode()


def _upright(frame):
    """Return a frame (H, W, 3) RGB as it is to be shown, and its turns."""
    space = _COLORSPACES.get(int(frame.colorspace))
    if space is None:
        space = 'ITU709' if frame.height >= _HIGH else 'ITU601'
    image = frame.to_ndarray(format='rgb24', src_colorspace=space)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)), turns


class Camera:
    """The frames of a camera as they come, with the time of each.

    Args:
        source: Number of a camera, or what OpenCV opens besides: a device,
            a stream, a file.
        seconds: After which it ends; None for never.

    Attributes:
        time_base (Fraction): Unit of the time stamps, seconds.
        rate (Fraction): Frames a second that the camera announces.
        frames: None: not known.
        aspect: None: pixels are square.
        sound: Empty.
        on_sound: Never called.
        stop (bool): Set to end after the next frame.

    Raises:
        VideoFileError: There is no such camera.
    """

    time_base = Fraction(1, 1000)
    frames = None
    aspect = None
    sound: tuple = ()
    on_sound = None

    def __init__(self, source: str | int, seconds: float | None = None):
        if seconds is not None and seconds <= 0:
            raise UserError(f'seconds must be above 0, got {seconds}')
        if isinstance(source, str) and source.isdigit():
            source = int(source)
        self.seconds = seconds
        self.stop = False
        self._source = source
        # What is wrong is said once, below.
        logging = cv2.utils.logging
        level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            self._capture = cv2.VideoCapture(source)
        finally:
            logging.setLogLevel(level)
        if not self._capture.isOpened():
            raise VideoFileError(
                f'camera {source} cannot be opened; camera:0 is the first '
                'one, and another program may be using it'
            )
        # The newest frame, not one that waited.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(round(rate)) if 1 <= rate <= 240 else Fraction(25)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """Take frames.

        Yields:
            (H, W, 3) uint8 RGB, and milliseconds since the first frame.

        Raises:
            VideoFileError: It gives no frame.
        """
        begun, last = None, -1
        while not self.stop:
            there, image = self._capture.read()
            now = time.monotonic()
            if not there:
                break
            begun = now if begun is None else begun
            if self.seconds is not None and now - begun > self.seconds:
                return
            last = max(round((now - begun) * 1000), last + 1)
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB), last
        if begun is None and not self.stop:
            raise VideoFileError(f'camera {self._source} gives no frame')

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def suffix_for(sound: Any) -> str:
    """Return the suffix of a container for H.264 and some streams of sound.

    Args:
        sound: Streams whose packets are copied.

    Returns:
        ``'.mp4'``, which everything plays, or ``'.mkv'`` for sound that it
        cannot hold.
    """
    if not sound:
        return '.mp4'
    av = load_av()
    with av.open(io.BytesIO(), 'w', format='mp4') as probe:
        known = probe.supported_codecs
    names = {stream.codec_context.name for stream in sound}
    return '.mp4' if names <= known else '.mkv'


class VideoWriter:
    """Writes frames as they come; sound is copied as it is.

    Args:
        path: ``.mp4`` or ``.mkv``.
        source: Whose rate, time stamps and sound are taken.
        size: H and W. An odd side is filled up by one row or column, which
            the encoder needs.
    """

    def __init__(
        self,
        path: str | Path,
        source: VideoReader | Camera,
        size: tuple[int, int],
    ):
        self._av = load_av()
        self._file = self._av.open(str(path), 'w')
        self._odd = (size[0] % 2, size[1] % 2)
        stream = self._file.add_stream(
            _encoder(self._av), rate=source.rate, options=dict(_QUALITY)
        )
        stream.height = size[0] + self._odd[0]
        stream.width = size[1] + self._odd[1]
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.time_base = source.time_base
        if source.aspect:
            stream.codec_context.sample_aspect_ratio = source.aspect
        # What the conversion below does, for the player.
        stream.codec_context.colorspace = (
            self._av.video.reformatter.Colorspace.ITU709
        )
        stream.codec_context.color_range = (
            self._av.video.reformatter.ColorRange.MPEG
        )
        self._stream, self._time_base = stream, source.time_base
        self._sound = {
            template.index: self._file.add_stream_from_template(template)
            for template in source.sound
        }

    def add(self, image: np.ndarray, stamp: int) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            stamp: Above that of the frame before.
        """
        if any(self._odd):
            image = np.pad(
                image, [(0, self._odd[0]), (0, self._odd[1]), (0, 0)], 'edge'
            )
        frame = self._av.VideoFrame.from_ndarray(image, format='rgb24')
        frame = frame.reformat(format='yuv420p', dst_colorspace='ITU709')
        frame.pts, frame.time_base = stamp, self._time_base
        self._file.mux(self._stream.encode(frame))

    def add_sound(self, packet: Any, index: int) -> None:
        """Add a packet of sound.

        Args:
            packet: Of the source; its stream and time stamps are changed.
            index: Of its stream in the source.
        """
        packet.stream = self._sound[index]
        self._file.mux(packet)

    def close(self) -> None:
        """Write what the encoder holds back, and the end of the file."""
        self._file.mux(self._stream.encode(None))
        self._file.close()


def _encoder(av):
    """Return the encoder to use: H.264 where this build of PyAV has it."""
    try:
        return av.codec.Codec('libx264', 'w').name
    except ValueError:
        return 'mpeg4'
