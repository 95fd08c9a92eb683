"""torchrun, whose workers are forks: ``torchrun_warm.py -m TORCHRUN WORDS``.

Importing the stack takes most of the time of a short run. Here that is done
once, in a fresh process without threads, instead of in each worker. The rest
is torchrun's own: its options, its agent, the environment of the workers.
"""

import os.path as osp
import runpy
import sys

import mmseg.apis  # noqa: F401
from torch.distributed import run
from torch.distributed.launcher.api import elastic_launch

import clouds_mmseg  # noqa: F401


def work(script, *words):
    """Run a script in a forked worker, as ``python SCRIPT WORDS`` does."""
    sys.argv = [script, *words]
    sys.path[0] = osp.dirname(osp.abspath(script))
    runpy.run_path(script, run_name='__main__')


def launch_forks(config, entrypoint):
    """Launch :func:`work` in place of ``python -u SCRIPT WORDS``."""
    config.start_method = 'fork'

    def launch(unbuffered, *words):
        assert (entrypoint, unbuffered) == (sys.executable, '-u')
        return elastic_launch(config, work)(*words)

    return launch


if __name__ == '__main__':
    assert sys.argv[1:3] == ['-m', 'torch.distributed.run']
    run.elastic_launch = launch_forks
    run.main(sys.argv[3:])
