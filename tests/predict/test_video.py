"""Videos, frame by frame, with time stamps and sound."""

import json
import signal
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from tiny_video import picture, write_video

from clouds_mmseg.predict import video as module
from clouds_mmseg.predict.inputs import find_inputs
from clouds_mmseg.predict.predict_files import predict_files
from clouds_mmseg.predict.predict_video import predict_video
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.predict.smoothing import TemporalSmoothing
from clouds_mmseg.predict.video import (
    Camera,
    VideoFileError,
    VideoReader,
    VideoWriter,
    suffix_for,
)
from clouds_mmseg.utils.errors import UserError

av = pytest.importorskip('av', reason='needs PyAV: clouds_mmseg[video]')


def read(path):
    reader = VideoReader(path)
    try:
        return list(reader), reader
    finally:
        reader.close()


def packets(path):
    with av.open(str(path)) as file:
        return [
            (bytes(p), p.pts * p.time_base)
            for p in file.demux(audio=0)
            if p.size
        ]


def test_frames_keep_their_colours_and_times(tmp_path):
    stamps = [0, 1, 2, 7, 8, 20]  # A variable frame rate.
    for colorspace in ('ITU709', 'ITU601'):
        path = write_video(
            tmp_path / f'{colorspace}.mkv', stamps, colorspace=colorspace
        )
        frames, reader = read(path)
        times = [stamp * reader.time_base for _, stamp in frames]
        assert np.allclose(np.diff(times), np.diff(stamps) / 10, atol=0.002)
        for index, (image, _) in enumerate(frames):
            difference = image.astype(int) - picture(shade=2 * index)
            # At the borders of the thirds colours are half as fine.
            assert np.abs(difference[:, 4:16]).max() < 12, colorspace
            assert np.abs(difference[:, 26:38]).max() < 12


def test_colours_of_a_file_that_names_no_colour_space(tmp_path):
    for size, space in (((48, 64), 'ITU601'), ((720, 64), 'ITU709')):
        path = tmp_path / f'{space}.mkv'
        write_video(path, [0], size=size, colorspace=space, tagged=False)
        with av.open(str(path)) as file:
            assert int(next(file.decode(video=0)).colorspace) == 2
        ((image, _),), _ = read(path)
        difference = image.astype(int) - picture(size)
        assert np.abs(difference)[:, 4:16].max() < 12, space


def test_what_is_written_comes_back(tmp_path):
    source = write_video(tmp_path / 'a.mp4', [0, 1, 5, 6], sound='aac')
    reader = VideoReader(source)
    assert suffix_for(reader.sound) == '.mp4'
    writer = VideoWriter(tmp_path / 'b.mp4', reader, (47, 63))
    reader.on_sound = lambda p: writer.add_sound(p, p.stream.index)
    for image, stamp in reader:
        writer.add(image[:47, :63], stamp)
    writer.close()
    reader.close()
    frames, again = read(tmp_path / 'b.mp4')
    times = [float(stamp * again.time_base) for _, stamp in frames]
    assert np.allclose(times, [0, 0.1, 0.5, 0.6], atol=1e-3)
    # Odd sides are filled up.
    assert frames[0][0].shape == (48, 64, 3)
    assert np.abs(frames[0][0].astype(int) - picture())[:, 4:16].max() < 20
    assert packets(tmp_path / 'b.mp4') == packets(source)
    assert packets(source)


def test_sound_that_mp4_cannot_hold_goes_into_mkv(tmp_path):
    source = write_video(tmp_path / 'a.avi', sound='pcm_mulaw')
    _, reader = read(source)
    with av.open(str(source)) as file:
        assert suffix_for(file.streams.audio) == '.mkv'


def test_a_camera_that_was_held_upright(tmp_path):
    path = write_video(tmp_path / 'a.mp4', rotation=90)
    frames, _ = read(path)
    image = frames[0][0]
    assert image.shape == (64, 48, 3)
    # As the player turns it: by 90 degrees counterclockwise.
    expected = np.rot90(picture())
    assert np.abs(image.astype(int) - expected)[-16:-4].max() < 12


def test_pixels_that_are_not_square(tmp_path):
    """Also of a camera that was held upright, whose sides change places."""
    for rotation, expected in ((0, 2), (90, Fraction(1, 2))):
        path = write_video(
            tmp_path / f'{rotation}.mp4', aspect=2, rotation=rotation
        )
        reader = VideoReader(path)
        for image, stamp in reader:
            if stamp == 0:
                out = tmp_path / f'out{rotation}.mp4'
                writer = VideoWriter(out, reader, image.shape[:2])
            writer.add(image, stamp)
        writer.close()
        reader.close()
        _, again = read(out)
        assert again.aspect == expected


def test_broken_videos(tmp_path):
    whole = write_video(tmp_path / 'a.mkv', range(40)).read_bytes()
    path = tmp_path / 'cut.mkv'
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoFileError, match='cut.mkv is (truncated|damaged)'):
        read(path)
    path = tmp_path / 'head.mp4'
    path.write_bytes(write_video(tmp_path / 'b.mp4').read_bytes()[:-300])
    with pytest.raises(VideoFileError, match='head.mp4 cannot be read as a'):
        read(path)
    path.write_bytes(b'no video')
    with pytest.raises(VideoFileError, match='cannot be read as a video'):
        read(path)
    # A playlist, which would open other files.
    path.write_text(f'#EXTM3U\n#EXTINF:1,\n{tmp_path}/a.mkv\n#EXT-X-ENDLIST')
    with pytest.raises(VideoFileError, match='cannot be read as a video'):
        read(path)
    with pytest.raises(VideoFileError, match='No such file'):
        read(tmp_path / 'none.mp4')
    with pytest.raises(VideoFileError, match='64x48 pixels; up to'):
        VideoReader(tmp_path / 'a.mkv', most_pixels=1000)


def test_without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(UserError, match=r'pip install "clouds_mmseg\[video\]'):
        module.load_av()


@pytest.fixture(scope='module')
def segmenter(tiny_checkpoint):
    return Segmenter.from_pretrained(tiny_checkpoint, device='cpu')


@pytest.fixture
def drive(tmp_path):
    (tmp_path / 'in/day').mkdir(parents=True)
    stamps = [0, 1, 2, 5, 6, 9]
    return write_video(tmp_path / 'in/day/drive.mp4', stamps, sound='aac')


def test_a_video_is_predicted(segmenter, drive, tmp_path):
    out, kinds = tmp_path / 'out', ['overlay', 'color', 'labels', 'rle']
    done = predict_files(
        segmenter, [tmp_path / 'in'], out, kinds=kinds, batch_size=4
    )
    assert (done.videos, done.frames, done.written) == (1, 6, 0)
    source, _ = read(drive)
    labels = [segmenter(image).labels for image, _ in source]
    names = sorted(p.name for p in (out / 'labels/day/drive').iterdir())
    assert names == [f'{i:06d}.png' for i in range(6)]
    for name, label in zip(names, labels, strict=True):
        found = Image.open(out / 'labels/day/drive' / name)
        assert np.array_equal(np.asarray(found), label)
    masks = json.loads((out / 'rle/day/drive/000005.json').read_text())
    assert sum(x['area'] for x in masks['annotations']) == label.size
    for kind in ('overlay', 'color'):
        path = out / kind / 'day/drive.mp4'
        frames, reader = read(path)
        times = [float(stamp * reader.time_base) for _, stamp in frames]
        assert np.allclose(times, [0, 0.1, 0.2, 0.5, 0.6, 0.9], atol=1e-3)
        assert packets(path) == packets(drive)
        drawn = np.asarray(segmenter(source[0][0]).drawing(kind), int)
        assert np.abs(frames[0][0] - drawn).mean() < 8
    # Nothing is left to do, and then one kind.
    done = predict_files(segmenter, [tmp_path / 'in'], out, kinds=kinds)
    assert done.existing == 1 and not done.frames
    (out / 'color/day/drive.mp4').unlink()
    done = predict_files(segmenter, [tmp_path / 'in'], out, kinds=kinds)
    assert done.frames == 6
    assert (out / 'color/day/drive.mp4').is_file()
    left = [p for p in out.rglob('.*')]
    assert not left


def test_a_stopped_video_is_not_finished(segmenter, drive, tmp_path):
    out, seen = tmp_path / 'out', []

    def stop():
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt

    relative = find_inputs([drive])[0].relative
    with pytest.raises(KeyboardInterrupt):
        predict_video(
            segmenter,
            VideoReader(drive),
            out,
            relative,
            kinds=['labels', 'overlay'],
            on_frame=stop,
        )
    assert not [p for p in out.rglob('*') if not p.is_dir()]
    # What a killed process left behind is removed.
    (out / 'labels/.drive-partfile').mkdir()
    (out / 'overlay/.drive-partfile.mp4').write_bytes(b'x')
    done = predict_files(segmenter, [drive], out)
    assert done.frames == 6 and not list(out.rglob('.*'))
    # Killed after the last rename.
    (out / 'labels/.drive-partfile').mkdir()
    (out / 'labels/.drive-partfile.lock').touch()
    assert predict_files(segmenter, [drive], out).existing == 1
    assert not list(out.rglob('.*'))


def test_broken_videos_are_listed(segmenter, drive, tmp_path):
    (tmp_path / 'in/broken.mp4').write_bytes(drive.read_bytes()[:2000])
    out = tmp_path / 'out'
    done = predict_files(segmenter, [tmp_path / 'in'], out)
    assert done.videos == 1
    assert list(done.failed) == [str(tmp_path / 'in/broken.mp4')]
    assert 'broken.mp4' in (out / 'failed.txt').read_text()
    assert not list(out.rglob('broken*'))
    with pytest.raises(UserError, match='broken.mp4 cannot be read as a vid'):
        predict_files(segmenter, [tmp_path / 'in/broken.mp4'], tmp_path / 'o')


def test_scores_are_smoothed(segmenter, tiny_data):
    images = [
        np.asarray(Image.open(p).convert('RGB'))
        for p in sorted((tiny_data / 'day_val/images').glob('*.png'))
    ]
    alone = [segmenter(image, scores=True).scores for image in images]
    found = list(segmenter.stream(images, scores=True, smooth=0.7))
    expected = alone[0]
    assert np.allclose(found[0].scores, expected, atol=1e-6)
    for one, raw in zip(found[1:], alone[1:], strict=True):
        expected = 0.7 * expected + 0.3 * raw
        assert np.allclose(one.scores, expected, atol=1e-5)
        assert np.array_equal(one.labels, one.scores.argmax(0))
    # In windows too.
    windowed = Segmenter(
        segmenter.model,
        segmenter.classes,
        segmenter.palette,
        max_pixels=64 * 64,
        window=64,
    )
    wide = [np.tile(image, (3, 3, 1)) for image in images]
    raw = [windowed(image, scores=True).scores for image in wide]
    last = list(windowed.stream(wide, scores=True, smooth=0.5))[-1]
    mean = 0.25 * raw[0] + 0.25 * raw[1] + 0.5 * raw[2]
    assert np.allclose(last.scores, mean, atol=2e-3)
    for weight in (-0.1, 1.0):
        with pytest.raises(UserError, match='smooth must lie in'):
            list(segmenter.stream(images, smooth=weight))


def test_smoothing_begins_anew_at_a_cut(segmenter):
    dark, bright = np.full((40, 60, 3), 20, np.uint8), picture((40, 60), 60)
    smoothing = TemporalSmoothing(0.9)
    for image in (dark, dark + 20, bright, bright):
        smoothing.begin(image)
    assert smoothing.cuts == 1
    found = list(segmenter.stream([dark, bright], scores=True, smooth=0.9))
    expected = segmenter(bright, scores=True).scores
    assert np.allclose(found[1].scores, expected, atol=1e-6)


def test_a_camera(segmenter, drive, tmp_path, monkeypatch):
    # A file, opened as a camera is.
    camera = Camera(str(drive))
    frames = list(camera)
    camera.close()
    assert len(frames) == 6 and frames[0][0].shape == (48, 64, 3)
    assert np.abs(frames[0][0].astype(int) - picture())[:, 4:16].max() < 20
    stamps = [stamp for _, stamp in frames]
    assert stamps == sorted(set(stamps))
    out = tmp_path / 'out'
    done = predict_files(segmenter, [f'camera:{drive}'], out)
    assert done.frames == 6 and done.videos == 1
    (film,) = (out / 'overlay').glob('camera*.mp4')
    assert len(read(film)[0]) == 6
    with pytest.raises(UserError, match='camera 77 cannot be opened'):
        predict_files(segmenter, ['camera:77'], out)
    with pytest.raises(UserError, match='seconds must be above 0'):
        predict_files(segmenter, ['camera:0'], out, seconds=0)


def test_a_camera_ends_in_time(drive, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(module.time, 'monotonic', lambda: next(clock))
    frames = list(Camera(str(drive), seconds=3))
    assert [stamp for _, stamp in frames] == [0, 1000, 2000, 3000]


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(),
    reason='signals reach the main thread',
)
def test_ctrl_c_ends_a_camera_and_keeps_its_video(segmenter, drive, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def press():
        seen.append(1)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)

    camera = Camera(str(drive))
    frames = predict_video(
        segmenter,
        camera,
        tmp_path / 'out',
        find_inputs(['camera:0'])[0].relative,
        kinds=['overlay'],
        on_frame=press,
    )
    assert frames == 2
    assert len(read(tmp_path / 'out/overlay/camera0.mp4')[0]) == 2
    assert signal.getsignal(signal.SIGINT) is before
