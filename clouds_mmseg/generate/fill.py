"""The loop that fills a bank with what is missing."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field

from mmengine.logging import print_log

from clouds_mmseg.generate.blank import blank_reason, encode_png, to_uint8
from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.progress import Progress
from clouds_mmseg.generate.request import next_attempt, request_for
from clouds_mmseg.utils.bank_manifest import sha256_of

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
