"""Names of files in archives, and which of them may not be trusted."""

import re

from clouds_mmseg.datasets.errors import DataError

_DRIVE = re.compile('[A-Za-z]:')


def safe_name(name, archive):
    """Bring the name of an archive's member into one form.

    Args:
        name (str): As stored. Backslashes count as separators: archives
            packed on Windows have them.
        archive (str): The archive, for the message.

    Returns:
        str: Relative, with ``/``, without ``.`` and empty parts.

    Raises:
        DataError: The name leaves the folder that it would be unpacked to.
    """
    parts = name.replace('\\', '/').split('/')
    if parts[0] == '' or _DRIVE.match(parts[0]) or '..' in parts:
        raise DataError(
            f'{archive} holds {name!r}, a path that leads out of the folder '
            'it is unpacked to. Nothing was read from it: official archives '
            'have no such names, so download it again from the official '
            'page.'
        )
    return '/'.join(part for part in parts if part not in ('', '.'))


def refuse_link(name, archive):
    """Raise the error about a link inside an archive.

    Args:
        name (str): Of the link.
        archive (str): The archive.

    Raises:
        DataError: Always.
    """
    raise DataError(
        f'{archive} holds the link {name!r}. Links in archives are not '
        'followed, they may point anywhere: unpack it yourself and give the '
        'folder as --src.'
    )
