"""Images that are restyled."""

import hashlib
from pathlib import Path

from PIL import Image

from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.utils.images import ImageFileError, read_image

_SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.webp'}


def list_sources(root):
    """Find the images to restyle.

    Args:
        root (str | Path): Folder of the images, searched through.

    Returns:
        list[tuple[str, str]]: Path below the root, with ``/``, and full path
        of each image; sorted by the first.

    Raises:
        GenerationError: The folder is missing or holds no image.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise GenerationError(f'--source {root}: there is no such folder')
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob('*')
        if p.suffix.lower() in _SUFFIXES and not p.name.startswith('.')
    )
    if not names:
        raise GenerationError(
            f'--source {root} holds no image ({", ".join(sorted(_SUFFIXES))})'
        )
    return [(name, str(root / name)) for name in names]


def digest_sources(sources):
    """Hash names and sizes of source files, which is what can be had fast.

    Args:
        sources (Sequence[tuple[str, str]]): See :func:`list_sources`.
    """
    digest = hashlib.sha256()
    for name, path in sources:
        digest.update(f'{name}\0{Path(path).stat().st_size}\0'.encode())
    return digest.hexdigest()[:16]


def open_source(path):
    """Read an image as RGB, upright as in training.

    Returns:
        PIL.Image.Image: Decoded.

    Raises:
        GenerationError: It cannot be read.
    """
    try:
        return Image.fromarray(read_image(path))
    except ImageFileError as error:
        raise GenerationError(
            f'the source {error}. Replace it by a file of 8 bits, or move it '
            'out of the folder.'
        ) from error


def working_size(size, wanted, multiple):
    """Size at which a model sees a source image.

    Args:
        size (tuple[int, int]): Width and height of the source.
        wanted (tuple[int, int] | int): The size itself, or the short edge.
        multiple (int): Both edges are multiples of it.

    Returns:
        tuple[int, int]: Width and height.
    """
    if isinstance(wanted, tuple):
        return wanted
    scale = wanted / min(size)
    return tuple(
        max(multiple, round(edge * scale / multiple) * multiple)
        for edge in size
    )
