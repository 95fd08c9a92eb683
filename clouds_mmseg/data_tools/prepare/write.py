"""Writing of prepared files: link, copy, convert or recode one."""

import errno
import io
import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clouds_mmseg.data_tools.prepare.archives import (
    READ_ERRORS,
    Member,
    Source,
)
from clouds_mmseg.data_tools.prepare.convert import (
    CHECK_TRAIN_IDS,
    encode_label,
    shrink,
)
from clouds_mmseg.datasets.prepared import LOSSY
from clouds_mmseg.utils import images
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import DataError
from clouds_mmseg.utils.image_files import (
    JPEG,
    damaged_chunk,
    truncated,
    truncated_file,
)

# A quota and a limit of file sizes end a run as a full disk does.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Formats of --recode: OpenCV, which decodes images in training, reads all.
RECODES = ('bmp', 'webp', 'jpg')
# Thin coloured objects such as lights keep their colours only without
# subsampling.
_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ),
]
# States of a job.
CREATED, EXISTS, FAILED = 'created', 'exists', 'failed'


@dataclass(frozen=True, slots=True)
class Job:
    """One file to be written.

    Attributes:
        part: ``image`` or ``label``.
        key: Sorted groups of the rule's pattern, equal for image and label of
            a pair.
        split: Name of the split.
        target: Path below the output folder.
        source: Index of the source.
        member: The file of the source.
        convert: Label file and its name -> train ids; None for files that hold
            train ids.
        label_source: What the label files hold, for the manifest.
    """

    part: str
    key: tuple[tuple[str, str], ...]
    split: str
    target: str
    source: int
    member: Member
    convert: Callable | None = None
    label_source: str = 'train_ids'


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    Attributes:
        state: :data:`CREATED`, :data:`EXISTS` (written before) or
            :data:`FAILED`.
        message: What is wrong with the source file, if it failed.
    """

    state: str
    message: str = ''


@dataclass(frozen=True)
class FileWriter:
    """Writes the files of a prepared folder.

    Attributes:
        out: The folder.
        sources: All sources; ``Job.source`` is an index of them.
        link: Whether files of folders are linked instead of copied.
        resize_short: Short edge of the copies.
        recode: Format of the copies of images.
    """

    out: str
    sources: tuple[Source, ...]
    link: bool = True
    resize_short: int | None = None
    recode: str | None = None

    def __call__(self, job: Job, payload: bytes | None = None) -> JobResult:
        """Write one file unless it exists.

        Args:
            job: The file.
            payload: Content of the source file, where it has been read
                already.

        Returns:
            :data:`FAILED` if the source file cannot be used.

        Raises:
            DataError: The output cannot be written, or another file is in the
                way: no further file can be written.
        """
        source = self.sources[job.source]
        target = Path(self.out) / job.target
        as_is = job.convert is None and self.resize_short is None
        if job.part == 'image':
            as_is = as_is and self.recode is None
        if os.path.lexists(target):
            existing = self._check_existing(job, source, target, as_is)
            if existing:
                return existing
        if as_is and source.is_folder:
            return self._link_or_copy(job, source, target)
        name = source.describe(job.member)
        try:
            payload = source.read(job.member) if payload is None else payload
            # A copy in another format no longer shows that it was damaged.
            sums = job.part == 'label' or bool(self.recode)
            _check_payload(payload, job, name, sums)
            if not as_is:
                payload = self._convert(job, payload, name)
        except DataError as error:
            return JobResult(FAILED, str(error))
        except READ_ERRORS as error:
            return JobResult(
                FAILED, f'{job.part} {name} cannot be read ({error})'
            )
        with self._writing(target), atomic_path(target) as temporary:
            temporary.write_bytes(payload)
        return JobResult(CREATED)

    def _check_existing(self, job, source, target, as_is):
        """Return the result of an existing file; remove outdated links."""
        linked = target.is_symlink()
        own = (
            source.is_folder
            and target.exists()
            and target.samefile(job.member.location)
        )
        # A broken link: the source was moved since. Or a copy is asked for
        # where an earlier run made a link.
        if not target.exists() or (own and linked and not self.link):
            with self._writing(target):
                target.unlink()
            return None
        if own and not linked and not as_is:
            raise DataError(
                f'{target} is the published file itself, which is never '
                'changed: give another folder as --out'
            )
        if own and not linked:
            # Prepared in place: this file has not been checked yet.
            return self._check_complete(job, source) or JobResult(EXISTS)
        size = target.stat().st_size
        # Converted files have no size to compare; they were renamed to their
        # path when they were complete.
        if own or (size == job.member.size if as_is else size and not linked):
            return JobResult(EXISTS)
        raise DataError(
            f'{target} is in the way: it is not the file that '
            f'{source.describe(job.member)} becomes. Nothing is overwritten: '
            'delete it, or give another folder as --out.'
        )

    def _link_or_copy(self, job, source, target):
        """Link or copy a file of a folder."""
        path = job.member.location
        problem = self._check_complete(job, source)
        if problem:
            return problem
        with self._writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            methods = [os.link] if source.owned else []
            if self.link and not source.owned:
                methods = [os.symlink, os.link]
            for method in methods:
                try:
                    method(path, target)
                except OSError as error:
                    if error.errno in (*FULL, errno.EEXIST):
                        raise
                else:
                    return JobResult(CREATED)
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
        return JobResult(CREATED)

    def _check_complete(self, job, source):
        """Return the failure of a truncated file of a folder, or None."""
        try:
            with open(job.member.location, 'rb') as stream:
                problem = truncated_file(stream)
        except OSError as error:
            problem = f'cannot be read ({error})'
        if problem:
            name = source.describe(job.member)
            return JobResult(FAILED, f'{job.part} {name} {problem}')
        return None

    def _convert(self, job, payload, name):
        short = self.resize_short
        if job.part == 'label':
            label = (job.convert or CHECK_TRAIN_IDS)(payload, name)
            if short:
                label = shrink(label, short, label=True)
            return encode_label(label)
        image = decode_image(payload, name)
        smaller = shrink(image, short, label=False) if short else image
        if self.recode == LOSSY and payload.startswith(JPEG):
            raise DataError(
                f'image {name} is a JPEG file, which a second compression '
                'would change once more: leave --recode jpg out'
            )
        if self.recode:
            return encode_copy(smaller, self.recode, name)
        if smaller is image:
            return payload
        suffix = Path(job.target).suffix
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == '.jpg' else []
        return cv2.imencode(suffix, smaller, options)[1].tobytes()

    @contextmanager
    def _writing(self, target):
        try:
            yield
        except OSError as error:
            raise write_error(self.out, target, error) from error


def _check_payload(payload, job, name, sums):
    """Check that a file is complete, and with ``sums`` its PNG checksums.

    A label with a flipped bit would be decoded into other ids silently.
    """
    problem = truncated(payload)
    if not problem and sums:
        chunk = damaged_chunk(payload)
        if chunk:
            problem = f'is damaged: wrong checksum of its chunk {chunk}'
    if problem:
        raise DataError(f'{job.part} {name} {problem}')


def decode_image(payload: bytes, name: str) -> np.ndarray:
    """Decode an image as ``LoadSegImage`` does.

    Args:
        payload: The file.
        name: For messages.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        DataError: It cannot be decoded.
    """
    try:
        return images.decode_image(payload)
    except images.ImageFileError as error:
        raise DataError(f'image {name} {error}') from error


def encode_copy(image: np.ndarray, kind: str, name: str) -> bytes:
    """Encode an image; losslessly, unless as JPEG.

    Args:
        image: (H, W, 3) uint8, BGR.
        kind: One of :data:`RECODES`.
        name: For messages.

    Returns:
        The file.

    Raises:
        DataError: Decoding does not give the same pixels, or, of a JPEG, the
            same size.
    """
    if kind == LOSSY:
        payload = cv2.imencode('.jpg', image, _JPEG)[1].tobytes()
    elif kind == 'webp':
        out = io.BytesIO()
        rgb = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        # Least effort: with the greatest, files are about a tenth smaller,
        # decode no faster and take several times as long to write.
        try:
            rgb.save(out, 'WEBP', lossless=True, quality=0, method=0)
        except (OSError, ValueError) as error:
            raise DataError(
                f'image {name} cannot be written as WebP ({error})'
            ) from error
        payload = out.getvalue()
    else:
        payload = cv2.imencode('.bmp', image)[1].tobytes()
    decoded = decode_image(payload, name)
    same = decoded.shape == image.shape
    if not same or (kind != LOSSY and not np.array_equal(decoded, image)):
        raise DataError(
            f'image {name} changes when it is written as {kind}: give '
            'another format as --recode, or none'
        )
    return payload


def write_error(out: str, target: str | Path, error: OSError) -> DataError:
    """Explain why a file cannot be written.

    Args:
        out: The output folder.
        target: The file.
        error: Of the system.
    """
    if error.errno in FULL:
        return DataError(
            f'the disk of {out} is full ({error.strerror}). Every file there '
            'is complete. Make room and run the same command again: it '
            'continues.'
        )
    return DataError(f'{target} cannot be written: {error}')
