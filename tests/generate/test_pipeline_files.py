"""The files of a diffusion model, in every form that they come in."""

import shutil

import numpy as np
import pytest
import torch
from generate_helpers import build_pipeline, original_weights
from safetensors.torch import load_file, save_file

from clouds_mmseg.generate.backends import request_for
from clouds_mmseg.generate.diffusion import DiffusionBackend
from clouds_mmseg.generate.run import MAX_ATTEMPTS, generate_images
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import read_entries

pytestmark = pytest.mark.usefixtures('one_process')
SMALL = dict(size=32, steps=1, device='cpu')


def first_image(folder, **options):
    backend = DiffusionBackend(str(folder), **{**SMALL, **options})
    request = request_for(0, [(1, 'a road')], seed=0)
    return backend, backend.generate([request])[0].image


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    """A folder with weights of the variant fp16 alone."""
    folder = tmp_path_factory.mktemp('models') / 'half'
    build_pipeline().to(torch.float16).save_pretrained(folder, variant='fp16')
    assert not list(folder.rglob('*model.safetensors'))
    return folder


def test_the_only_variant_is_taken_by_itself(half):
    backend, image = first_image(half)
    assert backend.recipe()['variant'] == 'fp16'
    again, same = first_image(half, variant='fp16')
    assert again.recipe() == backend.recipe()
    assert np.array_equal(image, same)


def test_a_folder_of_which_some_parts_have_the_variant(half, tmp_path):
    build_pipeline().to(torch.float16).save_pretrained(
        tmp_path / 'm', variant='fp16'
    )
    for path in (tmp_path / 'm').glob('vae/*.fp16.*'):
        path.rename(path.with_name(path.name.replace('.fp16', '')))
    backend, image = first_image(tmp_path / 'm')
    assert backend.variant == 'fp16'
    assert np.array_equal(image, first_image(half)[1])


def test_plain_files_come_before_variants(tmp_path, tiny_sd):
    build_pipeline(seed=1).save_pretrained(tmp_path / 'm', variant='ema')
    build_pipeline().save_pretrained(tmp_path / 'm')
    plain, image = first_image(tmp_path / 'm')
    assert plain.variant is None
    assert np.array_equal(image, first_image(tiny_sd)[1])
    other, different = first_image(tmp_path / 'm', variant='ema')
    assert other.variant == 'ema'
    assert not np.array_equal(image, different)


def test_a_bank_keeps_its_variant(tmp_path, prompt_file):
    build_pipeline(seed=1).save_pretrained(tmp_path / 'm', variant='ema')
    build_pipeline().save_pretrained(tmp_path / 'm')
    options = dict(
        prompts=prompt_file, backend='diffusers', model=str(tmp_path / 'm'),
        contact_sheet=False, **SMALL,
    )  # fmt: skip
    generate_images(tmp_path / 'bank', num=1, variant='ema', **options)
    with pytest.raises(
        GenerationError, match='variant: the image bank has "ema"'
    ):
        generate_images(tmp_path / 'bank', num=2, **options)


def test_variants_that_are_not_there_are_named(half, tiny_sd, tmp_path):
    with pytest.raises(GenerationError, match='the variants there are fp16'):
        DiffusionBackend(str(half), variant='bf16', **SMALL)
    with pytest.raises(GenerationError, match='it has no variants: leave'):
        DiffusionBackend(str(tiny_sd), variant='fp16', **SMALL)
    folder = tmp_path / 'm'
    build_pipeline().save_pretrained(folder, variant='fp16')
    build_pipeline().save_pretrained(folder, variant='bf16')
    with pytest.raises(GenerationError, match=r'--variant bf16\|fp16'):
        DiffusionBackend(str(folder), **SMALL)
    for path in folder.glob('vae/*.fp16.*'):
        path.unlink()
    for path in folder.glob('unet/*.bf16.*'):
        path.unlink()
    with pytest.raises(GenerationError, match='unet: fp16; vae: bf16.*None'):
        DiffusionBackend(str(folder), **SMALL)


def test_shards_of_a_variant_are_one_variant(tmp_path, half):
    build_pipeline().to(torch.float16).save_pretrained(
        tmp_path / 'm', variant='fp16', max_shard_size='20KB'
    )
    assert len(list((tmp_path / 'm/unet').glob('*-of-*'))) > 1
    backend, image = first_image(tmp_path / 'm')
    assert backend.variant == 'fp16'
    assert np.array_equal(image, first_image(half)[1])


@pytest.mark.parametrize(
    ('part', 'name'),
    [('unet', 'diffusion_pytorch_model'), ('text_encoder', 'model')],
)
def test_weights_that_a_file_lacks_are_not_drawn_at_random(
    tmp_path, part, name
):
    folder = tmp_path / 'm'
    build_pipeline().save_pretrained(folder)
    path = folder / part / f'{name}.safetensors'
    weights = load_file(path)
    lost = sorted(weights)[-1]
    del weights[lost]
    save_file(weights, path, metadata=dict(format='pt'))
    with pytest.raises(GenerationError, match='lack weights') as error:
        DiffusionBackend(str(folder), **SMALL)
    assert lost.removeprefix('text_model.') in str(error.value)


@pytest.fixture(scope='module')
def prudish(tmp_path_factory):
    """A model whose safety checker finds every image unsafe."""
    folder = tmp_path_factory.mktemp('models') / 'prudish'
    build_pipeline(safety=True).save_pretrained(folder)
    return folder


def test_the_safety_checker_can_be_switched_off(prudish, tiny_sd):
    backend, image = first_image(prudish, safety_checker='off')
    assert backend.recipe()['safety_checker'] is False
    assert np.array_equal(image, first_image(tiny_sd)[1])
    backend, image = first_image(prudish)
    assert backend.recipe()['safety_checker'] is True
    assert not image.any()
    assert not first_image(tiny_sd)[0].checks_safety
    with pytest.raises(GenerationError, match='comes without one'):
        DiffusionBackend(str(tiny_sd), safety_checker='on', **SMALL)
    with pytest.raises(GenerationError, match='--safety-checker must be'):
        DiffusionBackend(str(tiny_sd), safety_checker='no', **SMALL)


def test_an_image_that_is_blacked_out_is_made_again(
    tmp_path, prudish, tiny_sd, prompt_file, monkeypatch
):
    def bank(name, model=prudish):
        return generate_images(
            tmp_path / name, prompts=prompt_file, num=2, backend='diffusers',
            model=str(model), contact_sheet=False, **SMALL,
        )  # fmt: skip

    with pytest.raises(GenerationError) as error:
        bank('never')
    message = str(error.value)
    assert f'(safety checker) with {MAX_ATTEMPTS} seeds' in message
    assert "line 1: 'a wide road in fog'" in message
    assert '--safety-checker off' in message
    assert not read_entries(tmp_path / 'never')
    # One that objects to the first image that it sees, and to no other.
    calls = []

    def forward(self, clip_input, images):
        calls.append(1)
        unsafe = len(calls) == 1
        return images * (not unsafe), [unsafe] * len(images)

    monkeypatch.setattr(
        'diffusers.pipelines.stable_diffusion.safety_checker.'
        'StableDiffusionSafetyChecker.forward',
        forward,
    )
    summary = bank('once')
    assert summary.complete and summary.blank == {'safety checker': 1}
    first, second = read_entries(tmp_path / 'once').values()
    assert (first['attempt'], second['attempt']) == (1, 0)
    bank('unchecked', tiny_sd)
    unchecked, same = read_entries(tmp_path / 'unchecked').values()
    assert first['sha256'] != unchecked['sha256']
    assert second['sha256'] == same['sha256']


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    """The weights of tiny_sd in one file, under their original names."""
    path = tmp_path_factory.mktemp('single') / 'tiny.safetensors'
    save_file(original_weights(build_pipeline()), path)
    return path


@pytest.mark.parametrize('suffix', ['.safetensors', '.ckpt'])
def test_a_checkpoint_in_one_file_is_the_same_model(
    single, tiny_sd, tmp_path, suffix
):
    path = single
    if suffix == '.ckpt':
        path = tmp_path / 'tiny.ckpt'
        torch.save(dict(state_dict=load_file(single)), path)
    backend, image = first_image(path, single_file_config=str(tiny_sd))
    assert np.array_equal(image, first_image(tiny_sd)[1])
    assert backend.recipe()['model'] == path.name
    # The same file elsewhere is the same model, another is not.
    moved = tmp_path / 'other.safetensors'
    weights = load_file(single)
    save_file(weights, moved)
    mark = first_image(moved, single_file_config=str(tiny_sd))[0].fingerprint
    weights['model.diffusion_model.out.2.bias'] += 1
    save_file(weights, moved)
    other = first_image(moved, single_file_config=str(tiny_sd))[0].fingerprint
    assert other != mark
    assert mark == backend.fingerprint or suffix == '.ckpt'


def test_a_checkpoint_in_one_file_restyles_too(
    single, tiny_sd, tmp_path, prompt_file, source_images
):
    summary = generate_images(
        tmp_path / 'bank', prompts=prompt_file, num=1, backend='diffusers',
        model=str(single), single_file_config=str(tiny_sd), mode='img2img',
        source=source_images, size=16, steps=2, device='cpu',
        contact_sheet=False,
    )  # fmt: skip
    assert summary.created == 1


def test_what_one_file_needs_beside_it_is_named(
    single, tiny_sd, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        'huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub')
    )
    monkeypatch.delenv('CLOUDS_PRETRAINED_DIR', raising=False)
    with pytest.raises(GenerationError) as error:
        DiffusionBackend(str(single), **SMALL)
    message = str(error.value)
    assert 'neither configs nor a tokenizer' in message
    assert '--single-file-config' in message
    assert 'hf download stable-diffusion-v1-5/' in message
    # Where it is in the pretrained folder, nothing need be said.
    name = 'stable-diffusion-v1-5/stable-diffusion-v1-5'
    shutil.copytree(tiny_sd, tmp_path / 'weights' / name)
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path / 'weights'))
    assert np.array_equal(first_image(single)[1], first_image(tiny_sd)[1])


def test_one_file_that_will_not_do(single, tiny_sd, tmp_path):
    config = dict(single_file_config=str(tiny_sd))
    weights = load_file(single)
    lost = [k for k in weights if k.endswith('final_layer_norm.bias')]
    del weights[lost[0]]
    save_file(weights, tmp_path / 'short.safetensors')
    with pytest.raises(GenerationError, match='final_layer_norm.bias'):
        DiffusionBackend(
            str(tmp_path / 'short.safetensors'), **config, **SMALL
        )

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    torch.save(dict(state_dict=Evil()), tmp_path / 'evil.ckpt')
    for options in (config, {}):
        with pytest.raises(GenerationError, match='evil.ckpt'):
            DiffusionBackend(str(tmp_path / 'evil.ckpt'), **options, **SMALL)
    assert not (tmp_path / 'ran').exists()
    with pytest.raises(GenerationError, match='do not belong to it'):
        DiffusionBackend(str(single), variant='fp16', **config, **SMALL)
    with pytest.raises(GenerationError, match='belongs to a --model that is'):
        DiffusionBackend(str(tiny_sd), **config, **SMALL)
    with pytest.raises(GenerationError, match='--single-file-config /no/'):
        DiffusionBackend(str(single), single_file_config='/no/x', **SMALL)
