"""checkpoints: see docs/architecture.md."""

from clouds_mmseg.checkpoints.files import WeightFileError, read_state_dict
from clouds_mmseg.checkpoints.strict import (
    CheckpointMismatchError,
    load_strictly,
)

__all__ = [
    'CheckpointMismatchError',
    'WeightFileError',
    'load_strictly',
    'read_state_dict',
]
