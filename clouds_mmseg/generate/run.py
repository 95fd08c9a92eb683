"""Generation of an image set: :func:`generate_images` and its steps.

A generated image set, called image bank in options and configs, is a folder
with images, a manifest and the recipe that they depend on; see
:mod:`~clouds_mmseg.generate.image_bank`. A run creates the images that are
missing, so it can be resumed, and several processes can share it.
"""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from clouds_mmseg.generate.backends import (
    MAX_IMAGES,
    SEED_MODULUS,
    Backend,
    blank_reason,
    encode_png,
    hash_sources,
    list_sources,
    next_attempt,
    request_for,
    to_uint8,
)
from clouds_mmseg.generate.bank_in_store import BankInStore
from clouds_mmseg.generate.image_bank import (
    ImageBank,
    Shard,
    shard_from_environment,
)
from clouds_mmseg.generate.prompts import class_coverage, read_prompts
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.image_set import (
    MANIFEST_FILE,
    read_entries,
    sha256_of,
    warn_of_copies,
)
from clouds_mmseg.utils.images import read_image
from clouds_mmseg.utils.remote import (
    is_address,
    list_below,
    upload_folder,
    written_locally,
)
from clouds_mmseg.utils.shared_work import (
    LEASE_SECONDS,
    ChunksLost,
    Share,
    SharedWork,
    split,
)
from clouds_mmseg.utils.visualization import caption_below, grid, resize

if TYPE_CHECKING:
    from clouds_mmseg.generate.conditions import LabelSources

# Seeds that are tried for one image.
MAX_ATTEMPTS = 6
# Reason of a blank image -> advice in the error.
_ADVICE = {
    'nan': 'The model overflows in this precision: use --dtype float32 or '
    'bfloat16 and another folder',
    'safety checker': 'Change the prompt, or use --safety-checker off and '
    'another folder',
}
SHEET_FILE = 'contact_sheet.png'
_WIDTH = 256  # of an image in the sheet, pixels


@dataclass
class Summary:
    """Result of a run.

    Attributes:
        created: Number of images created.
        existing: Number of images of this process that existed before.
        blank: Reason -> number of blank images, which were created again.
        complete: Whether the image bank has all its images now.
        images_per_second: Of this run; None if it created none.
        share: What this process did of work that was shared.
    """

    created: int = 0
    existing: int = 0
    blank: Counter = field(default_factory=Counter)
    complete: bool = False
    images_per_second: float | None = None
    share: Share | None = None


def generate_images(
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    num: int,
    backend: str = 'toycity',
    seed: int = 0,
    mode: str = 'txt2img',
    source: str | Path | None = None,
    labels: 'str | Path | LabelSources | None' = None,
    image_end: str | None = None,
    label_end: str | None = None,
    keep_labels: bool = False,
    shard: Shard | None = None,
    shared: bool = False,
    lease: float = LEASE_SECONDS,
    verify: bool = False,
    contact_sheet: bool = True,
    copy_to: str | None = None,
    **options: Any,
) -> Summary:
    """Create the missing images of a generated image set.

    Args:
        out: Folder of the set, or an address such as ``s3://bucket/bank``.
        prompts: Prompt file; None for the backend photometric, which has
            styles in their place.
        num: Size of the set. A larger number than before adds images, a
            smaller one changes nothing.
        backend: One of ``BACKENDS``.
        seed: Image i has seed + i. In 0..2**32 - 1.
        mode: ``'txt2img'``; ``'img2img'`` or ``'edit'`` to restyle the
            images of ``source``; ``'label2img'`` to make images from the
            label maps ``labels``.
        source: Folder of labelled images. In mode label2img only for
            conditioning images that are computed from them.
        labels: Mode label2img: folder of label maps with train ids, or label
            maps of any kind.
        image_end, label_end: Mode label2img: how names in the two folders
            differ, see :func:`~clouds_mmseg.generate.conditions.find_labels`.
        keep_labels: ToyCity only: write the labels of the scenes to
            ``labels_for_evaluation``.
        shard: Share of this process; by default from its launcher.
        shared: Whether any number of processes that are started so take
            parts of the work until it is done, in place of fixed shares. At
            an address they always do.
        lease: See :class:`~clouds_mmseg.utils.shared_work.SharedWork`.
        verify: Whether to compare the hash of each existing image.
        contact_sheet: Whether to write a contact sheet at the end.
        copy_to: Address, such as ``s3://bucket/bank``, to which the complete
            set is copied.
        **options: Of the backend, see
            :class:`~clouds_mmseg.generate.toycity.ToyCityBackend`,
            :class:`~clouds_mmseg.generate.diffusion.DiffusionBackend` and
            :class:`~clouds_mmseg.generate.photometric.PhotometricBackend`.

    Raises:
        GenerationError: An argument is out of its range, the folder has
            images of another recipe, or the generation fails.
    """
    if not 1 <= num <= MAX_IMAGES:
        raise GenerationError(f'--num must be in 1..{MAX_IMAGES}, got {num}')
    if not 0 <= seed < SEED_MODULUS:
        raise GenerationError(
            f'--seed must be in 0..{SEED_MODULUS - 1}, got {seed}'
        )
    if (prompts is None) != (backend == 'photometric'):
        raise GenerationError(
            f'--backend {backend} needs --prompts, a file with one a line'
            if prompts is None
            else '--backend photometric takes --styles, not --prompts'
        )
    in_store = is_address(out)
    shared = shared or in_store
    if in_store and shard is not None:
        raise GenerationError(
            f'--out {out}: processes that write to an address take parts of '
            'the work until it is done; leave --shard out'
        )
    if copy_to is not None:
        if in_store:
            raise GenerationError(
                f'--copy-to {copy_to}: the set is made at an address already, '
                f'{out}; make it in a folder, or leave --copy-to out'
            )
        if not is_address(copy_to):
            raise GenerationError(
                f'--copy-to {copy_to} must be an address such as '
                's3://bucket/bank; a folder is named by --out'
            )
        # A store that cannot be read is told before hours of work.
        list_below(copy_to)
    lines = read_prompts(prompts) if prompts is not None else []
    files = _source_files(mode, source, labels, image_end, label_end)
    if files.labelled is not None:
        options['sources'] = files.labelled
    shard = shard or shard_from_environment()
    generator = _build_backend(
        backend, mode=mode, keep_labels=keep_labels, local=shard.local,
        options=options,
    )  # fmt: skip
    if prompts is None:
        lines = list(enumerate(generator.styles, 1))
    recipe = dict(
        generator.recipe(), seed=seed, prompts=[text for _, text in lines]
    )
    info = generator.info()
    if prompts is not None:
        info['prompt_file'] = str(prompts)
    if files.images:
        recipe.update(
            sources=len(files.images),
            sources_digest=hash_sources(files.images, files.labels),
        )
        info['source_root'] = files.root
    writer = None if shared else shard.writer
    bank: ImageBank = (
        BankInStore(str(out), recipe, info=info, num=num)
        if in_store
        else ImageBank(out, recipe, info=info, num=num, writer=writer)
    )
    job = None
    if shared:
        # After the bank has compared the recipe, before it grows.
        job = SharedWork(
            out,
            'generate',
            dict(
                recipe=hash_text(json.dumps(recipe)),
                num=num,
                keep_labels=keep_labels,
                verify=verify,
                contact_sheet=contact_sheet,
                copy_to=copy_to,
            ),
            chunks=len(split(num, generator.batch_size)),
            lease=lease,
        )
        bank.join(job.worker)

    def complete(anew):
        warn_of_copies(out, read_entries(out).values())
        if contact_sheet:
            _update_contact_sheet(out, anew=anew)
        if copy_to is not None:
            count = upload_folder(Path(out), copy_to, last=MANIFEST_FILE)
            print_log(f'{count} files copied to {copy_to}', logger='current')

    try:
        if shard.rank == 0 or shared:
            _report(generator, lines if prompts is not None else [], prompts)
        maker = ImageMaker(
            bank, generator, lines, seed=seed, sources=files.images,
            labels=files.labels, verify=verify,
        )  # fmt: skip
        if job is not None:
            return maker.make_shared(job, complete)
        summary = maker.make(shard)
    finally:
        bank.close()
    if summary.complete:
        complete(summary.created > 0)
    return summary


class _Sources(NamedTuple):
    """Files that images are made from; empty for mode txt2img."""

    root: str = ''
    images: Sequence[tuple[str, str]] = ()
    labels: Mapping[str, str] | None = None
    labelled: 'LabelSources | None' = None


def _source_files(mode, source, labels, image_end, label_end):
    """Find the source images and label maps that a mode needs."""
    from_image = mode in ('img2img', 'edit')
    if from_image != (source is not None) and mode != 'label2img':
        raise GenerationError(
            '--source, the folder of labelled images, belongs to --mode '
            f'img2img and edit; got --mode {mode} and --source {source}'
        )
    if (mode == 'label2img') != (labels is not None):
        raise GenerationError(
            'label maps (--labels or --dataset) belong to --mode label2img; '
            f'got --mode {mode} and --labels {labels}'
        )
    if labels is None:
        for name, value in (('image', image_end), ('label', label_end)):
            if value is not None:
                raise GenerationError(
                    f'--{name}-end {value} belongs to --labels'
                )
        images = list_sources(source) if from_image else []
        return _Sources(str(source), images)
    # Imported here: other modes need no palettes.
    from clouds_mmseg.generate.conditions import LabelSources, find_labels

    if not isinstance(labels, LabelSources):
        images = list_sources(source) if source is not None else ()
        root = labels if source is None else source
        labels = replace(
            find_labels(
                labels,
                images,
                image_end=image_end or '',
                label_end=label_end or '',
            ),
            root=str(root),
        )
    return _Sources(labels.root, labels.images, labels.labels, labels)


def _build_backend(name, *, mode, keep_labels, local, options):
    if name not in _BUILDERS:
        raise GenerationError(
            f'--backend must be one of {", ".join(BACKENDS)}, got {name!r}'
        )
    return _BUILDERS[name](
        mode=mode, keep_labels=keep_labels, local=local, options=options
    )


def _toycity(*, mode, keep_labels, local, options):
    # Imported here: diffusion images need no renderer.
    from clouds_mmseg.generate.toycity import ToyCityBackend

    unknown = set(options) - {'size', 'sources'}
    if unknown:
        raise GenerationError(
            f'the toycity backend has no option {sorted(unknown)[0]!r}; '
            'it knows size'
        )
    options.pop('sources', None)
    return ToyCityBackend(
        render_toycity,
        avoid=target_ranges(),
        mode=mode,
        keep_labels=keep_labels,
        **options,
    )


def _diffusers(*, mode, keep_labels, local, options):
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


def _photometric(*, mode, keep_labels, local, options):
    del local
    from clouds_mmseg.generate.photometric import PhotometricBackend

    unknown = set(options) - {'styles', 'reference'}
    if unknown or keep_labels:
        what = 'keep_labels' if keep_labels else sorted(unknown)[0]
        raise GenerationError(
            f'the photometric backend has no option {what!r}; it knows '
            'styles and reference, and each image keeps the label of its '
            'source'
        )
    return PhotometricBackend(mode=mode, **options)


# Name -> function that builds it. Each gets the mode, whether the labels of
# scenes are kept, the rank of the process on its machine and the options.
_BUILDERS: dict[str, Callable[..., Backend]] = dict(
    toycity=_toycity, diffusers=_diffusers, photometric=_photometric
)
BACKENDS = tuple(_BUILDERS)


def render_toycity(
    seed: int, style: dict, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Render a ToyCity scene in a style given as a dict.

    Returns:
        Image, (H, W, 3) uint8 RGB, and label, (H, W) uint8.
    """
    from clouds_mmseg.toycity import Style, render_scene

    return render_scene(seed, Style('generated', **style), size)


def target_ranges() -> dict[str, list[tuple[float, float]]]:
    """Collect the style ranges of ToyCity's target domains.

    Returns:
        Parameter of a style -> the ranges that targets draw it from; a fixed
        number is a range too.
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


def _report(generator, lines, prompts):
    """Log what the prompts lack, repeat, or lose in the text encoder."""
    note = generator.info().get('note')
    if note:
        print_log(f'{generator.recipe()["backend"]}: {note}', logger='current')
    texts = [text for _, text in lines]
    unnamed = [name for name, n in class_coverage(texts).items() if not n]
    if texts and unnamed:
        # No warning: the user may have other classes.
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
    warnings = generator.check_prompts(lines)
    if warnings:
        print_log(
            f'{prompts}: the text encoder cuts {len(warnings)} prompts:\n'
            + '\n'.join(f'  {line}' for line in warnings),
            logger='current',
            level=logging.WARNING,
        )


class ImageMaker:
    """Creates the missing images of an image bank.

    The work is divided into batches of consecutive images, and a batch is
    generated whole even where some of its images exist or lie beyond the
    end. So each image has the same index in a batch of the same size however
    often the run was interrupted and however many processes there are:
    convolutions round differently with the size of a batch and the index in
    it (observed on CPU, about 1e-6), not with the other images.

    Args:
        bank: Receives the images.
        backend: Generates them.
        prompts: Line and text of each prompt.
        seed: Of image 0; image i has seed + i.
        sources, labels: See
            :func:`~clouds_mmseg.generate.backends.request_for`.
        verify: Whether to compare the hash of each existing image.
    """

    def __init__(
        self,
        bank: ImageBank,
        backend: Backend,
        prompts: Sequence[tuple[int, str]],
        *,
        seed: int,
        sources: Sequence[tuple[str, str]] = (),
        labels: Mapping[str, str] | None = None,
        verify: bool = False,
    ):
        self.bank = bank
        self.backend = backend
        self.seed = seed
        self.verify = verify
        self.request = partial(
            request_for, prompts=prompts, seed=seed, sources=sources,
            labels=labels,
        )  # fmt: skip
        self.summary = Summary()

    def make(self, shard: Shard) -> Summary:
        """Create the images of one of several processes with fixed shares.

        Raises:
            GenerationError: The disk is full, or an image stays blank.
        """
        size, num = self.backend.batch_size, self.bank.num
        own = [
            range(start, min(start + size, num))
            for unit, start in enumerate(range(0, num, size))
            if shard.owns(unit)
        ]
        indices = {index for batch in own for index in batch}
        done = self._done(indices)
        # A complete image bank may be on a read-only disk.
        if done != indices:
            self.bank.begin()
            self.bank.sweep(indices)
            # Another process may have added some before it released its lock.
            done = self._done(indices)
        self.summary.existing = len(done)
        progress = Progress(len(indices), len(done))
        for batch in own:
            self._make_batch(batch, done, progress)
        self.summary.images_per_second = progress.rate()
        self.summary.complete = self.bank.finish()
        return self.summary

    def make_shared(
        self, job: SharedWork, complete: Callable[[bool], None]
    ) -> Summary:
        """Create images until the set is complete, by whichever process.

        Args:
            job: The shared work, of :func:`split` of the images.
            complete: Called by one process when the manifest is written.

        Raises:
            GenerationError: The disk is full, or an image stays blank.
        """
        size, num = self.backend.batch_size, self.bank.num
        chunks = split(num, size)
        known = self.bank.entries()
        progress = Progress(num, 0)

        def work(chunk):
            own = chunks[chunk.number]
            # Of what was begun some images may be there.
            entries = self.bank.entries() if chunk.begun else known
            done = self._done(own, entries)
            self.summary.existing += len(done)
            progress.existing = self.summary.existing
            for start in range(own.start, own.stop, size):
                batch = range(start, min(start + size, num))
                self._make_batch(batch, done, progress)
            self.bank.publish()

        def finish(_):
            done = self._done(range(num))
            lost = [
                number
                for number, own in enumerate(chunks)
                if not done.issuperset(own)
            ]
            if lost:
                raise ChunksLost(lost)
            self.bank.sweep(range(num))
            # Not so if the set was begun with a larger number.
            whole = self.bank.finish()
            if whole:
                complete(True)
            return whole

        self.summary.share = job.run(work, finish)
        self.summary.complete = self.summary.share.result
        if self.summary.complete:
            self.bank.discard()
        self.summary.images_per_second = progress.rate()
        return self.summary

    def _done(self, indices, entries=None):
        return self.bank.done(
            indices, entries, labels=self.backend.keeps_labels,
            verify=self.verify,
        )  # fmt: skip

    def _make_batch(self, batch, done, progress):
        """Create the images of a batch that are not there."""
        if done.issuperset(batch):
            return
        size = self.backend.batch_size
        requests = [self.request(batch.start + k) for k in range(size)]
        images = self.backend.generate(requests)
        for request, generated in zip(requests, images, strict=True):
            if request.index in done or request.index not in batch:
                continue
            request, generated = _until_not_blank(
                self.backend, request, generated, self.seed,
                self.summary.blank,
            )  # fmt: skip
            _add(self.bank, self.backend, request, generated)
            self.summary.created += 1
            progress.step()


def _until_not_blank(backend, request, generated, seed, counts):
    """Generate a blank image again, alone, with further seeds."""
    while reason := _rejected(generated):
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
        (generated,) = backend.generate([request])
    return request, generated


def _rejected(generated):
    """Return why an image is rejected; None for a good one."""
    if generated.unsafe:
        return 'safety checker'
    return blank_reason(generated.image)


def _add(bank, backend, request, generated):
    """Encode an image and add it with its manifest entry."""
    image = to_uint8(generated.image)
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
    if generated.style is not None:
        entry['style'] = generated.style
    if request.source_path is not None:
        entry['source_sha256'] = sha256_of(request.source_path)
    label = training_label = None
    if backend.keeps_labels and generated.label is not None:
        label = encode_png(generated.label)
    if generated.training_label is not None:
        training_label = encode_png(generated.training_label)
    bank.add(
        request.index,
        payload,
        entry,
        label=label,
        training_label=training_label,
    )


class Progress:
    """Log of the progress, a line every few seconds.

    Args:
        total: Images of this process.
        existing: Number of them that existed before.
        interval: Seconds between two lines.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        total: int,
        existing: int,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total = total
        self.existing = existing
        self.created = 0
        self.interval = interval
        self.clock = clock
        self.start = self.last = clock()

    def step(self, count: int = 1) -> None:
        """Count images, and log if it is time."""
        self.created += count
        now = self.clock()
        if now - self.last >= self.interval:
            self.last = now
            print_log(self.line(), logger='current')

    def rate(self) -> float | None:
        """Images a second in this run; None before there is a measurement."""
        seconds = self.clock() - self.start
        return self.created / seconds if self.created and seconds > 0 else None

    def line(self) -> str:
        """Return the line that is logged."""
        done = self.existing + self.created
        text = f'{done}/{self.total} images'
        rate = self.rate()
        if rate is None:
            return text
        left = duration((self.total - done) / rate)
        return f'{text}, {rate:.2f} images/s, {left} left'


def duration(seconds: float) -> str:
    """Format seconds as ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'


def _update_contact_sheet(out, *, anew):
    """Write the contact sheet if it is missing or outdated."""
    path = os.path.join(out, SHEET_FILE)
    if not anew and fileio.isfile(path):
        return
    try:
        write_contact_sheet(out)
    except OSError as error:
        print_log(
            f'{path} is not written: {error}',
            logger='current',
            level=logging.WARNING,
        )


def write_contact_sheet(
    root: str | Path, *, count: int = 24, columns: int = 4
) -> str:
    """Write ``contact_sheet.png``, with images from all over the set.

    Args:
        root: Folder or address of the image bank.
        count: Images at most.
        columns: Of the sheet.

    Returns:
        Its path.
    """
    entries = list(read_entries(root).values())
    count = min(count, len(entries))
    chosen = [entries[i * len(entries) // count] for i in range(count)]
    tiles = [_tile(root, entry) for entry in chosen]
    columns = min(columns, count)
    sheet = grid([tiles[i : i + columns] for i in range(0, count, columns)])
    path = os.path.join(root, SHEET_FILE)
    with written_locally(path) as local, atomic_path(local) as temporary:
        sheet.save(temporary)
    return path


def _tile(root, entry):
    image = resize(read_image(os.path.join(root, entry['file'])), _WIDTH)
    return caption_below(image, f'{entry["index"]}: {entry["prompt"]}')
