"""Random numbers of a training step that do not depend on the processes.

A batch is divided among the processes of a distributed run. What is drawn for
an image has to be the same whichever process the image is in, or else
runs on one, two and four processes part at the first step. So each process
draws for the images of the whole batch, in their order, and keeps its own
part: one process draws what it would draw alone.

The processes take turns within a batch (``KeyedSampler``): image j of process
r of R is number ``j * R + r``.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import Tensor

_seed: int | None = None
_generators: dict[torch.device, torch.Generator] = {}

T = TypeVar('T')


def seed_step(seed: int | None) -> None:
    """Begin a step.

    Args:
        seed: In [0, 2**32), the same in all processes. None ends what was
            begun: from then on each process draws for itself.
    """
    global _seed
    _seed = seed
    _generators.clear()


def step_generator(device: torch.device | str) -> torch.Generator | None:
    """Return where the draws of a step come from.

    Args:
        device: Where to draw.

    Returns:
        In several processes a generator that :func:`seed_step` seeds alike.
        None, which is torch's global generator, in a single process, and
        without :func:`seed_step` (another training loop).
    """
    device = torch.device(device)
    if _seed is None or get_world_size() == 1:
        return None
    if device not in _generators:
        _generators[device] = torch.Generator(device).manual_seed(_seed)
    return _generators[device]


class Place(NamedTuple):
    """Place of an image: its process, and its number in that process."""

    rank: int
    number: int


def gather_images(values: Sequence[T]) -> list[tuple[Place, T]]:
    """Gather a value of each image of the whole batch.

    Where each process draws for itself, these are its own images.

    Args:
        values: One an image of this process; every process has to call this.

    Returns:
        Place and value of each image, in the order of the batch.
    """
    parts = {get_rank(): list(values)}
    if _seed is not None and get_world_size() > 1:
        parts = dict(enumerate(all_gather_object(list(values))))
    return [
        (Place(rank, index), part[index])
        for index in range(max(map(len, parts.values())))
        for rank, part in parts.items()
        if index < len(part)
    ]


class ImageDraws:
    """Uniform random numbers for the images of a batch.

    They come from :func:`step_generator`.

    Args:
        rows: How many rows :meth:`rows` draws for each image of this process.
        device: Where to draw.
    """

    def __init__(self, rows: Sequence[int], device: torch.device | str):
        self.device = torch.device(device)
        self.generator = step_generator(device)
        self._rank = get_rank()
        self._images = [(p.rank, count) for p, count in gather_images(rows)]

    def common(self, *shape: int) -> Tensor:
        """Draw numbers that all images share.

        Returns:
            Of the given shape, float32 in [0, 1).
        """
        return torch.rand(shape, device=self.device, generator=self.generator)

    def images(self, times: int, *shape: int) -> Tensor:
        """Draw for each image, again and again.

        Returns:
            (times, images of this process, *shape), float32 in [0, 1).
        """
        drawn = self._draw([(r, 1) for r, _ in self._images] * times, shape)
        return drawn.unflatten(0, (times, -1))

    def rows(self, times: int, *shape: int) -> Tensor:
        """Draw so many rows as each image has, again and again.

        Returns:
            (times x rows of the images of this process, *shape), float32 in
            [0, 1), ordered by time and image.
        """
        return self._draw(self._images * times, shape)

    def _draw(self, plan, shape):
        kept = [torch.empty((0, *shape), device=self.device)]
        for rank, count in plan:
            drawn = self.common(count, *shape)
            if rank == self._rank:
                kept.append(drawn)
        return torch.cat(kept)
