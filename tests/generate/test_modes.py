"""What a pipeline can do, and every mode with real classes of diffusers."""

import importlib.util
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from generate_helpers import (
    build_controlnet,
    build_klein,
    build_pipeline,
    save_depth_model,
    tree,
)
from PIL import Image
from safetensors.torch import save_file

from clouds_mmseg.generate import image_bank
from clouds_mmseg.generate.backends import blank_reason, request_for
from clouds_mmseg.generate.conditions import find_labels
from clouds_mmseg.generate.diffusion import DiffusionBackend
from clouds_mmseg.generate.model_files import (
    check_memory,
    pick_dtype,
    unreachable,
    weights_in,
)
from clouds_mmseg.generate.pipelines import class_for_mode
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import read_bank, read_entries

pytestmark = pytest.mark.usefixtures('one_process')
SMALL = dict(size=16, steps=1, device='cpu')


@pytest.mark.parametrize(
    ('name', 'mode', 'kind'),
    [
        ('StableDiffusionPipeline', 'txt2img', 'StableDiffusionPipeline'),
        ('StableDiffusionXLPipeline', 'img2img',
         'StableDiffusionXLImg2ImgPipeline'),
        ('StableDiffusion3Pipeline', 'img2img',
         'StableDiffusion3Img2ImgPipeline'),
        ('ZImagePipeline', 'img2img', 'ZImageImg2ImgPipeline'),
        ('SanaSprintPipeline', 'txt2img', 'SanaSprintPipeline'),
        ('SanaSprintPipeline', 'img2img', 'SanaSprintImg2ImgPipeline'),
        ('Flux2KleinPipeline', 'txt2img', 'Flux2KleinPipeline'),
        ('Flux2KleinPipeline', 'edit', 'Flux2KleinPipeline'),
        ('FluxKontextPipeline', 'edit', 'FluxKontextPipeline'),
        ('QwenImageEditPlusPipeline', 'edit', 'QwenImageEditPlusPipeline'),
        ('StableDiffusionInstructPix2PixPipeline', 'edit',
         'StableDiffusionInstructPix2PixPipeline'),
        ('StableDiffusionPipeline', 'label2img',
         'StableDiffusionControlNetPipeline'),
        ('StableDiffusionXLPipeline', 'label2img',
         'StableDiffusionXLControlNetPipeline'),
        ('StableDiffusion3Pipeline', 'label2img',
         'StableDiffusion3ControlNetPipeline'),
        ('FluxPipeline', 'label2img', 'FluxControlNetPipeline'),
        ('QwenImagePipeline', 'label2img', 'QwenImageControlNetPipeline'),
        ('SanaPipeline', 'label2img', 'SanaControlNetPipeline'),
    ],
)  # fmt: skip
def test_the_class_of_a_mode(name, mode, kind):
    found = class_for_mode(name, mode, mode == 'label2img')
    assert found.__name__ == kind


def test_modes_that_a_pipeline_cannot_do():
    for name, mode, does in (
        ('StableDiffusionPipeline', 'edit', 'txt2img and img2img'),
        ('FluxKontextPipeline', 'img2img', 'txt2img and edit'),
        ('QwenImageEditPlusPipeline', 'txt2img', 'edit'),
        ('StableDiffusionInstructPix2PixPipeline', 'txt2img', 'edit'),
        ('StableDiffusionUpscalePipeline', 'img2img', ''),
    ):
        with pytest.raises(GenerationError, match=f'{name} cannot do') as e:
            class_for_mode(name, mode)
        assert does in str(e.value)
    with pytest.raises(GenerationError, match='label2img without --contr'):
        class_for_mode('FluxPipeline', 'label2img')
    with pytest.raises(GenerationError, match='no pipeline of it with a Con'):
        class_for_mode('KandinskyPipeline', 'label2img', True)
    # The layout is followed by weights of its own.
    kind = class_for_mode('FluxControlPipeline', 'label2img')
    assert kind.__name__ == 'FluxControlPipeline'
    with pytest.raises(GenerationError, match="no pipeline 'NoSuch'"):
        class_for_mode('NoSuch', 'txt2img')


PROMPTS = [(1, 'a street with cars in fog'), (2, 'rain at night')]


def request(source, label=None, index=0):
    return request_for(
        index, PROMPTS, seed=0, sources=[(source.name, str(source))],
        labels={source.name: str(label)} if label else None,
    )  # fmt: skip


@pytest.fixture(scope='session')
def one_source(source_images):
    return source_images / 'part0/0.png'


def test_an_instruction_edits_an_image(tiny_editor, one_source):
    backend = DiffusionBackend(
        str(tiny_editor), mode='edit', steps=2, size=16, device='cpu',
        image_guidance=1.2,
    )  # fmt: skip
    recipe = backend.recipe()
    # Those of its class, which differ from Stable Diffusion's.
    assert recipe['guidance'] == 7.5 and recipe['image_guidance'] == 1.2
    (image,) = backend.generate([request(one_source)])
    assert image.image.shape == (32, 48, 3)
    assert blank_reason(image.image) is None
    (other,) = backend.generate([request(one_source, index=1)])
    assert not np.array_equal(image.image, other.image)
    default = DiffusionBackend(
        str(tiny_editor), mode='edit', size=16, device='cpu'
    ).recipe()
    assert default['steps'] == 100 and default['image_guidance'] == 1.5


@pytest.fixture(scope='session')
def tiny_klein(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models') / 'tiny-klein'
    build_klein().save_pretrained(folder)
    return folder


def test_one_model_makes_and_edits_images(tiny_klein, one_source):
    options = dict(steps=1, device='cpu')
    maker = DiffusionBackend(str(tiny_klein), size=64, batch_size=2, **options)
    requests = [request_for(i, PROMPTS, seed=0) for i in range(2)]
    made = maker.generate(requests)
    assert [one.image.shape for one in made] == [(64, 64, 3)] * 2
    assert not np.array_equal(made[0].image, made[1].image)
    assert maker.recipe()['scheduler'] == 'FlowMatchEulerDiscreteScheduler'
    # Its tokenizer has no limit; that of the call holds.
    (cut,) = maker.check_prompts([(7, 'cars ' * 600), (8, 'cars')])
    assert cut.startswith('line 7 has 600 tokens') and 'reads 512' in cut
    editor = DiffusionBackend(str(tiny_klein), mode='edit', size=64, **options)
    (edited,) = editor.generate([request(one_source)])
    assert edited.image.shape == (32, 48, 3)
    assert blank_reason(edited.image) is None
    with pytest.raises(GenerationError, match='--batch-size 2: in --mode ed'):
        DiffusionBackend(str(tiny_klein), mode='edit', batch_size=2)
    with pytest.raises(GenerationError, match='takes none'):
        DiffusionBackend(str(tiny_klein), negative_prompt='blurry', **options)


def test_labels_make_images_and_stay(
    tiny_sd, tiny_controlnet, label_maps, one_source
):
    labels = find_labels(label_maps)
    options = dict(
        mode='label2img', sources=labels, size=16, steps=2, device='cpu',
        controlnet=str(tiny_controlnet), palette='cityscapes',
    )  # fmt: skip
    backend = DiffusionBackend(str(tiny_sd), ignore_border=2, **options)
    path = label_maps / 'part0/0.png'
    one = request(path, path)
    (image,) = backend.generate([one])
    with Image.open(path) as file:
        label = np.array(file)
    assert image.image.shape == (*label.shape, 3)
    kept = image.training_label != 255
    assert np.array_equal(image.training_label[kept], label[kept])
    # Two pixels on each side of the borders.
    assert (image.training_label[13:15, 30] == (2, 255)).all()
    assert (image.training_label[17:19, 30] == (255, 0)).all()
    recipe = backend.recipe()
    assert recipe['colours']['road'] == [128, 64, 128]
    assert recipe['controlnet'] == 'tiny-controlnet'
    assert recipe['control_scale'] == 1.0 and recipe['ignore_border'] == 2
    # The image follows the map: another map, another image.
    other = label_maps / 'part1/1.png'
    plain = DiffusionBackend(str(tiny_sd), **options)
    (same,) = plain.generate([one])
    assert np.array_equal(same.image, image.image)
    assert np.array_equal(same.training_label, label)
    weak = DiffusionBackend(str(tiny_sd), control_scale=0.0, **options)
    (free,) = weak.generate([one])
    assert not np.array_equal(free.image, image.image)
    (another,) = plain.generate([request(other, other)])
    assert another.training_label[-1, 0] == 13


@pytest.mark.parametrize('control', ['edges', 'depth'])
def test_images_follow_edges_and_depth_of_the_source(
    control, tiny_sd, tiny_controlnet, label_maps, source_images, tmp_path
):
    images = [
        (f'part0/{n}.png', str(source_images / f'part0/{n}.png'))
        for n in (0, 2)
    ]
    more = {}
    if control == 'depth':
        save_depth_model(tmp_path / 'dpt')
        more['depth_model'] = str(tmp_path / 'dpt')
    backend = DiffusionBackend(
        str(tiny_sd), mode='label2img', control=control,
        sources=find_labels(label_maps, images),
        controlnet=str(tiny_controlnet), **SMALL, **more,
    )  # fmt: skip
    labels = {name: str(label_maps / name) for name, _ in images}
    first, second = (
        backend.generate(
            [request_for(0, PROMPTS, seed=0, sources=[pair], labels=labels)]
        )[0]
        for pair in images
    )
    assert not np.array_equal(first.image, second.image)
    assert first.training_label.shape == (32, 48)
    drawn = backend.conditioning.draw(
        None, Image.open(images[0][1]).convert('RGB'), (48, 32)
    )
    assert np.ptp(np.asarray(drawn)) > 100
    assert ('depth_fingerprint' in backend.recipe()) == (control == 'depth')
    assert 'palette' not in backend.recipe()


def make_bank(root, mode, models, num=3):
    """Three images in one of the modes."""
    backend, options = models[mode]
    if backend == 'diffusers':
        options = dict(SMALL, mode=mode, **options)
    return generate_images(
        root, num=num, backend=backend, contact_sheet=False, **options
    )


@pytest.fixture
def models(
    tiny_sd, tiny_editor, tiny_controlnet, source_images, label_maps,
    prompt_file,
):  # fmt: skip
    given = dict(prompts=prompt_file)
    sd = dict(given, model=str(tiny_sd))
    restyle = dict(mode='img2img', source=source_images)
    return {
        'txt2img': ('diffusers', sd),
        'img2img': (
            'diffusers', dict(sd, source=source_images, strength=1.0)
        ),
        'edit': (
            'diffusers',
            dict(given, model=str(tiny_editor), source=source_images),
        ),
        'label2img': (
            'diffusers',
            dict(
                sd, labels=label_maps, controlnet=str(tiny_controlnet),
                unknown_classes='ignore',
            ),
        ),
        'photometric': ('photometric', restyle),
        'toycity': ('toycity', dict(given, size=(32, 32))),
        'toycity, restyled': ('toycity', dict(given, **restyle)),
    }  # fmt: skip


def die_at_the_second_image(root, mode, models):
    append, calls = image_bank.ShardFile.append, []

    def killed(self, entry):
        calls.append(1)
        # Its files are there, its entry is not.
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, entry)

    image_bank.ShardFile.append = killed
    make_bank(root, mode, models)


@pytest.mark.parametrize(
    'mode',
    [
        'txt2img', 'img2img', 'edit', 'label2img', 'photometric', 'toycity',
        'toycity, restyled',
    ],
)  # fmt: skip
def test_a_killed_run_continues_exactly(mode, models, tmp_path):
    assert make_bank(tmp_path / 'whole', mode, models).complete
    context = multiprocessing.get_context('fork')
    child = context.Process(
        target=die_at_the_second_image,
        args=(tmp_path / 'killed', mode, models),
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert set(read_entries(tmp_path / 'killed')) == {0}
    rest = make_bank(tmp_path / 'killed', mode, models)
    assert (rest.created, rest.existing) == (2, 1)
    assert tree(tmp_path / 'killed') == tree(tmp_path / 'whole')


def test_the_manifest_of_images_from_labels(models, tmp_path, label_maps):
    root = tmp_path / 'bank'
    make_bank(root, 'label2img', models, num=5)
    entries = read_entries(root)
    assert entries[0]['source'] == 'part0/0.png'
    assert entries[0]['label'] == 'labels/000000.png'
    assert entries[0]['mode'] == 'label2img'
    with Image.open(root / 'labels/000000.png') as file:
        saved = np.array(file)
    with Image.open(label_maps / 'part0/0.png') as file:
        assert np.array_equal(saved, np.array(file))
    bank = read_bank(root)
    assert bank['info']['source_root'] == str(label_maps)
    assert 'person and rider have one colour' in bank['info']['note']
    assert bank['recipe']['palette'] == 'ade20k'
    assert 'train' not in bank['recipe']['colours']
    # A damaged label is made again.
    (root / 'labels/000003.png').write_bytes(b'x')
    (root / 'labels/000004.png').unlink()
    backend, options = models['label2img']
    models['label2img'] = backend, dict(options, verify=True)
    again = make_bank(root, 'label2img', models, num=5)
    assert (again.created, again.existing) == (2, 3)
    models['label2img'] = backend, dict(options, ignore_border=1)
    with pytest.raises(GenerationError, match='ignore_border: the image bank'):
        make_bank(root, 'label2img', models, num=5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mode='txt2img', strength=0.5),
         '--strength 0.5 belongs to --mode img2img, got --mode txt2img'),
        (dict(mode='img2img', image_guidance=1.0), 'belongs to --mode edit'),
        (dict(mode='txt2img', controlnet='x'), 'belongs to --mode label2img'),
        (dict(mode='txt2img', ignore_border=2), '--ignore-border 2 belongs'),
        (dict(mode='img2img', palette='ade20k'), '--palette ade20k belongs'),
        (dict(lora_scale=0.5), '--lora-scale 0.5 belongs to --lora'),
        (dict(lora='no.bin'), 'must be an existing .safetensors'),
        (dict(offload='disk'), '--offload must be none, model, sequential'),
        (dict(offload='model'), 'needs a CUDA device, got cpu'),
        (dict(mode='edit'), 'StableDiffusionPipeline cannot do --mode edit: '
         'it does txt2img and img2img'),
        (dict(mode='label2img'), 'needs label maps'),
    ],
)  # fmt: skip
def test_options_of_another_mode(tiny_sd, options, message):
    with pytest.raises(GenerationError, match=message):
        DiffusionBackend(str(tiny_sd), **{**SMALL, **options})


def test_sources_that_a_mode_does_not_take(tmp_path, prompt_file, label_maps):
    def run(**options):
        generate_images(
            tmp_path / 'bank', prompts=prompt_file, num=1,
            backend='diffusers', model='x', **options,
        )  # fmt: skip

    with pytest.raises(GenerationError, match='belongs to --mode img2img and'):
        run(mode='edit')
    with pytest.raises(GenerationError, match='--source, the folder'):
        run(source=label_maps)
    with pytest.raises(GenerationError, match='belong to --mode label2img'):
        run(mode='img2img', source=label_maps, labels=label_maps)
    with pytest.raises(GenerationError, match='belong to --mode label2img'):
        run(mode='label2img')
    with pytest.raises(GenerationError, match='--label-end .png belongs to'):
        run(label_end='.png')


def test_a_controlnet_for_another_model(
    tiny_sd, tiny_controlnet, label_maps, tmp_path
):
    def build(folder):
        return DiffusionBackend(
            str(tiny_sd), mode='label2img', sources=find_labels(label_maps),
            controlnet=str(folder), palette='cityscapes', **SMALL,
        )  # fmt: skip

    unet = build_pipeline().unet
    wide = type(unet)(**{**unet.config, 'cross_attention_dim': 24})
    build_controlnet(wide).save_pretrained(tmp_path / 'wide')
    with pytest.raises(
        GenerationError,
        match='trained for another base model than --model tiny-sd: its '
        'cross_attention_dim is 24, the model has 16',
    ):
        build(tmp_path / 'wide')
    unet.save_pretrained(tmp_path / 'unet')
    with pytest.raises(GenerationError, match='that of .UNet2DConditionMod'):
        build(tmp_path / 'unet')
    with pytest.raises(GenerationError, match='--controlnet .* without confi'):
        build(tiny_sd)
    with pytest.raises(GenerationError, match='--controlnet owner/none: conf'):
        build('owner/none')
    with pytest.raises(GenerationError, match='cannot do --mode label2img'):
        DiffusionBackend(
            str(tiny_sd), mode='label2img', sources=find_labels(label_maps),
            palette='cityscapes', **SMALL,
        )  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec('peft') is None, reason='needs peft'
)
def test_a_lora_changes_the_images(tiny_sd, tmp_path):
    module = 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q'
    layer = build_pipeline().unet.get_submodule(module)
    generator = torch.Generator().manual_seed(0)

    def weights(inputs=layer.in_features, prefix='unet'):
        return {
            f'{prefix}.{module}.lora_A.weight': torch.randn(
                2, inputs, generator=generator
            ),
            f'{prefix}.{module}.lora_B.weight': torch.randn(
                layer.out_features, 2, generator=generator
            ),
        }

    path = tmp_path / 'style.safetensors'
    save_file(weights(), path)

    def image(**options):
        backend = DiffusionBackend(str(tiny_sd), **SMALL, **options)
        made = backend.generate([request_for(0, PROMPTS, seed=0)])
        return backend.recipe(), made[0].image

    recipe, styled = image(lora=str(path))
    assert recipe['lora_scale'] == 1.0 and len(recipe['lora']) == 16
    plain = image()[1]
    assert not np.array_equal(styled, plain)
    assert np.array_equal(image(lora=str(path), lora_scale=0.0)[1], plain)
    for wrong in (weights(inputs=layer.in_features + 1), weights(prefix='x')):
        save_file(wrong, path)
        with pytest.raises(GenerationError, match='does not fit tiny-sd'):
            image(lora=str(path))


def test_less_memory_than_the_weights(tiny_sd, monkeypatch):
    monkeypatch.setattr(
        'clouds_mmseg.generate.pipelines.free_memory', lambda device: 1 << 17
    )
    with pytest.raises(GenerationError, match='GiB for the weights alone in '
                       'float32, and this machine has 0.00 GiB'):  # fmt: skip
        DiffusionBackend(str(tiny_sd), **SMALL)
    with pytest.raises(
        GenerationError,
        match='12.00 GiB for the largest part in float16, and cuda:0 has 8.00 '
        '.*sequential',
    ):
        check_memory(
            'm', 12 << 30, torch.float16, torch.device('cuda:0'), 8 << 30,
            offload='model',
        )  # fmt: skip
    check_memory('m', 1 << 50, torch.float32, None, None)


def test_the_type_of_stored_weights(tmp_path):
    save_file(
        {'a': torch.zeros(3, 5, dtype=torch.bfloat16), 'b': torch.zeros(2)},
        tmp_path / 'w.safetensors',
    )
    (tmp_path / 'damaged.safetensors').write_bytes(b'\xff' * 20)
    found = weights_in(tmp_path.glob('*.safetensors'))
    assert found.numbers == 17 and found.dtype is torch.bfloat16
    cuda, cpu = torch.device('cuda'), torch.device('cpu')
    assert pick_dtype('auto', cuda, found.dtype) is torch.bfloat16
    assert pick_dtype('auto', cuda) is torch.float16
    assert pick_dtype('auto', cpu, found.dtype) is torch.float32


def test_gated_weights_say_how_to_ask_for_them(monkeypatch):
    from huggingface_hub.errors import GatedRepoError

    class Response:
        headers: dict = {}
        request = None

    monkeypatch.delenv('HF_HUB_OFFLINE')
    error = GatedRepoError('403: access is restricted', response=Response())
    text = str(
        unreachable(
            'black-forest-labs/FLUX.2-dev', 'model_index.json', error,
            option='--model',
        )
    )  # fmt: skip
    assert 'ask for access at https://huggingface.co/black-forest' in text
    assert 'hf auth login' in text and '403' in text


def test_one_file_with_a_controlnet(
    tiny_sd, tiny_controlnet, label_maps, tmp_path
):
    from generate_helpers import original_weights

    path = tmp_path / 'tiny.safetensors'
    save_file(original_weights(build_pipeline()), path)
    options = dict(
        mode='label2img', sources=find_labels(label_maps),
        controlnet=str(tiny_controlnet), palette='cityscapes', **SMALL,
    )  # fmt: skip
    label = label_maps / 'part0/0.png'
    (whole,) = DiffusionBackend(str(tiny_sd), **options).generate(
        [request(label, label)]
    )
    (single,) = DiffusionBackend(
        str(path), single_file_config=str(tiny_sd), **options
    ).generate([request(label, label)])
    assert np.array_equal(whole.image, single.image)


def test_an_edited_image_of_another_shape_is_refused(
    tiny_editor, one_source, monkeypatch
):
    backend = DiffusionBackend(str(tiny_editor), mode='edit', **SMALL)

    class Output:
        images = np.zeros((1, 16, 16, 3))

    monkeypatch.setattr(backend, 'pipe', lambda **_: Output)
    with pytest.raises(GenerationError, match='came out 16x16, asked for'):
        backend.generate([request(one_source)])
