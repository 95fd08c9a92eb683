"""Put one file where it belongs."""

import errno
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.archives import READ_ERRORS
from clouds_mmseg.datasets.prepare.convert import (
    TRAIN_IDS,
    encode_label,
    shrink,
)
from clouds_mmseg.datasets.prepare.disk import FULL, write_error
from clouds_mmseg.datasets.prepare.recode import decode_image, encode_exactly
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.image_files import (
    damaged_chunk,
    truncated,
    truncated_file,
)

MADE, THERE, BAD = 'made', 'there', 'bad'


@dataclass(frozen=True)
class Done:
    """What became of a job.

    Attributes:
        state (str): ``made``, ``there`` (before) or ``bad``.
        message (str): What is wrong with a bad file.
    """

    state: str
    message: str = ''


@dataclass(frozen=True)
class Placer:
    """Makes the files of a prepared folder.

    Attributes:
        out (str): The folder.
        sources (tuple): All sources.
        link (bool): Whether files of folders are linked instead of copied.
        resize_short (int, optional): Short edge of the copies.
        recode (str, optional): Format of the copies of images.
    """

    out: str
    sources: tuple
    link: bool = True
    resize_short: int | None = None
    recode: str | None = None

    def __call__(self, job, payload=None):
        """Make one file unless it is there.

        Args:
            job (Job): What to do.
            payload (bytes, optional): The published file, where it has been
                read already.

        Returns:
            Done: ``bad`` if the published file cannot be used.

        Raises:
            DataError: The output cannot be written, or another file is in
                the way. Nothing else can be done then.
        """
        source = self.sources[job.source]
        target = Path(self.out) / job.target
        as_is = job.convert is None and self.resize_short is None
        if job.part == 'image':
            as_is = as_is and self.recode is None
        if os.path.lexists(target):
            there = self._there(job, source, target, as_is)
            if there:
                return there
        if as_is and source.is_folder:
            return self._bring(job, source, target)
        name = source.describe(job.member)
        try:
            payload = source.read(job.member) if payload is None else payload
            # A copy in another format no longer shows that it was damaged.
            sums = job.part == 'label' or bool(self.recode)
            _require(payload, job, name, sums)
            if not as_is:
                payload = self._convert(job, payload, name)
        except READ_ERRORS as error:
            return Done(BAD, f'{job.part} {name} cannot be read ({error})')
        except DataError as error:
            return Done(BAD, str(error))
        with self._writing(target), atomic_path(target) as temporary:
            temporary.write_bytes(payload)
        return Done(MADE)

    def _there(self, job, source, target, as_is):
        """Whether the file has been made; removes links that are not it."""
        linked = target.is_symlink()
        own = (
            source.is_folder
            and target.exists()
            and target.samefile(job.member.place)
        )
        # A link to nothing: the source was moved since. Or a copy is asked
        # for where there is a link of ours.
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
            # Prepared in place: nobody has looked at this file yet.
            return self._complete(job, source) or Done(THERE)
        size = target.stat().st_size
        # What is converted has no size to compare; it was renamed into
        # place when it was whole.
        if own or (size == job.member.size if as_is else size and not linked):
            return Done(THERE)
        raise DataError(
            f'{target} is in the way: it is not the file that '
            f'{source.describe(job.member)} becomes. Nothing is overwritten: '
            'delete it, or give another folder as --out.'
        )

    def _bring(self, job, source, target):
        """Link or copy a file of a folder."""
        path = job.member.place
        problem = self._complete(job, source)
        if problem:
            return problem
        with self._writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            ways = [os.link] if source.owned else []
            if self.link and not source.owned:
                ways = [os.symlink, os.link]
            for way in ways:
                try:
                    way(path, target)
                except OSError as error:
                    if error.errno in (*FULL, errno.EEXIST):
                        raise
                else:
                    return Done(MADE)
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
        return Done(MADE)

    def _complete(self, job, source):
        """Return what is wrong with a file of a folder, or None."""
        try:
            with open(job.member.place, 'rb') as stream:
                problem = truncated_file(stream)
        except OSError as error:
            problem = f'cannot be read ({error})'
        if problem:
            name = source.describe(job.member)
            return Done(BAD, f'{job.part} {name} {problem}')
        return None

    def _convert(self, job, payload, name):
        short = self.resize_short
        if job.part == 'label':
            label = (job.convert or TRAIN_IDS)(payload, name)
            if short:
                label = shrink(label, short, label=True)
            return encode_label(label)
        image = decode_image(payload, name)
        smaller = shrink(image, short, label=False) if short else image
        if self.recode:
            return encode_exactly(smaller, self.recode, name)
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


def _require(payload, job, name, sums):
    """Check that a file is whole, and if wanted its checksums.

    Decoders read a label with a flipped bit into other ids, without a word.
    """
    problem = truncated(payload)
    if not problem and sums:
        chunk = damaged_chunk(payload)
        if chunk:
            problem = f'is damaged: wrong checksum of its chunk {chunk}'
    if problem:
        raise DataError(f'{job.part} {name} {problem}')
