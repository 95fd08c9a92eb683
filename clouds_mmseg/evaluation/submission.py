"""What the evaluation servers of Cityscapes and ACDC accept.

Both take one zip file of PNG label maps, one for each test image, at the size
of the images.

Cityscapes: pixels are **label ids**, not train ids; a file is found by the
pattern ``<city>_<sequence>_<frame>*.png`` anywhere in the archive, exactly one
for each image. Source: cityscapesscripts,
``evaluation/evalPixelLevelSemanticLabeling.py`` (its first comment and
``getPrediction``), and the maintainer in its issue 65 on GitHub.

ACDC: pixels are **train ids** ("Labels must be encoded in trainIDs format,
e.g., road should correspond to ID 0", 1920x1080), in a folder
``labelTrainIds``, under the names of the images. Source: the rules of
https://acdc.vision.ee.ethz.ch/submit as the README of DTBS quotes them, and
the submissions that DAFormer, HRDA, MIC and VBLC make
(``imgfile_prefix=labelTrainIds to_label_id=False``).
"""

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from PIL import Image

from clouds_mmseg.utils.cityscapes import CLASSES, LABEL_ID_TO_TRAIN_ID
from clouds_mmseg.utils.errors import UserError

# How many files a problem names.
_NAMED = 3


@dataclass(frozen=True)
class Rules:
    """The rules of one server.

    Attributes:
        title: What people call it.
        url: Where the zip goes.
        folder: Of the files in the zip.
        pattern: What a file name must match; the group ``key`` names the
            image.
        example: A right name.
        size: Width and height, pixels.
        ids: Train id -> id in the files.
        kind: What these ids are called.
        counts: Split -> number of images.
    """

    title: str
    url: str
    folder: str
    pattern: str
    example: str
    size: tuple
    ids: dict = field(repr=False)
    kind: str = 'train ids'
    counts: dict = field(default_factory=dict)

    def key(self, name):
        """Return what a file name says of its image, None if it is wrong."""
        match = re.fullmatch(self.pattern, name)
        return match and match['key']


SERVERS = dict(
    cityscapes=Rules(
        title='Cityscapes',
        url='https://www.cityscapes-dataset.com/submit/',
        folder='results',
        pattern=r'(?P<key>[a-z]+_\d{6}_\d{6}).*\.png',
        example='berlin_000000_000019_leftImg8bit.png',
        size=(2048, 1024),
        ids={t: i for i, t in LABEL_ID_TO_TRAIN_ID.items()},
        kind='label ids',
        counts=dict(val=500, test=1525),
    ),
    acdc=Rules(
        title='ACDC',
        url='https://acdc.vision.ee.ethz.ch/submit',
        folder='labelTrainIds',
        pattern=r'(?P<key>[A-Z0-9]+_frame_\d{6})_rgb_anon\.png',
        example='GOPR0475_frame_000041_rgb_anon.png',
        size=(1920, 1080),
        ids={t: t for t in range(len(CLASSES))},
        counts=dict(val=406, test=2000),
    ),
)


def check_names(names, rules, *, split='test'):
    """Compare file names with the rules of a server.

    Args:
        names (Iterable[str]): File names, without folders.
        rules (Rules): Of the server.
        split (str): Whose number of images is wanted.

    Returns:
        list[str]: Problems; empty if all is well.
    """
    problems, keys, wrong, double = [], set(), [], []
    for name in names:
        key = rules.key(name)
        if key is None:
            wrong.append(name)
        elif key in keys:
            double.append(name)
        else:
            keys.add(key)
    if wrong:
        problems.append(f'{_some(wrong)}: names must be like {rules.example}')
    if double:
        problems.append(f'{_some(double)}: another file is of the same image')
    wanted = rules.counts[split]
    if len(keys) != wanted:
        problems.append(
            f'{len(keys)} images, but the {split} split of {rules.title} has '
            f'{wanted}'
        )
    return problems


def check_submission(path, server, *, split='test'):
    """Compare a zip file with the rules of its server.

    Names, number, sizes, modes and ids are looked at; every file is decoded.

    Args:
        path (str | Path): The zip file.
        server (str): A key of :data:`SERVERS`.
        split (str): ``'test'``, or ``'val'`` for a rehearsal.

    Returns:
        list[str]: Problems; empty if the server will take it.

    Raises:
        UserError: The server or split is unknown, or there is no such file.
    """
    rules = rules_of(server, split)
    try:
        with zipfile.ZipFile(path) as archive:
            return _check_archive(archive, rules, split)
    except FileNotFoundError as error:
        raise UserError(f'there is no zip file {path}') from error
    except zipfile.BadZipFile as error:
        return [f'{path} is no zip file, or damaged: {error}']


def rules_of(server, split='test'):
    """Return the rules of a server.

    Raises:
        UserError: The server or the split is unknown.
    """
    if server not in SERVERS:
        raise UserError(
            f'unknown server {server!r}; there are: ' + ', '.join(SERVERS)
        )
    rules = SERVERS[server]
    if split not in rules.counts:
        raise UserError(
            f'{rules.title} has no split {split!r} to predict; there are: '
            + ', '.join(rules.counts)
        )
    return rules


def _check_archive(archive, rules, split):
    entries = [e for e in archive.infolist() if not e.is_dir()]
    problems, names = [], []
    outside, bad = [], {}
    for entry in entries:
        place = PurePosixPath(entry.filename)
        if place.parts[:-1] != (rules.folder,):
            outside.append(entry.filename)
            continue
        names.append(place.name)
        if rules.key(place.name) is not None:
            problem = _check_picture(archive, entry, rules)
            if problem:
                bad.setdefault(problem, []).append(place.name)
    if outside:
        problems.append(f'{_some(outside)}: files must lie in {rules.folder}/')
    problems += check_names(names, rules, split=split)
    problems += [f'{_some(files)}: {what}' for what, files in bad.items()]
    return problems


def _check_picture(archive, entry, rules):
    """Return what is wrong with one label map, or None."""
    try:
        with archive.open(entry) as stream, Image.open(stream) as image:
            mode, size = image.mode, image.size
            if mode not in ('L', 'P'):
                return f'mode {mode}, but 8-bit with one channel is wanted'
            if size != rules.size:
                return (
                    f'{size[0]}x{size[1]} pixels, but the images of '
                    f'{rules.title} have {rules.size[0]}x{rules.size[1]}'
                )
            histogram = image.histogram()
    except (
        OSError,
        SyntaxError,
        ValueError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as error:
        return f'cannot be decoded ({error})'
    legal = set(rules.ids.values())
    odd = [i for i, n in enumerate(histogram) if n and i not in legal]
    if odd:
        return (
            f'ids {", ".join(map(str, odd[:5]))}'
            f'{", ..." if len(odd) > 5 else ""}, which no evaluated class '
            f'has; {rules.title} wants {rules.kind}'
        )
    return None


def _some(names):
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return ', '.join(names[:_NAMED]) + more
