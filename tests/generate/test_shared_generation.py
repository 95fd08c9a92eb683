"""An image set that processes make together."""

import numpy as np
import pytest
from interrupted_work import share_with_interruptions, tree
from PIL import Image

from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.errors import UserError


@pytest.fixture
def options(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 255, (16, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(source / f'{seed}.png')
    return dict(
        num=9, backend='photometric', mode='img2img', source=source, lease=1
    )


def test_interrupted_processes_make_what_one_makes(tmp_path, options):
    generate_images(tmp_path / 'one', **options)
    out = tmp_path / 'many'

    def run():
        return generate_images(out, shared=True, **options)

    summary = share_with_interruptions(run, out)
    assert summary.share.finished and summary.share.taken_over
    # The killed process had made some images.
    assert 0 < summary.created < 9
    assert tree(out) == tree(tmp_path / 'one')
    # Once more, for more images and after one was lost.
    (out / 'images/000003.png').unlink()
    options['num'] = 12
    generate_images(tmp_path / 'one', **options)
    assert run().created == 4
    assert tree(out) == tree(tmp_path / 'one')


def test_other_arguments_are_refused_and_change_nothing(tmp_path, options):
    out = tmp_path / 'set'

    class Stop(Exception):
        pass

    def stop(*args):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('clouds_mmseg.generate.run._add', stop)
        with pytest.raises(Stop):
            generate_images(out, shared=True, **options)
    before = tree(out)
    for change, named in (
        (dict(num=10), 'num: there 9, here 10'),
        (dict(seed=1), 'seed: the image bank has 0, now 1'),
        (dict(contact_sheet=False), 'sheet: there true, here false'),
        (dict(lease=2), 'lease: there 1.0, here 2.0'),
        (dict(lease=0.1), '--lease 0.1 must be at least 1'),
    ):
        with pytest.raises(UserError, match=named):
            generate_images(out, shared=True, **options | change)
    assert tree(out) == before
    assert generate_images(out, shared=True, **options).created == 9
