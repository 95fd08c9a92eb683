import io

import numpy as np
import pytest
from PIL import Image

from clouds_mmseg.generate.backends import (
    blank_reason,
    encode_png,
    hash_sources,
    list_sources,
    open_source,
    to_uint8,
    working_size,
)
from clouds_mmseg.generate.image_bank import recipe_differences
from clouds_mmseg.generate.model_files import fingerprint
from clouds_mmseg.generate.run import Progress, duration
from clouds_mmseg.utils.errors import GenerationError


def test_blank_reasons():
    rng = np.random.default_rng(0)
    picture = rng.random((8, 8, 3), np.float32)
    assert blank_reason(picture) is None
    assert blank_reason(to_uint8(picture)) is None
    spoiled = picture.copy()
    spoiled[3, 3, 1] = np.nan
    assert blank_reason(spoiled) == 'nan'
    spoiled[3, 3, 1] = np.inf
    assert blank_reason(spoiled) == 'nan'
    assert blank_reason(np.zeros((8, 8, 3), np.float32)) == 'black'
    assert blank_reason(np.full((8, 8, 3), 2, np.uint8)) == 'black'
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert blank_reason(red) == 'constant'
    red[0, 0, 0] = 180
    assert blank_reason(red) is None


def test_rounding_and_png():
    image = np.array([[[0.0, 0.4999, 1.0]], [[-1.0, 2.0, 0.5]]])
    rounded = to_uint8(image)
    assert rounded.tolist() == [[[0, 127, 255]], [[0, 255, 128]]]
    decoded = Image.open(io.BytesIO(encode_png(rounded)))
    assert np.array_equal(np.asarray(decoded), rounded)


def test_progress_counts_this_run_only():
    now = [0.0]
    progress = Progress(20, 4, interval=5, clock=lambda: now[0])
    assert progress.line() == '4/20 images'
    assert progress.rate() is None
    now[0] = 4.0
    progress.step(8)
    assert progress.rate() == 2
    assert progress.line() == '12/20 images, 2.00 images/s, 0:00:04 left'


def test_progress_logs_at_its_interval(monkeypatch):
    from clouds_mmseg.generate import run as module

    lines, now = [], [0.0]
    monkeypatch.setattr(
        module, 'print_log', lambda line, **_: lines.append(line)
    )
    progress = Progress(9, 0, interval=3, clock=lambda: now[0])
    for second in range(1, 10):
        now[0] = second
        progress.step()
    assert [line.split(',')[0] for line in lines] == [
        '3/9 images', '6/9 images', '9/9 images',
    ]  # fmt: skip


def test_duration():
    assert duration(3723.4) == '1:02:03'
    assert duration(59.6) == '0:01:00'


def test_differences_name_the_key_and_both_values():
    old = dict(model='a', steps=5, prompts=['x', 'y'])
    assert recipe_differences(old, dict(old)) == []
    (line,) = recipe_differences(old, dict(old, steps=9))
    assert line == 'steps: the image bank has 5, now 9'
    (line,) = recipe_differences(old, dict(old, prompts=['x', 'z']))
    assert line == 'prompts: prompt 2 is "y" in the image bank, now "z"'
    (line,) = recipe_differences(old, dict(old, prompts=['x']))
    assert line == 'prompts: the image bank has 2 of them, now 1'
    assert len(recipe_differences(old, dict(backend='toycity'))) == 4
    (line,) = recipe_differences(dict(p='x' * 99), dict(p='y' * 99))
    assert len(line) < 200 and '...' in line


def test_fingerprint_follows_content_not_place(tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    for folder in (one, two):
        (folder / 'unet').mkdir(parents=True)
        (folder / 'model_index.json').write_text('{}')
        (folder / 'README.md').write_text(str(folder))
        (folder / 'unet' / 'w.safetensors').write_bytes(bytes(5 << 20))
    assert fingerprint(one) == fingerprint(two)
    payload = bytearray(5 << 20)
    payload[-9] = 1
    (two / 'unet' / 'w.safetensors').write_bytes(payload)
    assert fingerprint(one) != fingerprint(two)


def test_sources(source_images, tmp_path):
    sources = list_sources(source_images)
    assert [name for name, _ in sources] == [
        'part0/0.png', 'part0/2.png', 'part0/4.png', 'part1/1.png',
        'part1/3.png',
    ]  # fmt: skip
    assert open_source(sources[0][1]).mode == 'RGB'
    assert hash_sources(sources) == hash_sources(sources)
    assert hash_sources(sources) != hash_sources(sources[1:])
    with pytest.raises(GenerationError, match='no such folder'):
        list_sources(tmp_path / 'missing')
    with pytest.raises(GenerationError, match='holds no image'):
        list_sources(tmp_path)
    broken = tmp_path / 'broken.png'
    broken.write_bytes((source_images / 'part0/0.png').read_bytes()[:40])
    with pytest.raises(GenerationError, match='broken.png is truncated'):
        open_source(broken)


def test_working_size():
    assert working_size((1914, 1052), 768, 8) == (1400, 768)
    assert working_size((1914, 1052), (512, 256), 8) == (512, 256)
    assert working_size((300, 4), 8, 8) == (600, 8)
