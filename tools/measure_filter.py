"""Measure clouds filter: spoil a tenth of ToyCity's generated images.

A third each of the spoilt images has its label moved sideways, shows nothing,
or shows another scene than its label. Prints how many of them the filter
leaves out, and how many of the others.
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='trained on the source of ToyCity')
    parser.add_argument(
        '--bank', default='data/toycity/generated', help='set with labels'
    )
    parser.add_argument(
        '--out', default='data/toycity/spoilt', help='folder of the copy'
    )
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()

    from ablation.spoil import report, spoil_bank
    from clouds_mmseg.image_filter import filter_bank
    from clouds_mmseg.predict.segmenter import Segmenter
    from clouds_mmseg.utils.data_root import resolve_data_root

    out = resolve_data_root(args.out)
    spoilt = spoil_bank(resolve_data_root(args.bank), out, seed=args.seed)
    segmenter = Segmenter.from_pretrained(args.checkpoint)
    filter_bank(out, segmenter, checkpoint=args.checkpoint)
    print('\n'.join(report(out, spoilt)))


if __name__ == '__main__':
    from clouds_mmseg_cli.errors import plain_errors

    with plain_errors():
        main()
