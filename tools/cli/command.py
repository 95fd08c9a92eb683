"""The console command ``clouds``: one sub-command for each task of a user.

Each is a module of this package with a function ``main``, which the script of
the same task in ``tools/`` calls too.
"""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from clouds_mmseg_cli.errors import plain_errors

# In the order in which they are used.
COMMANDS = dict(
    toycity='render ToyCity, the built-in benchmark',
    prepare='prepare a data set from its official downloads',
    verify='open every file of a data set and report bad ones',
    prompts='write text prompts for street scenes',
    generate='generate an image set (image bank) from prompts',
    filter='leave out bad images and pixels of an image set',
    pack='pack an image set into tar shards (WebDataset), or unpack it',
    cache="fill the cache of a training's refiner before it begins",
    train='train a segmentor',
    test='test a checkpoint',
    protocols='test a checkpoint under several protocols, side by side',
    predict='predict images and videos, without labels',
    demo='serve a demo page for a model, or for two side by side',
    report='report trainings and evaluations as one HTML file',
    export='write a trained model as ONNX, torch.export or OpenVINO',
    corrupt='write the fifteen common corruptions of images',
    convert='convert checkpoints of other projects to ours, and back',
    publish='write a checkpoint to share: one file, or a folder for a hub',
    review='export predictions to correct them elsewhere, and import them',
)
_USAGE = 'usage: clouds COMMAND ...'
# As argparse leaves after a wrong option.
_WRONG_USAGE = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command.

    Args:
        argv: Without the program's name; by default those of the process.

    Raises:
        SystemExit: With status 2 after an unknown command, with 1 after a
            mistake in the input, or as the sub-command leaves.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help'):
        print(_overview())
        return
    name, *rest = words
    if name == '--version':
        print(metadata.version('clouds_mmseg'))
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f'did you mean {near[0]}?' if near else 'see clouds --help'
        print(
            f'{_USAGE}\nclouds: error: there is no command {name!r}; {hint}',
            file=sys.stderr,
        )
        raise SystemExit(_WRONG_USAGE)
    with plain_errors():
        command = import_module(f'clouds_mmseg_cli.{name}')
        command.main(rest, prog=f'clouds {name}')


def _overview():
    """Return the help: each command in one line."""
    width = max(map(len, COMMANDS))
    lines = (f'  {name:{width}}  {what}' for name, what in COMMANDS.items())
    return '\n'.join(
        [
            _USAGE,
            '',
            'Domain-generalised semantic segmentation (CLOUDS).',
            '',
            'commands:',
            *lines,
            '',
            'clouds COMMAND --help   the options of a command',
            'clouds --version        the version',
        ]
    )
