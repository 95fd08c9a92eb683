"""Fill the cache of a training's refiner before it begins.

Embeddings, masks, segments or scores of its unlabelled images are computed,
once, and kept in cache_dir of the refiner, where training finds them.
"""

import argparse

from clouds_mmseg_cli.cfg_options import CfgOptions
from clouds_mmseg_cli.options import (
    add_pretrained_dir,
    add_sharing_arguments,
)


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog='The same command again continues. The size is told after the '
        'first image; what does not fit is refused.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config', help='of the training, with the same --cfg-options'
    )
    parser.add_argument(
        '--data-root',
        help='folder that holds the data sets, in place of ./data',
    )
    add_pretrained_dir(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config: key=value',
    )
    parser.add_argument(
        '--device', help='such as cuda:1 or cpu (default: a GPU, else cpu)'
    )
    add_sharing_arguments(parser)
    parser.set_defaults(
        work_dir=None, report_dir=None, launcher='none', local_rank=0
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.cli.config import load_config
    from clouds_mmseg.cli.fill_cache import fill_refiner_cache

    done = fill_refiner_cache(
        load_config(args),
        device=args.device,
        shared=args.shared,
        lease=args.lease,
    )
    if done.share is not None:
        print(done.share)
    print(
        f'{done.images:,} images; {done.folder} holds '
        f'{done.nbytes / 1e9:.2f} GB'
    )
