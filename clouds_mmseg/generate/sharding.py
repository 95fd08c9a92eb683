"""Which share of the work a process has, by what its launcher says."""

import os
from typing import NamedTuple

from clouds_mmseg.generate.errors import GenerationError

# Rank, number of processes, rank on this machine: torchrun and accelerate;
# Slurm's srun (SLURM_NTASKS is set in a batch script's own process too, which
# is alone, so the number of the step is what counts); Open MPI; MPICH.
_LAUNCHERS = (
    ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    ('SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', 'SLURM_LOCALID'),
    (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
    ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID'),
)


class Shard(NamedTuple):
    """The share of one of several processes.

    Attributes:
        rank: Number of the process, from 0.
        world: How many processes there are.
        local: Number of the process on its machine, which picks its device.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    def owns(self, unit):
        """Whether this process makes a unit of work (an int from 0)."""
        return unit % self.world == self.rank


def shard_from_environment(environ=os.environ):
    """Find the share of this process; one process alone has all of it.

    Args:
        environ (Mapping[str, str]): The environment.

    Raises:
        GenerationError: A launcher's variables contradict each other.
    """
    for names in _LAUNCHERS:
        rank, world, local = (environ.get(name) for name in names)
        if rank is None or world is None:
            continue
        try:
            shard = Shard(int(rank), int(world), int(local or 0))
        except ValueError:
            shard = None
        if shard is None or not 0 <= shard.rank < shard.world:
            raise GenerationError(
                f'{names[0]}={rank} and {names[1]}={world} of the environment '
                'must be integers with 0 <= rank < number of processes. '
                'Unset them to run as one process.'
            )
        return shard
    return Shard()


def parse_shard(text):
    """Read ``K/N``: share K, from 0, of N.

    Raises:
        GenerationError: It is written otherwise or out of range.
    """
    try:
        rank, world = (int(part) for part in text.split('/'))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise GenerationError(
            f'--shard {text!r} must be K/N with 0 <= K < N, for example 0/4 '
            'for the first of four'
        )
    return Shard(rank, world, 0)
