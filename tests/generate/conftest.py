"""Tiny random models, saved and loaded as real ones are, and small images."""

import numpy as np
import pytest
import torch
from generate_helpers import (
    build_controlnet,
    build_editor,
    build_pipeline,
)
from PIL import Image

from clouds_mmseg.generate.image_bank import Shard


@pytest.fixture(scope='session')
def tiny_sd(tmp_path_factory):
    """Folder of a Stable Diffusion pipeline."""
    folder = tmp_path_factory.mktemp('models') / 'tiny-sd'
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def tiny_editor(tmp_path_factory):
    """Folder of an InstructPix2Pix pipeline."""
    folder = tmp_path_factory.mktemp('models') / 'tiny-editor'
    build_editor().save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def tiny_controlnet(tmp_path_factory):
    """Folder of a ControlNet for ``tiny_sd``."""
    folder = tmp_path_factory.mktemp('models') / 'tiny-controlnet'
    build_controlnet(build_pipeline().unet).save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def label_maps(tmp_path_factory, source_images):
    """Folder of a label map of train ids for each of the source images."""
    root = tmp_path_factory.mktemp('labels')
    for number, path in enumerate(sorted(source_images.rglob('*.png'))):
        with Image.open(path) as image:
            width, height = image.size
        label = np.full((height, width), 2, np.uint8)
        label[height // 2 :] = 0
        label[: height // 2, : width // 2] = 10
        label[-8:, :8] = 13 if number % 2 else 255
        out = root / path.relative_to(source_images)
        out.parent.mkdir(exist_ok=True)
        Image.fromarray(label).save(out)
    return root


WORDS = (
    'a street with cars trees people houses fog rain snow night bright '
    'buses riders poles signs walls wide old city road sky under over'
).split()


@pytest.fixture(scope='session')
def tiny_lm(tmp_path_factory):
    """Function ``(chat) -> folder`` of a Llama with 30 words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    root = tmp_path_factory.mktemp('models')

    def make(chat=True, positions=2048):
        folder = root / f'tiny-lm-{chat}-{positions}'
        if folder.exists():
            return folder
        tokens = ['<unk>', '<eos>', '\n', *WORDS]
        core = Tokenizer(
            models.WordLevel(
                {token: i for i, token in enumerate(tokens)}, unk_token='<unk>'
            )
        )
        core.pre_tokenizer = pre_tokenizers.Split(Regex(' '), 'removed')
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core, unk_token='<unk>', eos_token='<eos>'
        )
        if chat:
            tokenizer.chat_template = (
                '{% for m in messages %}user : {{ m.content }} {% endfor %}'
                'answer :'
            )
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=positions,
            bos_token_id=None,
            eos_token_id=1,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def prompt_file(tmp_path):
    """A file of three prompts."""
    path = tmp_path / 'prompts.txt'
    path.write_text(
        'a wide road in fog\n'
        'night rain on a street with a bus\n'
        'a snowy winter road under an overcast sky\n'
    )
    return path


@pytest.fixture(scope='session')
def source_images(tmp_path_factory):
    """Folder of five smooth random images in two sizes."""
    root = tmp_path_factory.mktemp('source') / 'images'
    rng = np.random.default_rng(0)
    for number in range(5):
        size = (48, 32) if number < 3 else (64, 32)
        coarse = rng.integers(0, 256, (4, 6, 3), np.uint8)
        path = root / f'part{number % 2}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(size, Image.BICUBIC).save(path)
    return root


@pytest.fixture
def alone():
    """The share of a process that is alone."""
    return Shard()


@pytest.fixture
def one_process(monkeypatch):
    """An environment without a launcher."""
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK'):
        monkeypatch.delenv(name, raising=False)
