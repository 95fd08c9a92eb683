"""Test a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

import argparse

from clouds_mmseg.engine.launch import (
    add_common_arguments,
    build_runner,
    load_config,
    plain_errors,
)


def parse_args():
    parser = argparse.ArgumentParser(description='Test a segmentor')
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    build_runner(cfg).test()


if __name__ == '__main__':
    with plain_errors():
        main()
