"""An image set that processes make together."""

import multiprocessing
import time

import numpy as np
import pytest
from interrupted_work import share_with_interruptions, tree
from mmengine import fileio
from PIL import Image

from clouds_mmseg.datasets import GeneratedDataset
from clouds_mmseg.generate import run
from clouds_mmseg.generate.image_bank import Shard
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.errors import GenerationError, UserError
from clouds_mmseg.utils.remote import list_below


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


def stored(address):
    """Path below an address -> bytes; without ``.work``."""
    return {
        name: fileio.get(f'{address}/{name}') for name in list_below(address)
    }


def test_a_set_in_a_store_has_the_files_of_one_in_a_folder(
    tmp_path, options, s3_folder
):
    one, options['num'] = tmp_path / 'one', 4
    generate_images(one, **options)
    add = run._add

    def fail(bank, backend, request, generated):
        if len(bank.entries()) == 2:
            raise GenerationError('stopped')
        add(bank, backend, request, generated)
        bank.publish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, '_add', fail)
        with pytest.raises(GenerationError, match='stopped'):
            generate_images(s3_folder, **options)
    assert generate_images(s3_folder, **options).created == 2
    assert stored(s3_folder) == tree(one)
    # Once more, for more images and after one was lost.
    fileio.remove(f'{s3_folder}/images/000003.png')
    options['num'] = 6
    generate_images(one, **options)
    assert generate_images(s3_folder, **options).created == 3
    assert stored(s3_folder) == tree(one)
    assert len(GeneratedDataset(bank=s3_folder, pipeline=[])) == 6


def test_images_in_a_store_of_a_killed_process_are_made_again(
    tmp_path, options, s3_folder
):
    options['num'] = 4
    generate_images(tmp_path / 'one', **options)

    def stop_in_the_middle():
        add = run._add

        def add_and_wait(*args):
            add(*args)
            (tmp_path / 'made').touch()
            time.sleep(60)

        run._add = add_and_wait
        generate_images(s3_folder, **options)

    fork = multiprocessing.get_context('fork')
    killed = fork.Process(target=stop_in_the_middle)
    killed.start()
    while not (tmp_path / 'made').exists():
        time.sleep(0.01)
    killed.kill()
    killed.join()
    summary = generate_images(s3_folder, **options)
    assert summary.created == 4 and summary.share.taken_over == 1
    assert stored(s3_folder) == tree(tmp_path / 'one')


@pytest.mark.parametrize(
    'change, named',
    [
        (dict(copy_to='s3://other/bank'), 'copy-to.*at an address already'),
        (dict(shard=Shard(0, 2)), 'leave --shard out'),
        (dict(), r'holds files but no image bank \(bank.json\)'),
    ],
)
def test_what_does_not_fit_an_address_is_refused(
    options, s3_folder, change, named
):
    fileio.put(b'', f'{s3_folder}/notes.txt')
    with pytest.raises(UserError, match=named):
        generate_images(s3_folder, **options | change)
    assert list_below(s3_folder) == {'notes.txt': 0}
