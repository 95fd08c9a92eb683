"""What a backend is asked for, and what it answers."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

SEED_MODULUS = 2**32
# torch's CPU generator looks at the low 32 bits of a seed only. Multiples of
# this odd number (2**32 divided by the golden ratio) stay far from each
# other modulo 2**32, so that a second attempt never meets the first attempt
# of another image of the bank.
_ATTEMPT_STRIDE = 2654435761
MAX_IMAGES = 10**8


@dataclass(frozen=True)
class Request:
    """One image to make.

    Attributes:
        index: Number of the image in the bank, from 0.
        prompt: The text.
        line: Line of the prompt file, from 1.
        seed: Of the random numbers, in 0..2**32 - 1.
        attempt: How often the image came out blank before.
        source: Path of the image to restyle, below the source root.
        source_path: Where that image is; None without a source.
    """

    index: int
    prompt: str
    line: int
    seed: int
    attempt: int = 0
    source: str | None = None
    source_path: str | None = None


@dataclass(frozen=True)
class Picture:
    """One image made.

    Attributes:
        image: (H, W, 3) RGB; uint8, or float in [0, 1] with NaN where the
            model failed.
        label: (H, W) uint8 train ids where the backend knows them and was
            asked to keep them.
        unsafe: The safety checker of the model has blacked the image out.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    unsafe: bool = False


class Backend(Protocol):
    """What makes images.

    Attributes:
        batch_size (int): How many requests it takes at once. It always gets
            as many, except for a second attempt, which comes alone: an image
            may depend on its place in a batch by a rounding error, never on
            its neighbours.
        keeps_labels (bool): Whether its pictures have labels.
    """

    batch_size: int
    keeps_labels: bool

    def recipe(self):
        """Return what its images depend on besides prompt, seed, source.

        Returns:
            dict: JSON values; ``backend`` and ``model`` are among the keys.
        """

    def info(self):
        """Return what people may want to know: versions, device, words."""

    def check_prompts(self, prompts):
        """Return warnings about ``(line, text)`` pairs, each a sentence."""

    def generate(self, requests):
        """Make the images of some requests, as :class:`Picture` each."""


def seed_of(index, seed, attempt):
    """Seed of an attempt at an image, in 0..2**32 - 1.

    Args:
        index (int): Number of the image.
        seed (int): Of the bank.
        attempt (int): 0 gives ``seed + index``.
    """
    return (seed + index + attempt * _ATTEMPT_STRIDE) % SEED_MODULUS


def request_for(index, prompts, *, seed, sources=(), attempt=0):
    """Say what image ``index`` of a bank is.

    Prompts are taken in turn. With sources, these are taken in turn too, and
    each further round moves on by one prompt, so that a source does not meet
    the same prompt again when there are as many prompts as sources.

    Args:
        index (int): Number of the image, from 0.
        prompts (Sequence[tuple[int, str]]): Line and text of each prompt.
        seed (int): Of the bank.
        sources (Sequence[tuple[str, str]]): Path below the source root and
            full path of each image to restyle; empty for mode txt2img.
        attempt (int): How often the image came out blank before.

    Returns:
        Request: It does not depend on how many images the bank has.
    """
    source = source_path = None
    turn = index
    if sources:
        rounds, place = divmod(index, len(sources))
        source, source_path = sources[place]
        turn = place + rounds
    line, prompt = prompts[turn % len(prompts)]
    return Request(
        index=index,
        prompt=prompt,
        line=line,
        seed=seed_of(index, seed, attempt),
        attempt=attempt,
        source=source,
        source_path=source_path,
    )


def next_attempt(request, seed):
    """Return the request to make the same image with the next seed."""
    attempt = request.attempt + 1
    return replace(
        request, attempt=attempt, seed=seed_of(request.index, seed, attempt)
    )
