"""The command line of ``clouds demo``, from a checkout."""

from clouds_mmseg_cli.demo import main
from clouds_mmseg_cli.errors import plain_errors

if __name__ == '__main__':
    with plain_errors():
        main()
