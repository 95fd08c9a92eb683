"""The command line of ``clouds filter``, from a checkout."""

from clouds_mmseg_cli.errors import plain_errors
from clouds_mmseg_cli.filter import main

if __name__ == '__main__':
    with plain_errors():
        main()
