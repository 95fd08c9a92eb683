"""The command line of ``clouds pack``, from a checkout."""

from clouds_mmseg_cli.errors import plain_errors
from clouds_mmseg_cli.pack import main

if __name__ == '__main__':
    with plain_errors():
        main()
