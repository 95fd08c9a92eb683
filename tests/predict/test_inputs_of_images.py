"""Images alone, of what a user names."""

import pytest
from PIL import Image

from clouds_mmseg.predict.inputs import find_images
from clouds_mmseg.utils.errors import UserError


def test_an_image_that_is_named_twice_is_found_once(tmp_path):
    (tmp_path / 'b').mkdir()
    for name in ('a.png', 'b/c.png'):
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    (tmp_path / 'drive.mp4').touch()
    found = find_images([tmp_path, tmp_path / 'a.png'])
    assert [str(relative) for _, relative in found] == ['a', 'b/c']
    with pytest.raises(UserError, match='is no image and holds none'):
        find_images([tmp_path / 'drive.mp4'])
    (tmp_path / 'b/a.png').write_bytes((tmp_path / 'a.png').read_bytes())
    with pytest.raises(UserError, match='would both be written to a.png'):
        find_images([tmp_path / 'a.png', tmp_path / 'b'])
