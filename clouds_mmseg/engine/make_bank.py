"""Make a bank of generated images: where generation meets the renderer."""

import logging
from pathlib import Path

from mmengine.logging import print_log

from clouds_mmseg.generate.bank import Bank
from clouds_mmseg.generate.contact_sheet import (
    SHEET_FILE,
    write_contact_sheet,
)
from clouds_mmseg.generate.coverage import class_coverage
from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.fill import fill_bank
from clouds_mmseg.generate.prompt_file import read_prompts
from clouds_mmseg.generate.request import MAX_IMAGES, SEED_MODULUS
from clouds_mmseg.generate.sharding import shard_from_environment
from clouds_mmseg.generate.source_image import digest_sources, list_sources
from clouds_mmseg.utils.bank_manifest import read_entries, warn_of_copies

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
            :class:`~clouds_mmseg.generate.toycity_backend.ToyCityBackend`
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
        from clouds_mmseg.generate.toycity_backend import ToyCityBackend

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
    from clouds_mmseg.datasets.toycity import Style, render_scene

    return render_scene(seed, Style('generated', **style), size)


def target_ranges():
    """Collect what the target domains of ToyCity look like.

    Returns:
        dict[str, list[tuple[float, float]]]: Parameter of a style -> the
        ranges that targets draw it from; a fixed number is a range too.
    """
    from clouds_mmseg.datasets.toycity import STYLES

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
