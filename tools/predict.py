"""The command line of ``clouds predict``, from a checkout."""

from clouds_mmseg_cli.errors import plain_errors
from clouds_mmseg_cli.predict import main

if __name__ == '__main__':
    with plain_errors():
        main()
