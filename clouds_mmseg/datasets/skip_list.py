"""Images to leave out."""

import os

from mmengine import fileio

from clouds_mmseg.datasets.errors import DataError

# Below a data root: the files that verification has moved aside, under their
# old paths, and the list of these paths, one a line.
QUARANTINE = 'quarantine'
SKIP_FILE = 'clouds_skip.txt'


def read_skip_list(skip):
    """Return the names in a skip list.

    Args:
        skip (Sequence[str] | str): Names, or a text file with one per line.

    Returns:
        set[str]: Without empty lines and surrounding blanks.

    Raises:
        DataError: The text file does not exist.
    """
    if isinstance(skip, str):
        if not fileio.isfile(skip):
            raise DataError(
                f'the skip list {skip} does not exist: skip= takes a text '
                'file with an image name per line, or a list of names'
            )
        skip = fileio.get_text(skip).split('\n')
    return {line.strip() for line in skip} - {''}


def is_skipped(path, folder, suffix, names):
    """Whether a skip list names an image.

    Args:
        path (str): Path of the image.
        folder (str): The image folder.
        suffix (str): The suffix of images, which a name may leave out.
        names (set[str]): From :func:`read_skip_list`: paths below the folder
            or file names.

    Returns:
        bool: True if the image is to be left out.
    """
    below = os.path.relpath(path, folder)
    for name in (below, os.path.basename(below)):
        if name in names or name.removesuffix(suffix) in names:
            return True
    return False


def set_aside(root):
    """Return what verification has taken out of a data set.

    Args:
        root (str): Folder that all files of the data set are below.

    Returns:
        set[str]: Paths below the root, of images and of labels. Empty if
        there is no list.
    """
    path = os.path.join(root, SKIP_FILE)
    return read_skip_list(path) if fileio.isfile(path) else set()
