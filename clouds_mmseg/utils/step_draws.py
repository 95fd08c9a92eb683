"""Random numbers of a training step that do not depend on the processes.

A batch is divided among the processes of a distributed run. What a loss draws
for an image has to be the same whichever process the image is in, or else
runs on one, two and four processes part at the first step. So each process
draws for the images of the whole batch, in their order, and keeps its own
part: one process draws what it would draw alone.
"""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import Tensor

_seed: int | None = None
_generators: dict[torch.device, torch.Generator] = {}


def seed_step(seed: int | None) -> None:
    """Begin a step.

    Args:
        seed: In [0, 2**32), the same in all processes. None ends what was
            begun: from then on each process draws for itself.
    """
    global _seed
    _seed = seed
    _generators.clear()


class ImageDraws:
    """Uniform random numbers for the images of a batch.

    In a single process they come from torch's global generator, and in
    several from one that :func:`seed_step` seeds alike. Without it (another
    training loop), each process draws for its own images alone.

    The processes take turns within a batch (``KeyedSampler``): image j of
    process r of R is number ``j * R + r``.

    Args:
        rows: How many rows :meth:`rows` draws for each image of this process.
        device: Where to draw.
    """

    def __init__(self, rows: Sequence[int], device: torch.device | str):
        self.device = torch.device(device)
        self.generator = None
        parts, self._rank = [list(rows)], 0
        if _seed is not None and get_world_size() > 1:
            parts, self._rank = all_gather_object(parts[0]), get_rank()
            if self.device not in _generators:
                generator = torch.Generator(self.device)
                _generators[self.device] = generator.manual_seed(_seed)
            self.generator = _generators[self.device]
        # (process, rows) of each image, in the order of the batch.
        self._images = [
            (rank, part[index])
            for index in range(max(map(len, parts)))
            for rank, part in enumerate(parts)
            if index < len(part)
        ]

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
