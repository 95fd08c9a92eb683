"""Compare this package with outputs recorded from other implementations.

A file of such outputs tells by its keys what it holds: a head of
MMSegmentation's zoo, a head of the official CLOUDS code, its criterion, its
refinement of pseudo labels; or, as JSON, the names and shapes of a model's
weights.
"""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from clouds_mmseg.checkpoints.parity_checks import (
    Comparison,
    check_criterion,
    check_names,
    check_official_head,
    check_refinement,
    check_zoo_head,
)
from clouds_mmseg.checkpoints.strict import CheckpointMismatchError
from clouds_mmseg.utils.errors import UserError

# A key that a kind of file has and those below it have not.
_KINDS = (
    ('sam_masks', 'refinement', check_refinement),
    ('loss_point_coords', 'criterion', check_criterion),
    ('state.sem_seg_head.', 'official head', check_official_head),
    ('state.', 'zoo head', check_zoo_head),
)


class Report(NamedTuple):
    """What came out for one file."""

    path: Path
    kind: str
    worst: Comparison | None  # the one furthest out of its tolerance
    problem: str = ''  # why nothing could be compared

    @property
    def passed(self):
        """Whether everything in the file is within its tolerance."""
        return not self.problem and self.worst.passed

    @property
    def detail(self):
        """The greatest error or the problem, in words."""
        if self.problem:
            return self.problem.splitlines()[0]
        name, error, allowed = self.worst
        return f'{name}: {error:.2e}, allowed {allowed:.0e}'


def check_file(path):
    """Compare everything a file holds.

    Args:
        path (str | Path): A ``.safetensors`` file whose metadata has a
            ``config``, or a ``.json`` of names and shapes.

    Returns:
        Report: Never raises for a file that is unreadable or does not fit:
        that is a problem of its row.
    """
    path = Path(path)
    kind = '?'
    try:
        config, tensors = _read(path)
        kind, check = _kind_of(tensors, path)
        comparisons = list(check(config, tensors))
    except (UserError, CheckpointMismatchError) as error:
        return Report(path, kind, None, str(error))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as e:
        # What a file lacks or has in another shape shows where it is used.
        return Report(path, kind, None, f'{type(e).__name__}: {e}')
    return Report(path, kind, max(comparisons, key=lambda c: c.excess))


def _kind_of(tensors, path):
    if path.suffix == '.json':
        return 'names', check_names
    for beginning, kind, check in _KINDS:
        if any(key.startswith(beginning) for key in tensors):
            return kind, check
    raise UserError(
        f'{path} holds none of the known references; its keys begin with '
        f'{sorted(tensors)[:3]}.'
    )


def _read(path):
    if not path.is_file():
        raise UserError(f'{path}: no such file.')
    if path.suffix == '.json':
        return {}, _read_json(path)
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise UserError(
            f'{path} is no readable safetensors file: {error}'
        ) from error
    if 'config' not in metadata:
        raise UserError(f'{path} has no "config" in its metadata.')
    return json.loads(metadata['config']), tensors


def _read_json(path):
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path} is no readable JSON: {error}') from error
    if not isinstance(content, dict) or not all(
        isinstance(shape, list) for shape in content.values()
    ):
        raise UserError(
            f'{path} must be a JSON object of weight names and shapes.'
        )
    return content
