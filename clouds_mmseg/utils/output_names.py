"""File names of per-image outputs."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from clouds_mmseg.utils.errors import UserError


class OutputNames:
    """Names files after the images that they are about.

    The name is ``<domain>/<path below the image folder>.png``, as the
    datasets of this package give it (``sample_name``). Images of other
    datasets are known by their file name alone: two of the same name would
    overwrite each other, which is an error here.
    """

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}

    def of(self, sample: Mapping[str, Any]) -> str:
        """Return the path of the file about a sample.

        Args:
            sample: ``img_path``, and ``domain`` and ``sample_name`` where the
                dataset gives them.

        Raises:
            UserError: Another image has it.
        """
        image: Any = sample.get('img_path')
        name = sample.get('sample_name') or Path(image).stem
        path = str(PurePosixPath(sample.get('domain') or 'images', name))
        # An image may come twice: distributed samplers fill up the last
        # batch, and every evaluation begins anew.
        owner = self._owner.setdefault(path, image)
        if os.path.abspath(owner) != os.path.abspath(image):
            raise UserError(
                f'{owner} and {image} would both be written to {path}.png; '
                'name them in different domains, or use a dataset class of '
                'clouds_mmseg, which keeps the folders of its images apart'
            )
        return f'{path}.png'
