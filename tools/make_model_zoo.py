"""Generate docs/model_zoo.md from docs/model_zoo.yaml."""

import argparse
from pathlib import Path

from clouds_mmseg_cli.errors import plain_errors

DOCS = Path(__file__).resolve().parents[1] / 'docs'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--source', default=DOCS / 'model_zoo.yaml')
    parser.add_argument('--out', default=DOCS / 'model_zoo.md')
    args = parser.parse_args()
    from clouds_mmseg.utils.model_zoo import write_model_zoo

    count = write_model_zoo(args.source, args.out)
    print(f'{args.out}: {count} weights')


if __name__ == '__main__':
    with plain_errors():
        main()
