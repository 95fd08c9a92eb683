"""The command line of ``clouds prepare``, from a checkout."""

from clouds_mmseg_cli.errors import plain_errors
from clouds_mmseg_cli.prepare import main

if __name__ == '__main__':
    with plain_errors():
        main()
