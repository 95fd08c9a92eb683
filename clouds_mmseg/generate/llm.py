"""Prompt generation with a language model."""

import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata

import torch
from mmengine.logging import print_log

from clouds_mmseg.generate.dense_prompts import ClassDeck, naming_shares
from clouds_mmseg.generate.model_files import (
    fingerprint,
    local_folder,
    pick_device,
    pick_dtype,
    reach_hub,
    unreachable,
)
from clouds_mmseg.generate.prompts import (
    LOCATIONS,
    SEASONS,
    TIMES,
    WEATHERS,
    UniquePrompts,
    classes_in,
    normalise,
)
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import GenerationError, UserError
from clouds_mmseg.weights.model_folder import check_memory

_MIN_WORDS, _MAX_WORDS = 5, 60
# `1.`, `2)`, `-`, `*` before list items, and quotes around them.
_BULLET = re.compile(r'^\s*(?:[-*\u2022]+|\(?\d+[.):])\s+')
_QUOTES = '"\'\u201c\u201d\u2018\u2019`*'

INSTRUCTION = """\
You write prompts for a text-to-image model. The images train a program that \
finds road, sidewalk, building, wall, fence, pole, traffic light, traffic \
sign, vegetation, terrain, sky, person, rider, car, truck, bus, train, \
motorcycle and bicycle in photographs taken from a car.

Write {count} prompts. Each describes one photograph through the windscreen \
of a car that drives on a public road. Vary the scenes: place, traffic, \
buildings, light. Name the things that are seen, so that the image shows \
them clearly.
In this list show above all: {classes}.
Set the scenes in or near: {place}. Season: {season}. Time of day: {time}. \
Weather: {weather}.

Rules: one prompt a line; 15 to 45 words each; plain English; no numbering, \
no quotes, no headings, no remarks before or after the list."""

# In place of the second paragraph and the rules: dense scenes.
DENSE_INSTRUCTION = INSTRUCTION.replace(
    'Name the things that are seen, so that the image shows them clearly.',
    'Name at least eight of the things above in each prompt, and for each '
    'where it is (left, right, ahead, near, far) and what it is made of. End '
    'with light, weather and lens.',
).replace('15 to 45 words each', '30 to {words} words each')

REWRITING = """\
You write prompts for a text-to-image model. Rewrite the prompt below into \
one longer prompt for one photograph taken from a car. Keep everything that \
it names and where it is. Add what such a photograph shows as well: road, \
sidewalk, buildings, walls, fences, poles, traffic lights, traffic signs, \
trees, grass, sky, people, vehicles, with their positions and materials; and \
the light, the weather and the lens.

Rules: one line of at most {words} words; plain English; no numbering, no \
quotes, no headings, no remarks.

Prompt: {prompt}"""
# Classes that a call asks for.
_ASKED = 4
# Attempts at one prompt before it is kept as it was.
_REWRITES = 3
# Words per token of CLIP's tokenizer, roughly.
_WORDS_PER_TOKEN = 0.72
KINDS = ('dense', 'short')


def instruction_for(
    call: int,
    *,
    seed: int,
    count: int,
    kind: str = 'short',
    words: int = 60,
    classes: Sequence[str] | None = None,
) -> str:
    """Return the instruction of one call of the model.

    Args:
        call: Number of the call, from 0. Classes and scenes of a call depend
            on it and the seed alone; five consecutive calls request every
            class.
        seed: Of the random numbers.
        count: Prompts to request.
        kind: ``'short'``, or ``'dense'``: many things with their positions.
        words: Most words of a dense prompt.
        classes: To show above all, in place of those of the call.
    """
    deck = list(CLASSES)
    random.Random(f'{seed}/{call // 5}').shuffle(deck)
    rng = random.Random(f'{seed}:{call}')
    season = rng.choice(SEASONS)
    text = DENSE_INSTRUCTION if kind == 'dense' else INSTRUCTION
    return text.format(
        count=count,
        words=words,
        classes=', '.join(classes or deck[call % 5 * _ASKED :][:_ASKED]),
        place=rng.choice(LOCATIONS),
        season=season,
        time=rng.choice(TIMES),
        weather=rng.choice([w for w, s in WEATHERS.items() if season in s]),
    )


def parse_answer(
    text: str, longest: int = _MAX_WORDS
) -> tuple[list[str], int]:
    """Extract the prompts from a response of the model.

    Args:
        text: The response.
        longest: Most words of a prompt.

    Returns:
        The prompts, and the number of other lines: headings, remarks, and
        lines too short or too long.
    """
    prompts, rejected = [], 0
    for line in text.splitlines():
        if not line.strip():
            continue
        line = _BULLET.sub('', line).strip().strip(_QUOTES).strip()
        line = ' '.join(line.split())
        fine = _MIN_WORDS <= len(line.split()) <= longest
        if fine and line.isprintable() and not line.endswith(':'):
            prompts.append(line)
        else:
            rejected += 1
    return prompts, rejected


_MARKER = 'config.json'


@dataclass
class Written:
    """Prompts of a language model.

    Attributes:
        prompts: All different.
        duplicates: Number of repeated prompts that were dropped.
        rejected: Number of lines that are no prompts.
        calls: Number of calls of the model.
        how: Provenance of the prompts, for the JSON file beside them.
        kept: Number of prompts that could not be rewritten.
    """

    prompts: list
    duplicates: int = 0
    rejected: int = 0
    calls: int = 0
    how: dict = field(default_factory=dict)
    kept: int = 0


class PromptWriter:
    """Prompt generation with a causal language model.

    Args:
        model: Folder that ``save_pretrained`` wrote, or an id on the
            Hugging Face hub; instruction-tuned, any that ``transformers``
            loads without code of its own.
        device: See :func:`~.model_files.pick_device`.
        dtype: See :func:`~.model_files.pick_dtype`.
        temperature: Above 0; higher is more varied.
        top_p: In (0, 1]: share of the probability that is drawn from.
        max_new_tokens: Length of an answer.
        per_call: Prompts to ask for at a time.
        revision: Commit or branch on the hub.
        kind: Of the prompts, see :func:`instruction_for`.
        tokens: What the text encoder of the image model reads; None: no
            limit but that of 60 words.
        fits: Whether it reads a prompt to the end; by default all are.
        pixels: Class -> pixels in the source: its rare classes are asked for
            more often, see :func:`~.dense_prompts.naming_shares`.

    Raises:
        GenerationError: transformers is missing, the model is not there, or
            an argument is out of its range.
        UserError: The memory is too small for the model.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = 'auto',
        dtype: str = 'auto',
        temperature: float = 0.9,
        top_p: float = 0.95,
        max_new_tokens: int = 1024,
        per_call: int = 10,
        revision: str | None = None,
        kind: str = 'short',
        tokens: int | None = None,
        fits: Callable[[str], bool] | None = None,
        pixels: Mapping[str, int] | None = None,
    ):
        if kind not in KINDS:
            raise GenerationError(
                f'--kind {kind}: the llm backend writes {" and ".join(KINDS)} '
                'prompts; the others are made by --backend template'
            )
        self.kind = kind
        self.words = (
            _MAX_WORDS if tokens is None else int(tokens * _WORDS_PER_TOKEN)
        )
        self.fits = fits or (lambda text: True)
        self.tokens = tokens
        self.pixels = pixels
        rules = (
            (temperature > 0, '--temperature', temperature, 'above 0'),
            (0 < top_p <= 1, '--top-p', top_p, 'in (0, 1]'),
            (max_new_tokens >= 1, '--max-new-tokens', max_new_tokens,
             '1 or more'),
            (per_call >= 1, '--per-call', per_call, '1 or more'),
        )  # fmt: skip
        for fine, name, value, rule in rules:
            if not fine:
                raise GenerationError(f'{name} must be {rule}, got {value!r}')
        self.model = model
        self.per_call = per_call
        self.options = dict(
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
        )
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self._load(revision)

    def _load(self, revision):
        try:
            from transformers import (
                AutoConfig,
                AutoModelForCausalLM,
                AutoTokenizer,
            )
        except ImportError as error:
            raise GenerationError(
                f'the llm backend cannot be imported ({error}); install it '
                "with: pip install 'clouds_mmseg[generate]'"
            ) from error
        folder = local_folder(self.model, _MARKER)
        source = str(folder or self.model)
        try:
            if folder is None:
                reach_hub()
            self.tokenizer = AutoTokenizer.from_pretrained(
                source, revision=revision
            )
            config = AutoConfig.from_pretrained(source, revision=revision)
            with torch.device('meta'):
                lm = AutoModelForCausalLM.from_config(config)
            needed = sum(p.numel() for p in lm.parameters())
            kind = str(self.dtype).removeprefix('torch.')
            # They are read into the memory of the machine first.
            for device in dict.fromkeys((torch.device('cpu'), self.device)):
                check_memory(
                    needed * self.dtype.itemsize,
                    f'--model {self.model} in {kind}',
                    device,
                )
            self.lm, report = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                dtype=self.dtype,
                output_loading_info=True,
            )
            # transformers initialises missing weights without an error.
            if report['missing_keys']:
                raise ValueError(
                    f'its files lack {len(report["missing_keys"])} weights, '
                    f'such as {min(report["missing_keys"])}'
                )
        except UserError:
            raise
        except OSError as error:
            if folder is None:
                raise unreachable(self.model, _MARKER, error) from error
            raise self._unloadable(error) from error
        except (ValueError, KeyError, RuntimeError) as error:
            raise self._unloadable(error) from error
        self.lm.to(self.device).eval()
        self.fingerprint = (
            fingerprint(folder)
            if folder
            else getattr(self.lm.config, '_commit_hash', None)
        )
        self.chat = bool(self.tokenizer.chat_template)
        if not self.chat:
            print_log(
                f'the tokenizer of {self.model} has no chat template: the '
                'instruction is given as plain text. A model that was not '
                'tuned on instructions may not follow it.',
                logger='current',
                level=logging.WARNING,
            )

    def _unloadable(self, error):
        return GenerationError(
            f'--model {self.model} cannot be loaded as a causal language '
            f'model ({type(error).__name__}: {error})'
        )

    def write(self, num: int, *, seed: int = 0) -> Written:
        """Call the model until there are enough different prompts.

        Args:
            num: Number of prompts.
            seed: Of the instructions and of the model's sampling.

        Raises:
            GenerationError: ``num`` is below 1, or the model's responses have
                too few prompts.
        """
        if num < 1:
            raise GenerationError(f'--num must be 1 or more, got {num}')
        # Five calls name every class once; a model that writes but a tenth
        # of what it is asked for still gets there.
        limit = 5 + 10 * -(-num // self.per_call)
        unique, rejected, answer, call = UniquePrompts(), 0, '', 0
        deck = self._deck(seed)
        while len(unique.prompts) < num:
            if call == limit:
                raise GenerationError(
                    f'--model {self.model} gave {len(unique.prompts)} usable '
                    f'prompts of {num} in {limit} calls ({rejected} lines '
                    f'were no prompts, {unique.duplicates} duplicates). Use '
                    'an instruction-tuned model, or --backend template. Its '
                    f'last answer begins: {answer[:200]!r}'
                )
            answer = self._generate(
                instruction_for(
                    call,
                    seed=seed,
                    count=self.per_call,
                    kind=self.kind,
                    words=self.words,
                    classes=deck and deck.next(),
                ),
                # Not seed + call: neighbouring seeds would share calls.
                random.Random(f'{seed}/{call}/sample').getrandbits(32),
            )
            call += 1
            found, others = parse_answer(answer, max(self.words, _MAX_WORDS))
            short = [prompt for prompt in found if self.fits(prompt)]
            rejected += others + len(found) - len(short)
            for prompt in short:
                unique.add(prompt)
            print_log(
                f'call {call}: {len(found)} prompts, '
                f'{min(len(unique.prompts), num)}/{num} in all',
                logger='current',
            )
        return Written(
            unique.prompts[:num],
            unique.duplicates,
            rejected,
            call,
            self._how(seed),
        )

    def _deck(self, seed):
        """Return the classes of the calls by what the source lacks."""
        if self.pixels is None:
            return None
        shares = naming_shares(self.pixels, _ASKED)
        return ClassDeck(shares, random.Random(f'{seed}/deck'), _ASKED)

    def rewrite(self, prompts: Sequence[str], *, seed: int = 0) -> Written:
        """Rewrite prompts into longer ones that the text encoder reads.

        An answer counts if it names every class that the prompt names, has
        at least as many words, and is read to its end.

        Args:
            prompts: One or more.
            seed: Of the model's sampling. A prompt's answer depends on it,
                the prompt and its number, not on the other prompts.

        Returns:
            As many, in order; those that no answer improved on are as they
            were and counted in ``kept``.
        """
        unique, rejected, kept, calls = UniquePrompts(), 0, 0, 0
        for number, prompt in enumerate(prompts):
            text = prompt
            for attempt in range(_REWRITES):
                answer = self._generate(
                    REWRITING.format(words=self.words, prompt=prompt),
                    random.Random(
                        f'{seed}/{number}/{attempt}/rewrite'
                    ).getrandbits(32),
                )
                calls += 1
                found, others = parse_answer(answer, max(self.words, 60))
                good = [t for t in found if self._improves(t, prompt)]
                rejected += others + len(found) - len(good[:1])
                if good:
                    text = good[0]
                    break
            else:
                kept += 1
            unique.add(text)
            print_log(
                f'prompt {number + 1}/{len(prompts)}: '
                + ('kept' if text == prompt else 'rewritten'),
                logger='current',
            )
        how = dict(self._how(seed), instruction=REWRITING, kept=kept)
        return Written(
            unique.prompts, unique.duplicates, rejected, calls, how, kept
        )

    def _improves(self, text, prompt):
        return (
            set(classes_in(prompt)) <= set(classes_in(text))
            and len(text.split()) >= len(prompt.split())
            and normalise(text) != normalise(prompt)
            and self.fits(text)
        )

    def _how(self, seed):
        return dict(
            backend='llm',
            model=self.model,
            fingerprint=self.fingerprint,
            seed=seed,
            per_call=self.per_call,
            chat_template=self.chat,
            dtype=str(self.dtype).removeprefix('torch.'),
            device=str(self.device),
            kind=self.kind,
            tokens=self.tokens,
            instruction=(
                DENSE_INSTRUCTION if self.kind == 'dense' else INSTRUCTION
            ),
            transformers=metadata.version('transformers'),
            **self.options,
        )

    def _generate(self, instruction, seed):
        """Return the model's response to an instruction."""
        import torch

        inputs = self._encode(instruction)
        length = inputs['input_ids'].shape[1]
        room = getattr(self.lm.config, 'max_position_embeddings', None)
        options = dict(self.options)
        if room is not None:
            options['max_new_tokens'] = min(
                options['max_new_tokens'], room - length
            )
            if options['max_new_tokens'] < 1:
                raise GenerationError(
                    f'--model {self.model} reads {room} tokens, the '
                    f'instruction alone has {length}. Use a larger model.'
                )
        pad = self.tokenizer.pad_token_id
        if pad is None:
            pad = self.tokenizer.eos_token_id
        devices = [self.device] if self.device.type == 'cuda' else []
        # `generate` uses the global generators, which are restored after it.
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(seed)
            output = self.lm.generate(
                **inputs, do_sample=True, pad_token_id=pad, **options
            )
        return self.tokenizer.decode(
            output[0, length:], skip_special_tokens=True
        )

    def _encode(self, instruction):
        if self.chat:
            # Some templates refuse a system message; all take the user's.
            inputs = self.tokenizer.apply_chat_template(
                [dict(role='user', content=instruction)],
                add_generation_prompt=True,
                return_tensors='pt',
                return_dict=True,
            )
        else:
            inputs = self.tokenizer(
                f'{instruction}\n\nPrompts:\n', return_tensors='pt'
            )
        inputs.pop('token_type_ids', None)
        return {key: value.to(self.device) for key, value in inputs.items()}
