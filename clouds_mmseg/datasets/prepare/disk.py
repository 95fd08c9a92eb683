"""What a system says when a file cannot be written, in words."""

import errno

from clouds_mmseg.datasets.errors import DataError

# A quota and a limit of file sizes end a run as a full disk does.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_error(out, target, error):
    """Explain why a file cannot be written.

    Args:
        out (str): The output folder.
        target (str | Path): The file.
        error (OSError): What the system said.

    Returns:
        DataError: Says how to continue.
    """
    if error.errno in FULL:
        return DataError(
            f'the disk of {out} is full ({error.strerror}). Every file there '
            'is whole. Make room and run the same command again: it '
            'continues.'
        )
    return DataError(f'{target} cannot be written: {error}')
