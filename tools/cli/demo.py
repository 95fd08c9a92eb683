"""Serve a demo page for a trained model, or for two side by side."""

import argparse
import os
from pathlib import Path

# What `make demo` trains, and what it is compared with.
_TOYCITY = Path('work_dirs/toycity/demo/short/seed0')
_DEFAULT = ('all_plus', 'source')


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='Needs gradio: pip install "clouds_mmseg[web]".',
    )
    parser.add_argument(
        'checkpoints',
        nargs='*',
        metavar='checkpoint',
        help='one or two checkpoints of a training, published files, or files '
        'of clouds export '
        '(default: the ToyCity models of make demo)',
    )
    parser.add_argument(
        '--name',
        nargs='+',
        help='name of each model on the page (default: its file name)',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on; 0.0.0.0 lets everyone who reaches this '
        'machine use the page (default: %(default)s, this machine alone)',
    )
    parser.add_argument(
        '--port', type=int, default=7860, help='default: %(default)s'
    )
    parser.add_argument(
        '--examples',
        metavar='DIR',
        help='folder whose first eight images are the examples '
        '(default: streets of ToyCity)',
    )
    parser.add_argument(
        '--max-megabytes',
        type=float,
        default=20,
        help='of an uploaded file (default: %(default)s)',
    )
    parser.add_argument(
        '--max-megapixels',
        type=float,
        default=50,
        help='of an uploaded image (default: %(default)s)',
    )
    parser.add_argument(
        '--device', help='such as cuda:1 or cpu (default: a GPU, else cpu)'
    )
    parser.add_argument(
        '--amp', action='store_true', help='run the networks in bfloat16'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    pixels = max(0, int(args.max_megapixels * 1e6))
    # A second limit for each decoder, besides that of the page; OpenCV reads
    # it once, when it is imported.
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(pixels))
    import torch

    from clouds_mmseg.predict.exported import load_predictor
    from clouds_mmseg.utils.errors import UserError
    from clouds_mmseg.web.page import (
        example_images,
        folder_images,
        model_names,
    )
    from clouds_mmseg.web.server import require_gradio, serve
    from clouds_mmseg.web.upload import Limits

    require_gradio()
    limits = Limits(
        megabytes=args.max_megabytes, megapixels=args.max_megapixels
    )
    checkpoints = args.checkpoints or _toycity_checkpoints()
    if not 1 <= len(checkpoints) <= 2:
        raise UserError(
            'the page shows one checkpoint, or compares two; got '
            f'{len(checkpoints)}'
        )
    names = args.name or model_names(checkpoints)
    if len(names) != len(checkpoints) or len(set(names)) < len(names):
        raise UserError(
            f'--name must give each of the {len(checkpoints)} checkpoints a '
            f'name of its own, got {names}'
        )
    models = {
        name: load_predictor(
            checkpoint,
            device=args.device,
            dtype=torch.bfloat16 if args.amp else None,
        )
        for name, checkpoint in zip(names, checkpoints, strict=True)
    }
    if args.examples is None:
        examples = example_images()
    else:
        examples = folder_images(args.examples)
    serve(
        models,
        host=args.host,
        port=args.port,
        limits=limits,
        examples=examples,
    )


def _toycity_checkpoints() -> list[Path]:
    """Return the last checkpoints of ``make demo``."""
    from clouds_mmseg.utils.errors import UserError

    found = []
    for name in _DEFAULT:
        # Sorted by their iteration.
        paths = (_TOYCITY / name).glob('iter_*.pth')
        found += sorted(paths, key=lambda path: int(path.stem[5:]))[-1:]
    if not found:
        raise UserError(
            f'there is no checkpoint in {_TOYCITY / _DEFAULT[0]}: run make '
            'demo first, or name one: clouds demo CHECKPOINT'
        )
    return found
