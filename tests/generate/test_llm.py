import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clouds_mmseg.generate.llm import (
    INSTRUCTION,
    PromptWriter,
    instruction_for,
    parse_answer,
)
from clouds_mmseg.generate.prompts import normalise
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import GenerationError, UserError


@pytest.fixture(scope='module')
def writer(tiny_lm):
    return PromptWriter(str(tiny_lm()), max_new_tokens=150, per_call=5)


def test_a_real_model_writes_seeded_prompts(writer):
    state = torch.get_rng_state()
    first = writer.write(6, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert writer.write(6, seed=3) == first
    assert writer.write(6, seed=4).prompts != first.prompts
    assert len({normalise(p) for p in first.prompts}) == 6
    assert first.how['chat_template'] and first.how['seed'] == 3
    assert first.how['instruction'] == INSTRUCTION
    assert len(first.how['fingerprint']) == 16


def test_the_chat_template_is_used(writer):
    text = writer.tokenizer.apply_chat_template(
        [dict(role='user', content='a road')], tokenize=False,
        add_generation_prompt=True,
    )  # fmt: skip
    assert text == 'user : a road answer :'
    ids = writer._encode('a road')['input_ids'][0]
    assert len(ids) == len(text.split(' '))


def test_without_chat_template_the_text_is_plain(tiny_lm, caplog):
    writer = PromptWriter(str(tiny_lm(chat=False)), max_new_tokens=150)
    assert not writer.chat
    assert writer.write(2).how['chat_template'] is False


def test_every_class_is_asked_for_in_five_calls():
    for seed in (0, 7):
        asked = ' '.join(
            instruction_for(call, seed=seed, count=10).split('above all: ')[1]
            for call in range(5)
        )
        assert all(name in asked for name in CLASSES)
    text = instruction_for(0, seed=0, count=7)
    assert 'Write 7 prompts' in text and '{' not in text


@pytest.mark.parametrize(
    ('answer', 'prompts', 'rejected'),
    [
        ('Here are some prompts for your images:\n\n1. A road in the fog '
         'at dawn\n2) "A wet street with two buses"\n',
         ['A road in the fog at dawn', 'A wet street with two buses'], 1),
        ('- *A tram in a narrow street*\n\u2022 Cars\n',
         ['A tram in a narrow street'], 1),
        ('word ' * 61, [], 1),
        ('', [], 0),
        ('50 cars wait at a light', ['50 cars wait at a light'], 0),
    ],
)  # fmt: skip
def test_parse_answer(answer, prompts, rejected):
    assert parse_answer(answer) == (prompts, rejected)


def test_a_model_that_writes_no_prompts_is_named(tiny_lm):
    writer = PromptWriter(str(tiny_lm()), max_new_tokens=2, per_call=10)
    with pytest.raises(GenerationError) as caught:
        writer.write(1)
    message = str(caught.value)
    assert '0 usable prompts of 1 in 15 calls' in message
    assert '--backend template' in message


def test_a_model_without_room_is_named(tiny_lm):
    writer = PromptWriter(str(tiny_lm(positions=32)))
    with pytest.raises(GenerationError, match='reads 32 tokens'):
        writer.write(1)


def test_bad_arguments(tiny_lm, tmp_path):
    model = str(tiny_lm())
    for options in (
        dict(temperature=0),
        dict(top_p=1.5),
        dict(max_new_tokens=0),
        dict(per_call=0),
        dict(dtype='float8'),
        dict(device='gpu'),
    ):
        with pytest.raises(
            GenerationError, match=next(iter(options)).replace('_', '-')
        ):
            PromptWriter(model, **options)
    with pytest.raises(GenerationError, match='without config.json'):
        PromptWriter(str(tmp_path))
    (tmp_path / 'config.json').write_text('{"model_type": "no-such"}')
    with pytest.raises(GenerationError, match='cannot be loaded'):
        PromptWriter(str(tmp_path))
    with pytest.raises(GenerationError, match='no such folder'):
        PromptWriter('./no/such/model')
    with pytest.raises(GenerationError, match='is not here'):
        PromptWriter('owner/no-such-model')
    with pytest.raises(GenerationError, match='is a file'):
        PromptWriter(str(tmp_path / 'config.json'))


def test_num_must_be_positive(writer):
    with pytest.raises(GenerationError, match='--num'):
        writer.write(0)


def test_weights_that_a_model_lacks_are_not_drawn_at_random(tiny_lm, tmp_path):
    folder = shutil.copytree(tiny_lm(), tmp_path / 'lm')
    weights = load_file(folder / 'model.safetensors')
    del weights['model.layers.0.self_attn.q_proj.weight']
    save_file(
        weights, folder / 'model.safetensors', metadata=dict(format='pt')
    )
    with pytest.raises(GenerationError, match='lack 1 weights.*q_proj'):
        PromptWriter(str(folder), device='cpu')


def test_less_memory_than_a_model_needs(tiny_lm, monkeypatch):
    monkeypatch.setattr(
        'clouds_mmseg.weights.model_folder.free_memory', lambda device: 1000
    )
    with pytest.raises(
        UserError, match=r'--model .* in float16: its weights alone take 0\.0'
    ):
        PromptWriter(str(tiny_lm()), device='cpu', dtype='float16')


def test_dense_prompts_are_asked_for_within_the_limit(tiny_lm):
    text = instruction_for(0, seed=0, count=5, kind='dense', words=55)
    assert 'at least eight' in text and '30 to 55 words each' in text
    with pytest.raises(GenerationError, match='the llm backend writes dense'):
        PromptWriter(str(tiny_lm()), device='cpu', kind='edit')


def test_prompts_are_rewritten_or_kept(tiny_lm, monkeypatch):
    writer = PromptWriter(
        str(tiny_lm()), device='cpu', kind='dense', tokens=20,
        fits=lambda text: len(text.split()) <= 9,
    )  # fmt: skip
    answers = iter(
        [
            # Forgets the tram; is too long; will do.
            'a wide and busy road in an old city',
            'a tram on a wide and busy road in an old city',
            '"a tram on a wide and busy road, rain"\nI hope it helps!',
            'no prompt:', '', 'fog',
        ]
    )  # fmt: skip
    asked = []

    def generate(instruction, seed):
        asked.append((instruction, seed))
        return next(answers)

    monkeypatch.setattr(writer, '_generate', generate)
    written = writer.rewrite(['a tram on a road', 'fog over some fields'])
    assert written.prompts == [
        'a tram on a wide and busy road, rain', 'fog over some fields',
    ]  # fmt: skip
    assert (written.calls, written.kept) == (6, 1)
    assert written.how['kept'] == 1 and 'at most 14' in asked[0][0]
    assert len({seed for _, seed in asked}) == 6


def test_rare_classes_of_the_source_are_asked_for(tiny_lm, monkeypatch):
    pixels = {'road': 10**9, 'train': 1, 'rider': 1, 'bus': 1, 'wall': 1}
    writer = PromptWriter(
        str(tiny_lm()), device='cpu', pixels=pixels, per_call=1
    )
    asked = []

    def generate(instruction, seed):
        asked.append(instruction)
        return f'a street with cars and people, number {len(asked)}'

    monkeypatch.setattr(writer, '_generate', generate)
    writer.write(40)
    named = [text.split('show above all: ')[1].split('.')[0] for text in asked]
    assert sum('train' in one for one in named) > 6
    assert sum('road' in one for one in named) < 3
