"""Images to leave out."""

import os

from mmengine import fileio

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.pairing import without_suffix
from clouds_mmseg.utils.options import name_list
from clouds_mmseg.utils.text_files import read_lines

# Below a data root: the files that verification has moved aside, under their
# old paths, and the list of these paths, one a line.
QUARANTINE = 'quarantine'
SKIP_FILE = 'clouds_skip.txt'


def read_skip_list(skip):
    """Return the names in a skip list.

    Args:
        skip (Sequence[str] | str): Names, or a text file with one per line.

    Returns:
        set[str]: Without empty lines and surrounding blanks, with ``/``.

    Raises:
        UserError: The text file does not exist or is no text, or ``skip`` is
            no list of names.
    """
    if not isinstance(skip, str):
        names = {
            name.strip() for name in name_list(skip, 'skip', unique=False)
        } - {''}
        return {name.replace('\\', '/') for name in names}
    if not fileio.isfile(skip):
        raise DataError(
            f'the skip list {skip} does not exist, neither from '
            f'{os.getcwd()} nor below data_root: skip= takes a text file '
            'with an image name per line, or a list of names'
        )
    lines = read_lines(skip, 'the skip list')
    return {line.replace('\\', '/') for _, line in lines}


def matching_names(below, suffixes, names):
    """Find the entries of a skip list that mean an image.

    Args:
        below (str): Path of the image below the image folder.
        suffixes (Sequence[str]): Of images, which a name may leave out.
        names (set[str]): From :func:`read_skip_list`: paths below the folder
            or file names.

    Returns:
        set[str]: Some of ``names``.
    """
    below = below.replace(os.sep, '/')
    meant = set()
    for name in (below, os.path.basename(below)):
        stems = {without_suffix(name, suffix) for suffix in suffixes} - {None}
        # Lists name images as published, also where they were recoded.
        meant |= {name, os.path.splitext(name)[0]} | stems
        meant |= {stem + suffix for stem in stems for suffix in suffixes}
    return meant & names


def set_aside(root):
    """Return what verification has taken out of a data set.

    Args:
        root (str): Folder that all files of the data set are below.

    Returns:
        set[str]: Paths below the root, of images and of labels. Empty if
        there is no list.
    """
    path = os.path.join(root, SKIP_FILE)
    if not fileio.isfile(path):
        return set()
    return {line for _, line in read_lines(path, 'the skip list')}
