"""RAR archives, which Python cannot read by itself."""

import os
import shutil
import subprocess
from pathlib import Path

from clouds_mmseg.datasets.errors import DataError

# Program -> arguments to unpack ARCHIVE into FOLDER, both absolute.
_PROGRAMS = {
    'unrar': lambda a, f: ['unrar', 'x', '-y', '-idq', a, f + os.sep],
    '7zz': lambda a, f: ['7zz', 'x', '-y', '-bd', '-bso0', f'-o{f}', a],
    '7z': lambda a, f: ['7z', 'x', '-y', '-bd', '-bso0', f'-o{f}', a],
    'bsdtar': lambda a, f: ['bsdtar', '-x', '-f', a, '-C', f],
}


def unpack_rar(path, work):
    """Unpack an archive with a program of the system.

    Args:
        path (str): The archive, or its first part.
        work (str | Path): Folder for what is unpacked.

    Returns:
        Path: Folder with the files. An archive that is unpacked there
        already is not unpacked again.

    Raises:
        DataError: No program is installed, or it failed.
    """
    program = next((p for p in _PROGRAMS if shutil.which(p)), None)
    folder = Path(work).absolute() / Path(path).name
    if folder.is_dir():
        return folder
    if program is None:
        raise DataError(
            f'{path} is a RAR archive, and none of {", ".join(_PROGRAMS)} '
            'is installed. Install one (Ubuntu: apt install unrar, or '
            'libarchive-tools for bsdtar), or unpack the archive yourself '
            'and give the folder as --src.'
        )
    partial = folder.with_name(f'.{folder.name}-partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = _PROGRAMS[program](os.path.abspath(path), str(partial))
    result = subprocess.run(command, capture_output=True, check=False)
    if result.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        said = result.stderr.decode(errors='replace').strip().splitlines()
        raise DataError(
            f'{program} could not unpack {path} (exit status '
            f'{result.returncode}): {" / ".join(said[-3:]) or "no message"}. '
            'Is the download complete, and the disk large enough?'
        )
    os.replace(partial, folder)
    return folder
