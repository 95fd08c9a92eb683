"""Generation of an image set, resumable and sharded."""

import hashlib
import logging
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.logging import print_log
from PIL import Image, ImageDraw, ImageFont

from clouds_mmseg.generate.backends import (
    MAX_IMAGES,
    SEED_MODULUS,
    blank_reason,
    digest_sources,
    encode_png,
    list_sources,
    next_attempt,
    request_for,
    to_uint8,
)
from clouds_mmseg.generate.image_bank import Bank, shard_from_environment
from clouds_mmseg.generate.prompts import class_coverage, read_prompts
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import (
    read_entries,
    sha256_of,
    warn_of_copies,
)
from clouds_mmseg.utils.images import read_image


class Progress:
    """Logs a line every few seconds.

    Args:
        total (int): Images of this process.
        there (int): How many of them were there before.
        interval (float): Seconds between two lines.
        clock (Callable[[], float]): Seconds that never go back.
    """

    def __init__(self, total, there, *, interval=10.0, clock=time.monotonic):
        self.total = total
        self.there = there
        self.made = 0
        self.interval = interval
        self.clock = clock
        self.start = self.last = clock()

    def step(self, count=1):
        """Count images, and log if it is time."""
        self.made += count
        now = self.clock()
        if now - self.last >= self.interval:
            self.last = now
            print_log(self.line(), logger='current')

    def rate(self):
        """Images a second in this run; None before there is a measurement."""
        seconds = self.clock() - self.start
        return self.made / seconds if self.made and seconds > 0 else None

    def line(self):
        """Return the line that is logged."""
        done = self.there + self.made
        text = f'{done}/{self.total} images'
        rate = self.rate()
        if rate is None:
            return text
        left = duration((self.total - done) / rate)
        return f'{text}, {rate:.2f} images/s, {left} left'


def duration(seconds):
    """Write seconds as ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'


MAX_ATTEMPTS = 6
_ADVICE = {
    'nan': 'The model overflows in this precision: use --dtype float32 or '
    'bfloat16 and another folder',
    'safety checker': 'Change the prompt, or use --safety-checker off and '
    'another folder',
}


@dataclass
class Summary:
    """What a run did.

    Attributes:
        made: Images made.
        there: Images of this process that were there before.
        blank: Reason -> how many images came out blank and were made again.
        complete: Whether the bank has all its images now.
        images_per_second: Of this run; None if it made none.
    """

    made: int = 0
    there: int = 0
    blank: Counter = field(default_factory=Counter)
    complete: bool = False
    images_per_second: float | None = None


def fill_bank(
    bank, backend, prompts, *, seed, shard, sources=(), verify=False
):
    """Make the images of a bank that are missing and belong to a process.

    The work is divided into batches of consecutive images, and a batch is
    made whole even where a part of it is there already or lies beyond the
    end. So each image has the same place in a batch of the same size however
    often the run was interrupted and however many processes there are:
    convolutions round differently with the size of a batch and with the
    place in it (observed on CPU, about 1e-6), not with the other images.

    Args:
        bank (Bank): Where the images go.
        backend (Backend): What makes them.
        prompts (Sequence[tuple[int, str]]): Line and text of each prompt.
        seed (int): Of image 0; image i has seed + i.
        shard (Shard): Share of this process.
        sources (Sequence[tuple[str, str]]): See :func:`request_for`.
        verify (bool): Whether to read every image that is there and compare
            its hash.

    Returns:
        Summary: What was done.

    Raises:
        GenerationError: The disk is full, or an image stays blank.
    """
    size = backend.batch_size
    own = [
        range(start, min(start + size, bank.num))
        for unit, start in enumerate(range(0, bank.num, size))
        if shard.owns(unit)
    ]
    indices = {index for batch in own for index in batch}

    def found():
        return indices & bank.done(labels=backend.keeps_labels, verify=verify)

    done = found()
    # A bank that lacks nothing may lie where nothing can be written.
    if done != indices:
        bank.begin()
        bank.sweep(indices)
        # Another process may have made some until it gave up its claim.
        done = found()
    summary = Summary(there=len(done))
    progress = Progress(len(indices), len(done))
    for batch in own:
        if done.issuperset(batch):
            continue
        requests = [
            request_for(batch.start + k, prompts, seed=seed, sources=sources)
            for k in range(size)
        ]
        pictures = backend.generate(requests)
        for request, picture in zip(requests, pictures, strict=True):
            if request.index in done or request.index not in batch:
                continue
            request, picture = _until_not_blank(
                backend, request, picture, seed, summary.blank
            )
            _add(bank, backend, request, picture)
            summary.made += 1
            progress.step()
    summary.images_per_second = progress.rate()
    summary.complete = bank.finish()
    return summary


def _until_not_blank(backend, request, picture, seed, counts):
    """Try further seeds, alone, until the image shows something."""
    while reason := _rejected(picture):
        counts[reason] += 1
        print_log(
            f'image {request.index} (seed {request.seed}, prompt line '
            f'{request.line}) came out blank ({reason}); it is made again '
            'with the next seed',
            logger='current',
            level=logging.WARNING,
        )
        if request.attempt + 1 >= MAX_ATTEMPTS:
            advice = _ADVICE.get(reason, 'Change the prompt or the model')
            raise GenerationError(
                f'image {request.index} came out blank ({reason}) with '
                f'{MAX_ATTEMPTS} seeds, the last one {request.seed}; its '
                f'prompt is line {request.line}: {request.prompt!r}. {advice}.'
            )
        request = next_attempt(request, seed)
        (picture,) = backend.generate([request])
    return request, picture


def _rejected(picture):
    """Say why an image must not be kept; None for a good one."""
    if picture.unsafe:
        return 'safety checker'
    return blank_reason(picture.image)


def _add(bank, backend, request, picture):
    image = to_uint8(picture.image)
    height, width = image.shape[:2]
    payload = encode_png(image)
    recipe = bank.recipe
    entry = dict(
        prompt=request.prompt,
        line=request.line,
        seed=request.seed,
        attempt=request.attempt,
        model=recipe['model'],
        mode=recipe['mode'],
        source=request.source,
        width=width,
        height=height,
        bytes=len(payload),
        sha256=hashlib.sha256(payload).hexdigest(),
    )
    if request.source_path is not None:
        entry['source_sha256'] = sha256_of(request.source_path)
    label = None
    if backend.keeps_labels and picture.label is not None:
        label = encode_png(picture.label)
    bank.add(request.index, payload, entry, label=label)


SHEET_FILE = 'contact_sheet.png'
_WIDTH = 256
_LINES, _LINE_HEIGHT, _MARGIN = 3, 12, 6


def write_contact_sheet(root, *, count=24, columns=4):
    """Write ``contact_sheet.png`` into a bank.

    The images are spread evenly over the bank.

    Args:
        root (str | Path): Folder of the bank.
        count (int): Images at most.
        columns (int): Of the sheet.

    Returns:
        Path: The file.
    """
    root = Path(root)
    entries = list(read_entries(root).values())
    count = min(count, len(entries))
    chosen = [entries[i * len(entries) // count] for i in range(count)]
    tiles = [_tile(root, entry) for entry in chosen]
    columns = min(columns, count)
    rows = [tiles[i : i + columns] for i in range(0, count, columns)]
    width = columns * (_WIDTH + _MARGIN) + _MARGIN
    heights = [max(tile.height for tile in row) + _MARGIN for row in rows]
    sheet = Image.new('RGB', (width, sum(heights) + _MARGIN), 'white')
    y = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (_MARGIN + column * (_WIDTH + _MARGIN), y))
        y += height
    path = root / SHEET_FILE
    with atomic_path(path) as temporary:
        sheet.save(temporary)
    return path


def _tile(root, entry):
    image = Image.fromarray(read_image(root / entry['file']))
    height = max(1, round(image.height * _WIDTH / image.width))
    image = image.resize((_WIDTH, height), Image.BILINEAR)
    tile = Image.new('RGB', (_WIDTH, height + _LINES * _LINE_HEIGHT), 'white')
    tile.paste(image, (0, 0))
    text = f'{entry["index"]}: {entry["prompt"]}'
    # The built-in font has Latin letters only.
    text = text.encode('latin-1', 'replace').decode('latin-1')
    lines = textwrap.wrap(text, 46)[:_LINES]
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        draw.text(
            (1, height + number * _LINE_HEIGHT), line, fill='black',
            font=ImageFont.load_default(10),
        )  # fmt: skip
    return tile


BACKENDS = ('toycity', 'diffusers')


def make_bank(
    out,
    *,
    prompts,
    num,
    backend='toycity',
    seed=0,
    mode='txt2img',
    source=None,
    keep_labels=False,
    shard=None,
    verify=False,
    contact_sheet=True,
    **options,
):
    """Make what is missing of a bank of generated images.

    Args:
        out (str | Path): Folder of the bank.
        prompts (str | Path): Prompt file.
        num (int): Images that the bank shall have. More of them than before
            make it grow; fewer change nothing.
        backend (str): ``'toycity'`` or ``'diffusers'``.
        seed (int): Image i has seed + i. In 0..2**32 - 1.
        mode (str): ``'txt2img'``, or ``'img2img'`` to restyle the images of
            ``source``.
        source (str | Path, optional): Folder of labelled images.
        keep_labels (bool): ToyCity only: write the labels of the scenes to
            ``labels_for_evaluation``.
        shard (Shard, optional): Share of this process; by default what its
            launcher says.
        verify (bool): Whether to compare the hash of each image that is
            there.
        contact_sheet (bool): Whether to write a contact sheet at the end.
        **options: Of the backend, see
            :class:`~clouds_mmseg.generate.toycity.ToyCityBackend`
            and :class:`~clouds_mmseg.generate.diffusion.DiffusionBackend`.

    Returns:
        Summary: What was done.

    Raises:
        GenerationError: An argument is out of its range, the bank on disk is
            another one, or making the images fails.
    """
    if not 1 <= num <= MAX_IMAGES:
        raise GenerationError(f'--num must be in 1..{MAX_IMAGES}, got {num}')
    if not 0 <= seed < SEED_MODULUS:
        raise GenerationError(
            f'--seed must be in 0..{SEED_MODULUS - 1}, got {seed}'
        )
    if (mode == 'img2img') != (source is not None):
        raise GenerationError(
            '--source, the folder of labelled images, belongs to --mode '
            f'img2img; got --mode {mode} and --source {source}'
        )
    lines = read_prompts(prompts)
    sources = list_sources(source) if source is not None else []
    shard = shard or shard_from_environment()
    maker = _build(
        backend, mode=mode, keep_labels=keep_labels, local=shard.local,
        options=options,
    )  # fmt: skip
    recipe = dict(
        maker.recipe(), seed=seed, prompts=[text for _, text in lines]
    )
    info = dict(maker.info(), prompt_file=str(prompts))
    if sources:
        recipe.update(
            sources=len(sources), sources_digest=digest_sources(sources)
        )
        info['source_root'] = str(source)
    bank = Bank(out, recipe, info=info, num=num, rank=shard.rank)
    try:
        if shard.rank == 0:
            _report(maker, lines, prompts)
        summary = fill_bank(
            bank, maker, lines, seed=seed, shard=shard, sources=sources,
            verify=verify,
        )  # fmt: skip
    finally:
        bank.close()
    if summary.complete:
        warn_of_copies(out, read_entries(out).values())
    if contact_sheet and summary.complete:
        _look_after_sheet(Path(out), anew=summary.made > 0)
    return summary


def _look_after_sheet(out, *, anew):
    """Write the contact sheet where it is missing or old."""
    if not anew and (out / SHEET_FILE).is_file():
        return
    try:
        write_contact_sheet(out)
    except OSError as error:
        print_log(
            f'{out / SHEET_FILE} is not written: {error}',
            logger='current',
            level=logging.WARNING,
        )


def _build(name, *, mode, keep_labels, local, options):
    if name == 'toycity':
        # Imported here: a bank of diffusion images needs no renderer.
        from clouds_mmseg.generate.toycity import ToyCityBackend

        unknown = set(options) - {'size'}
        if unknown:
            raise GenerationError(
                f'the toycity backend has no option {sorted(unknown)[0]!r}; '
                'it knows size'
            )
        return ToyCityBackend(
            render_toycity,
            avoid=target_ranges(),
            mode=mode,
            keep_labels=keep_labels,
            **options,
        )
    if name == 'diffusers':
        if keep_labels:
            raise GenerationError(
                '--keep-labels: a diffusion model knows no labels; use '
                '--backend toycity'
            )
        if not options.get('model'):
            raise GenerationError(
                '--backend diffusers needs --model: the folder or id of a '
                'pipeline, for example stabilityai/stable-diffusion-2'
            )
        from clouds_mmseg.generate.diffusion import DiffusionBackend

        return DiffusionBackend(mode=mode, local=local, **options)
    raise GenerationError(
        f'--backend must be one of {", ".join(BACKENDS)}, got {name!r}'
    )


def render_toycity(seed, style, size):
    """Render a ToyCity scene in a style given as a dict.

    Returns:
        tuple[np.ndarray, np.ndarray]: (H, W, 3) uint8 RGB and (H, W) uint8.
    """
    from clouds_mmseg.toycity import Style, render_scene

    return render_scene(seed, Style('generated', **style), size)


def target_ranges():
    """Collect what the target domains of ToyCity look like.

    Returns:
        dict[str, list[tuple[float, float]]]: Parameter of a style -> the
        ranges that targets draw it from; a fixed number is a range too.
    """
    from clouds_mmseg.toycity import STYLES

    ranges = {}
    for name, style in STYLES.items():
        if name == 'source':
            continue
        for key, value in vars(style).items():
            if isinstance(value, (int, float)):
                value = (value, value)
            if isinstance(value, tuple) and len(value) == 2:
                ranges.setdefault(key, []).append(value)
    return ranges


def _report(maker, lines, prompts):
    note = maker.info().get('note')
    if note:
        print_log(f'{maker.recipe()["backend"]}: {note}', logger='current')
    texts = [text for _, text in lines]
    unnamed = [name for name, n in class_coverage(texts).items() if not n]
    if unnamed:
        # The 19 classes may not be the user's; it is for him to judge.
        print_log(
            f'{prompts}: of the classes of Cityscapes no prompt names '
            + ', '.join(unnamed),
            logger='current',
        )
    if len(set(texts)) < len(texts):
        print_log(
            f'{prompts}: {len(texts) - len(set(texts))} of {len(texts)} '
            'prompts stand there more than once',
            logger='current',
            level=logging.WARNING,
        )
    warnings = maker.check_prompts(lines)
    if warnings:
        print_log(
            f'{prompts}: the text encoder cuts {len(warnings)} prompts:\n'
            + '\n'.join(f'  {line}' for line in warnings),
            logger='current',
            level=logging.WARNING,
        )
