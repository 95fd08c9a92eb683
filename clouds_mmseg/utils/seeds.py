"""Seeds derived from a position in training."""

import random

import numpy as np
import torch


def mix_seed(*numbers: int) -> int:
    """Make one seed of several numbers, all of which matter.

    Args:
        *numbers: Not negative.

    Returns:
        In [0, 2**32).
    """
    # SeedSequence ignores trailing zeros: the length keeps (1,) from (1, 0).
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed what transforms and models draw from, in this process.

    Args:
        seed: In [0, 2**32).
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
