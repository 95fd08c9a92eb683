"""What this package computes, written down a second time, plainly.

Every mask is made, every image and every layer is by itself, all is float32,
and nothing is kept for later. Checked against outputs recorded from other
implementations, it is the reference of the parity tests, and what
``tools/benchmark.py --against plain`` measures ours against.

It uses torch, scipy and segment-anything, and nothing of clouds_mmseg.
"""

from .attention import sample_by_grid
from .criterion import (
    PlainCriterion,
    losses_of,
    match_one,
    read_points,
    sample_uncertain_points,
)
from .head import PlainHead
from .model import PlainModel
from .refine import find_components, refine

__all__ = [
    'PlainCriterion',
    'PlainHead',
    'PlainModel',
    'sample_uncertain_points',
    'find_components',
    'losses_of',
    'match_one',
    'read_points',
    'refine',
    'sample_by_grid',
]
