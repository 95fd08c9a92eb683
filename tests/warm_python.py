"""Python processes that begin as forks of one that has imported the stack.

Importing it takes most of the time of a short run. All forks share the seed of
the hashes of strings: what must not depend on it is compared with a run in a
process of its own.
"""

import functools
import gc
import json
import os
import os.path as osp
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


class WarmPython:
    """Runs scripts in forks of a process that has imported the stack."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Asked for by Triton when it is imported: kernels of the forks
            # can be interpreted. The forks get environments of their own.
            env=dict(os.environ, TRITON_INTERPRET='1'),
            text=True,
        )

    def run(self, *command, env=None) -> subprocess.CompletedProcess:
        """Run a script as ``python SCRIPT WORDS`` would, and wait for it.

        Its folder is that of the caller, and so is its environment unless
        another is given.
        """
        command = [str(word) for word in command]
        with tempfile.TemporaryDirectory() as folder:
            request = dict(
                command=command,
                folder=folder,
                cwd=os.getcwd(),
                environ=dict(os.environ if env is None else env),
            )
            self._server.stdin.write(json.dumps(request) + '\n')
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            out, err = (Path(folder, x).read_text() for x in ('out', 'err'))
        return subprocess.CompletedProcess(command, status, out, err)

    def torchrun(self, processes, *command, env=None):
        """Run a script in processes that torchrun forks, and wait for them.

        See warm_torchrun.py.
        """
        return self.run(
            Path(__file__).with_name('warm_torchrun.py'),
            *('-m', 'torch.distributed.run', '--standalone'),
            *('--nproc-per-node', processes),
            *command,
            env=env,
        )

    def close(self):
        """End the process."""
        # Told by a line: workers of data loaders that were forked since then
        # hold the pipe, too, so that closing it here does not end it.
        self._server.stdin.write('\n')
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def quicken_runners(set_attribute=setattr):
    """Leave out two thirds of the time in which a runner is built.

    mmengine formats the text of the config for each file that it goes to, and
    asks the system for its compilers.
    """
    import mmengine.runner.runner as runner
    from yapf.yapflib import yapf_api

    set_attribute(yapf_api, 'FormatCode', lambda text, **kwargs: (text, True))
    collect_env = functools.cache(runner.collect_env)
    set_attribute(runner, 'collect_env', collect_env)


def import_runs():
    """Import what runs import while they begin, and ask what they ask.

    A fork of this process then need not.
    """
    import mmengine.config.utils as zoo
    import mmengine.runner.runner as runner
    import mmseg.engine  # noqa: F401
    import skimage.segmentation  # noqa: F401
    import torch.distributed.run
    import torch.utils.tensorboard  # noqa: F401
    from matplotlib.backends import backend_agg  # noqa: F401

    import clouds_mmseg.generate.run  # noqa: F401
    from clouds_mmseg.cli.config import read_config

    # The index of the zoo, which mmengine reads for each config.
    zoo.load = functools.cache(zoo.load)
    runner.collect_env()
    read_config('clouds_mmseg::toycity/clouds')


def keep_imports():
    """Keep what was imported out of the search for garbage."""
    gc.collect()
    gc.freeze()


def run_script(script, *words):
    """Run a script in this process, as ``python SCRIPT WORDS`` does."""
    sys.argv = [script, *words]
    sys.path[0] = osp.dirname(osp.abspath(script))
    runpy.run_path(script, run_name='__main__')


def serve():
    """Fork for each request; returns the request in the forks alone."""
    # An empty line is the end.
    while line := sys.stdin.readline().strip():
        child = os.fork()
        if not child:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def begin(request):
    """Take over folder, environment, output and input of a new process."""
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(request['environ'])
    files = [(os.devnull, os.O_RDONLY)]
    for name in ('out', 'err'):
        path = osp.join(request['folder'], name)
        files.append((path, os.O_WRONLY | os.O_CREAT))
    for number, (path, flags) in enumerate(files):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)


if __name__ == '__main__':
    import mmseg.apis  # noqa: F401

    import clouds_mmseg  # noqa: F401

    quicken_runners()
    import_runs()
    keep_imports()
    request = serve()
    if request is not None:
        begin(request)
        run_script(*request['command'])
