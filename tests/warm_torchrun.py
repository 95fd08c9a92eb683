"""torchrun, whose workers are forks: ``warm_torchrun.py -m TORCHRUN WORDS``.

The stack is imported once, in a fresh process without threads, instead of in
each worker. The rest is torchrun's own: its options, its agent, the
environment of the workers.
"""

import sys

import mmseg.apis  # noqa: F401
from torch.distributed import run
from torch.distributed.launcher.api import elastic_launch
from warm_python import quicken_runners, run_script

import clouds_mmseg  # noqa: F401


def launch_forks(config, entrypoint):
    """Launch :func:`run_script` in place of ``python -u SCRIPT WORDS``."""
    config.start_method = 'fork'

    def launch(unbuffered, *words):
        assert (entrypoint, unbuffered) == (sys.executable, '-u')
        return elastic_launch(config, run_script)(*words)

    return launch


if __name__ == '__main__':
    assert sys.argv[1:3] == ['-m', 'torch.distributed.run']
    quicken_runners()
    run.elastic_launch = launch_forks
    run.main(sys.argv[3:])
