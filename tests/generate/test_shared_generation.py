"""An image set that processes make together."""

import numpy as np
import pytest
from interrupted_work import share_with_interruptions, tree
from PIL import Image

from clouds_mmseg.generate import run
from clouds_mmseg.generate.image_bank import Shard
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

    def make():
        return generate_images(out, shared=True, **options)

    summary = share_with_interruptions(make, out)
    assert summary.share.finished and summary.share.taken_over
    # The killed process had made some images.
    assert 0 < summary.created < 9
    assert tree(out) == tree(tmp_path / 'one')
    # Once more, for more images and after one was lost.
    (out / 'images/000003.png').unlink()
    options['num'] = 12
    generate_images(tmp_path / 'one', **options)
    assert make().created == 4
    assert tree(out) == tree(tmp_path / 'one')


def test_images_that_are_removed_meanwhile_are_made_again(tmp_path, options):
    generate_images(tmp_path / 'one', **options)
    out, removed = tmp_path / 'many', []
    add = run._add

    def add_and_remove(bank, backend, request, generated):
        add(bank, backend, request, generated)
        if request.index == 5 and not removed:
            removed.append(out / 'images/000002.png')
            removed[0].unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, '_add', add_and_remove)
        summary = generate_images(out, shared=True, **options)
    assert removed and summary.created == 10
    assert tree(out) == tree(tmp_path / 'one')


def test_a_part_of_a_larger_set_loses_nothing(tmp_path, options):
    out = tmp_path / 'set'
    generate_images(out, shard=Shard(1, 3), **options)
    options['num'] = 4
    summary = generate_images(out, shared=True, **options)
    assert not summary.complete and summary.created == 3
    options['num'] = 9
    summary = generate_images(out, shared=True, **options)
    assert summary.complete and summary.created == 3


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
