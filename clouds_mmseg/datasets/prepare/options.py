"""How a set is prepared."""

from dataclasses import dataclass

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.recode import RECODES


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``tools/prepare_dataset.py``.

    Attributes:
        link (bool): Link files of folders instead of copying them.
        resize_short (int, optional): Short edge of a smaller copy.
        recode (str, optional): Format of lossless copies of the images, one
            of :data:`~clouds_mmseg.datasets.prepare.recode.RECODES`.
        label_version (str, optional): ``1.2`` or ``2.0`` of Mapillary
            Vistas.
        skip_bad (bool): Leave out images that cannot be used.
        workers (int, optional): Processes; the number of cores by default.

    Raises:
        DataError: ``resize_short`` is not positive, or ``recode`` unknown.
    """

    link: bool = True
    resize_short: int | None = None
    recode: str | None = None
    label_version: str | None = None
    skip_bad: bool = False
    workers: int | None = None

    def __post_init__(self):
        if self.resize_short is not None and self.resize_short < 1:
            raise DataError(
                f'--resize-short {self.resize_short} must be at least 1 pixel'
            )
        if self.recode is not None and self.recode not in RECODES:
            raise DataError(
                f'--recode {self.recode}: known are {", ".join(RECODES)}'
            )
