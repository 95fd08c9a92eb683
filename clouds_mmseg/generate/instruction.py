"""What a language model is asked, and how its answer is read."""

import random
import re

from clouds_mmseg.generate.grammar import PLACES, SEASONS, TIMES, WEATHERS
from clouds_mmseg.utils.cityscapes import CLASSES

_MIN_WORDS, _MAX_WORDS = 5, 60
# `1.`, `2)`, `-`, `*`, quotes: what models put before and around list items.
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


def instruction_for(call, *, seed, count):
    """Return the text that the model is asked with.

    Args:
        call (int): Number of the call, from 0. Classes and scenes of a call
            depend on it and the seed alone; five calls in a row ask for
            every class.
        seed (int): Of the random numbers.
        count (int): Prompts to ask for.
    """
    deck = list(CLASSES)
    random.Random(f'{seed}/{call // 5}').shuffle(deck)
    rng = random.Random(f'{seed}:{call}')
    season = rng.choice(SEASONS)
    return INSTRUCTION.format(
        count=count,
        classes=', '.join(deck[call % 5 * 4 : call % 5 * 4 + 4]),
        place=rng.choice(PLACES),
        season=season,
        time=rng.choice(TIMES),
        weather=rng.choice([w for w, s in WEATHERS.items() if season in s]),
    )


def parse_answer(text):
    """Find the prompts in what a model has written.

    Args:
        text (str): Its answer.

    Returns:
        tuple[list[str], int]: The prompts, and how many other lines there
        were: headings, remarks, and lines too short or too long.
    """
    prompts, rejected = [], 0
    for line in text.splitlines():
        if not line.strip():
            continue
        line = _BULLET.sub('', line).strip().strip(_QUOTES).strip()
        line = ' '.join(line.split())
        fine = _MIN_WORDS <= len(line.split()) <= _MAX_WORDS
        if fine and line.isprintable() and not line.endswith(':'):
            prompts.append(line)
        else:
            rejected += 1
    return prompts, rejected
