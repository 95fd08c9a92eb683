"""A real Stable Diffusion pipeline with tiny random parts."""

import json

import numpy as np
import pytest
import torch
from generate_helpers import build_pipeline, tree
from PIL import Image

from clouds_mmseg.generate.backends import (
    blank_reason,
    list_sources,
    request_for,
    to_uint8,
)
from clouds_mmseg.generate.diffusion import DiffusionBackend
from clouds_mmseg.generate.image_bank import Shard
from clouds_mmseg.generate.run import MAX_ATTEMPTS, generate_images
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import read_bank, read_entries

pytestmark = pytest.mark.usefixtures('one_process')
PROMPTS = [(1, 'a road'), (2, 'night rain'), (3, 'cars in the snow')]
SMALL = dict(size=32, steps=2, device='cpu')


def requests(*indices, sources=()):
    return [request_for(i, PROMPTS, seed=0, sources=sources) for i in indices]


@pytest.fixture(scope='module')
def backend(tiny_sd):
    return DiffusionBackend(str(tiny_sd), batch_size=3, **SMALL)


def test_an_image_depends_on_prompt_and_seed_alone(backend):
    first = backend.generate(requests(0, 1, 2))
    assert [p.image.shape for p in first] == [(32, 32, 3)] * 3
    assert all(blank_reason(p.image) is None for p in first)
    again = backend.generate(requests(0, 7, 8))
    # The same position in the batch, other neighbours: equal to the last bit.
    assert np.array_equal(first[0].image, again[0].image)
    assert not np.array_equal(first[1].image, again[1].image)
    # Another position: equal but for rounding, so positions are kept.
    moved = backend.generate(requests(1, 2, 0))
    assert np.abs(moved[2].image - first[0].image).max() < 1e-4


def test_threads_of_the_caller_do_not_matter_and_are_restored(backend):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = backend.generate(requests(0, 1, 2))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        one = backend.generate(requests(0, 1, 2))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.image, b.image)


def test_the_global_generator_is_not_touched(backend):
    state = torch.get_rng_state()
    backend.generate(requests(0))
    assert torch.equal(state, torch.get_rng_state())


def test_recipe_names_what_matters(backend, tiny_sd):
    recipe = backend.recipe()
    assert recipe['model'] == 'tiny-sd'
    # The model's own, and the defaults of its class.
    assert recipe['scheduler'] == 'DDIMScheduler'
    assert (recipe['steps'], recipe['guidance']) == (2, 7.5)
    assert recipe['size'] == (32, 32)
    assert recipe['dtype'] == 'float32' and recipe['threads'] == 1
    assert 'strength' not in recipe
    assert backend.info()['model'] == str(tiny_sd)
    assert set(recipe) <= set(json.loads(json.dumps(recipe)))


def test_truncation_is_reported_by_line(backend):
    # One token a letter with this tokenizer, and two around them.
    prompts = [(1, 'a' * 75), (4, 'b' * 75 + 'tail'), (9, 'c' * 200)]
    first, second = backend.check_prompts(prompts)
    assert first.startswith('line 4 has 81 tokens')
    assert 'reads 77' in first and "'tail'" in first
    assert second.startswith('line 9 ') and '...' in second


def test_schedulers(tiny_sd):
    def scheduler(name):
        backend = DiffusionBackend(str(tiny_sd), scheduler=name, **SMALL)
        return backend.scheduler

    assert scheduler('model') == 'DDIMScheduler'
    assert scheduler('auto') == 'EulerDiscreteScheduler'
    assert scheduler('DPMSolverMultistepScheduler') == (
        'DPMSolverMultistepScheduler'
    )
    with pytest.raises(GenerationError, match='DDIMScheduler, '):
        scheduler('FlowMatchEulerDiscreteScheduler')


def test_img2img_keeps_the_size_of_its_source(tiny_sd, source_images):
    backend = DiffusionBackend(
        str(tiny_sd), mode='img2img', strength=0.6, batch_size=5,
        steps=3, size=16, device='cpu',
    )  # fmt: skip
    sources = list_sources(source_images)
    # Two sizes in one batch.
    pictures = backend.generate(requests(0, 1, 2, 3, 4, sources=sources))
    for picture, (_, path) in zip(pictures, sources, strict=True):
        with Image.open(path) as image:
            assert picture.image.shape == (*image.size[::-1], 3)
        assert blank_reason(picture.image) is None
    assert backend.recipe()['strength'] == 0.6
    again = backend.generate(requests(0, 1, 2, 3, 4, sources=sources))
    for a, b in zip(pictures, again, strict=True):
        assert np.array_equal(a.image, b.image)


def test_img2img_follows_its_source(tiny_sd, source_images):
    backend = DiffusionBackend(
        str(tiny_sd), mode='img2img', strength=0.5, steps=2, size=(48, 32),
        device='cpu',
    )  # fmt: skip
    sources = list_sources(source_images)
    one = request_for(0, PROMPTS, seed=0, sources=sources[:1])
    other = request_for(0, PROMPTS, seed=0, sources=sources[1:2])
    a, b = (backend.generate([r])[0].image for r in (one, other))
    assert not np.array_equal(to_uint8(a), to_uint8(b))


def test_negative_prompt_and_guidance_have_an_effect(tiny_sd, backend):
    plain = backend.generate(requests(0))[0].image
    for changes in (dict(negative_prompt='blurry'), dict(guidance=1.5)):
        other = DiffusionBackend(str(tiny_sd), **SMALL, **changes)
        image = other.generate(requests(0))[0].image
        assert np.abs(image - plain).max() > 1e-4


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(steps=0), '--steps must be 1 or more, got 0'),
        (dict(guidance=-1.0), '--guidance'),
        (dict(batch_size=0), '--batch-size'),
        (dict(threads=0), '--threads'),
        (dict(strength=0.0), r'--strength must be in \(0, 1\]'),
        (dict(mode='inpaint'), '--mode'),
        (dict(mode='img2img', steps=2, strength=0.3), 'less than one step'),
        (dict(size=30), 'multiples of 8'),
        (dict(size=(32, 36)), '--size 32x36'),
        (dict(dtype='int8'), '--dtype'),
        (dict(device='warp'), '--device'),
    ],
)
def test_bad_arguments(tiny_sd, options, message):
    with pytest.raises(GenerationError, match=message):
        DiffusionBackend(str(tiny_sd), **{**SMALL, **options})


def test_models_that_are_not_there(tmp_path):
    with pytest.raises(GenerationError, match='without model_index.json'):
        DiffusionBackend(str(tmp_path))
    with pytest.raises(GenerationError, match='is not here'):
        DiffusionBackend('owner/no-such-pipeline')
    (tmp_path / 'model_index.json').write_text('{"_class_name": "NoSuch"}')
    with pytest.raises(GenerationError, match='cannot be loaded for txt2img'):
        DiffusionBackend(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs no CUDA')
def test_cuda_that_is_not_there(tiny_sd):
    with pytest.raises(GenerationError, match='sees no CUDA device'):
        DiffusionBackend(str(tiny_sd), device='cuda')


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_half_precision_on_cuda(tiny_sd):
    backend = DiffusionBackend(str(tiny_sd), size=32, steps=2)
    assert backend.recipe()['dtype'] == 'float16'
    first, again = (backend.generate(requests(0))[0].image for _ in 'ab')
    assert np.array_equal(first, again)


def test_out_of_memory_is_explained(backend, monkeypatch):
    def fail(**_):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(backend, 'pipe', fail)
    with pytest.raises(GenerationError, match='--batch-size 3'):
        backend.generate(requests(0))


def bank(root, tiny_sd, prompt_file, num, **options):
    options = {**SMALL, 'batch_size': 2, **options}
    return generate_images(
        root, prompts=prompt_file, num=num, backend='diffusers',
        model=str(tiny_sd), contact_sheet=False, **options,
    )  # fmt: skip


def test_growing_mending_and_sharding_give_the_same_files(
    tmp_path, tiny_sd, prompt_file
):
    summary = bank(tmp_path / 'whole', tiny_sd, prompt_file, 5)
    assert summary.created == 5 and summary.complete
    expected = tree(tmp_path / 'whole')
    entry = read_entries(tmp_path / 'whole')[4]
    assert entry['prompt'] == 'night rain on a street with a bus'
    assert entry['seed'] == 4 and entry['model'] == 'tiny-sd'
    assert (entry['width'], entry['height']) == (32, 32)
    # Grown from an odd number, so that a batch is begun, cut and continued.
    grown = tmp_path / 'grown'
    bank(grown, tiny_sd, prompt_file, 3)
    assert bank(grown, tiny_sd, prompt_file, 5).created == 2
    assert tree(grown) == expected
    (grown / 'images/000001.png').unlink()
    again = bank(grown, tiny_sd, prompt_file, 5)
    assert (again.created, again.existing) == (1, 4)
    assert tree(grown) == expected
    # By two processes, the second of them first.
    shared = tmp_path / 'shared'
    late = bank(shared, tiny_sd, prompt_file, 5, shard=Shard(1, 2))
    assert late.created == 2 and not late.complete
    assert bank(shared, tiny_sd, prompt_file, 5, shard=Shard(0, 2)).complete
    assert tree(shared) == expected


def test_another_model_of_the_same_name_is_refused(
    tmp_path, tiny_sd, prompt_file
):
    root = tmp_path / 'bank'
    bank(root, tiny_sd, prompt_file, 1)
    other = tmp_path / 'tiny-sd'
    build_pipeline(seed=1).save_pretrained(other)
    with pytest.raises(GenerationError, match='fingerprint .* have changed'):
        bank(root, other, prompt_file, 1)
    with pytest.raises(
        GenerationError, match='steps: the image bank has 2, now 3'
    ):
        bank(root, tiny_sd, prompt_file, 1, steps=3)
    prompt_file.write_text('a wide road in fog\nanother\n')
    with pytest.raises(GenerationError, match='prompt 2 is "night rain'):
        bank(root, tiny_sd, prompt_file, 1)


def test_truncation_is_logged_with_the_line(
    tmp_path, tiny_sd, prompt_file, monkeypatch
):
    from clouds_mmseg.generate import run as module

    logged = []
    monkeypatch.setattr(
        module, 'print_log', lambda text, **_: logged.append(text)
    )
    prompt_file.write_text('a road\n\n' + 'very ' * 40 + 'long road\n')
    bank(tmp_path / 'bank', tiny_sd, prompt_file, 1)
    (message,) = [text for text in logged if 'cuts' in text]
    assert 'line 3 has' in message and 'line 1' not in message


def test_restyled_images_name_their_source(
    tmp_path, tiny_sd, prompt_file, source_images
):
    root = tmp_path / 'bank'
    bank(root, tiny_sd, prompt_file, 6, mode='img2img', size=16,
         source=source_images)  # fmt: skip
    entries = read_entries(root)
    assert entries[1]['source'] == 'part0/2.png'
    assert entries[5]['source'] == entries[0]['source']
    assert len(entries[0]['source_sha256']) == 64
    made = read_bank(root)
    assert made['info']['source_root'] == str(source_images)
    assert made['recipe']['sources'] == 5


@pytest.mark.parametrize(
    ('spoil', 'reason'), [('safety', 'safety checker'), ('nan', 'nan')]
)
def test_a_model_that_makes_nothing_but_blanks(
    tmp_path, prompt_file, spoil, reason
):
    folder = tmp_path / 'model'
    pipe = build_pipeline(safety=spoil == 'safety')
    if spoil == 'nan':
        pipe.vae.decoder.conv_out.bias.data.fill_(float('nan'))
    pipe.save_pretrained(folder)
    with pytest.raises(GenerationError) as caught:
        bank(tmp_path / 'bank', folder, prompt_file, 2, steps=1)
    message = str(caught.value)
    assert f'({reason}) with {MAX_ATTEMPTS} seeds' in message
    assert "line 1: 'a wide road in fog'" in message
    assert ('--dtype' in message) == (reason == 'nan')
    assert not read_entries(tmp_path / 'bank')


def test_a_model_that_euler_does_not_fit_keeps_its_own_scheduler(tiny_sd):
    from diffusers import FlowMatchEulerDiscreteScheduler

    from clouds_mmseg.generate.pipeline_parts import set_scheduler

    pipe = build_pipeline()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    name = 'FlowMatchEulerDiscreteScheduler'
    assert set_scheduler(pipe, 'auto', 'm') == name
    assert type(pipe.scheduler).__name__ == name
