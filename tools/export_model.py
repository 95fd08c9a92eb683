"""The command line of ``clouds export``, from a checkout."""

from clouds_mmseg_cli.errors import plain_errors
from clouds_mmseg_cli.export import main

if __name__ == '__main__':
    with plain_errors():
        main()
