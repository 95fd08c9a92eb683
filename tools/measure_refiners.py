"""Measure refiners: how right a model's labels are after each of them.

The labels are of ToyCity's generated scenes, whose truth is known. No refiner
here needs weights; the last row is what finding every object would give.
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'checkpoint', nargs='+', help='of one training each, such as of seeds'
    )
    parser.add_argument('--config', default='configs/toycity/clouds_plus.py')
    parser.add_argument(
        '--num', type=int, default=64, help='scenes, the first ones'
    )
    args = parser.parse_args()

    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from ablation.refiners import measure_refiners
    from clouds_mmseg.utils.statistics import spread
    from clouds_mmseg.utils.tables import format_table
    from clouds_mmseg.weights.io import read_state_dict
    from clouds_mmseg.weights.load import load_strictly

    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.default_scope)
    found = []
    for path in args.checkpoint:
        model = MODELS.build(cfg.model).eval()
        # Before self-training there is no teacher yet; it is not used.
        load_strictly(
            model,
            read_state_dict(path),
            source=path,
            allow_missing=['teacher.'],
        )
        found.append(measure_refiners(model, cfg, args.num))
    rows = [
        [name]
        + [
            spread([result[name][key] for result in found])
            for key in ('mIoU', 'aAcc')
        ]
        for name in found[0]
    ]
    header = ['refiner', 'mIoU of the labels', 'pixels right']
    print(format_table(header, rows, markdown=True))


if __name__ == '__main__':
    from clouds_mmseg_cli.errors import plain_errors

    with plain_errors():
        main()
