"""The command line of ``clouds cache``, from a checkout."""

from clouds_mmseg_cli.cache import main
from clouds_mmseg_cli.errors import plain_errors

if __name__ == '__main__':
    with plain_errors():
        main()
