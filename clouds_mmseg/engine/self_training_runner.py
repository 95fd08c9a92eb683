"""Runner that provides what self-training needs before it starts."""

import os.path as osp
import shlex
import time

from mmengine import fileio
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.registry import RUNNERS

from clouds_mmseg.engine.image_sources import dataset_sources
from clouds_mmseg.engine.runner import DGRunner
from clouds_mmseg.generate.dense_prompts import make_prompts
from clouds_mmseg.generate.prompts import write_prompts
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import OutputLockedError, UserError
from clouds_mmseg.utils.image_set import MANIFEST_FILE
from clouds_mmseg.utils.packed_set import is_packed

# Of banks that name none: those of the official length.
PROMPT_KIND = 'short'


@RUNNERS.register_module()
class SelfTrainingRunner(DGRunner):
    """:class:`DGRunner` that checks or creates the inputs of self-training.

    ``banks`` of the config lists the generated image sets ("image banks")
    that training reads::

        banks = [dict(out='data/bank', num=5000, make=False)]

    ``make=True`` generates a set that is missing or incomplete, with the
    other entries as arguments of ``tools/generate_images.py``;
    ``num_prompts`` prompts of ``prompt_kind`` (default ``'short'``, see
    :func:`~clouds_mmseg.generate.dense_prompts.make_prompts`) are written
    beside it first, where there are none. This is meant for
    the built-in renderer: diffusion takes hours and is run separately.
    """

    def _check_prerequisites(self):
        """Check or create what self-training needs.

        Raises:
            UserError: A generated image set or the checkpoint of the
                source-only training is missing.
        """
        require_warmup(self.cfg, self._load_from)
        for bank in self.cfg.get('banks', []):
            require_generated_images(dict(bank), self._launcher)


def require_warmup(cfg: Config, checkpoint: str | None) -> None:
    """Refuse self-training that would start with an untrained teacher.

    Args:
        checkpoint: Path that the run starts from or resumes.

    Raises:
        UserError: ``warmup_iters`` is 0 and there is no checkpoint.
    """
    if cfg.train_cfg.get('warmup_iters', 0) > 0:
        return
    if checkpoint is None:
        raise UserError(
            'train_cfg.warmup_iters is 0, so self-training starts from a '
            'finished source-only training, and load_from names none; run: '
            'clouds train clouds_mmseg::warmup/NAME.py, then give '
            '--cfg-options load_from=work_dirs/NAME/iter_N.pth'
        )


def require_generated_images(bank: dict, launcher: str) -> None:
    """Check that a generated image set is complete, or generate it.

    Args:
        bank: An entry of ``banks``; modified in place.
        launcher: ``launcher`` of the run.

    Raises:
        UserError: The set is missing and is not to be generated here.
    """
    out = resolve_data_root(bank.pop('out'))
    make = bank.pop('make', False)
    finished = fileio.isfile(osp.join(out, MANIFEST_FILE))
    # A packed set is used as it is.
    if not make or is_packed(out):
        if not finished:
            raise UserError(
                f'the image bank {out} is missing or unfinished; make it '
                'with: ' + generation_command(out, bank)
            )
        return
    if launcher != 'none':
        if not finished:
            raise UserError(
                f'the image bank {out} is missing or unfinished, and a '
                'distributed run does not make it; run first: '
                + generation_command(out, bank)
            )
        return
    prompts = f'{out}_prompts.txt'
    number, seed = bank.pop('num_prompts', 100), bank.get('seed', 0)
    kind = bank.pop('prompt_kind', PROMPT_KIND)
    if bank.get('backend') == 'photometric':
        # Styles stand in place of prompts.
        prompts = None
    elif not osp.isfile(prompts):
        texts, duplicates = make_prompts(kind, number, seed=seed)
        write_prompts(
            prompts,
            texts,
            dict(
                backend='template',
                kind=kind,
                seed=seed,
                duplicates=duplicates,
            ),
        )
    print_log(f'Checking the image bank {out}', logger='current')
    for key in ('source', 'labels'):
        if bank.get(key):
            bank[key] = resolve_data_root(bank[key])
    if bank.get('dataset'):
        bank['labels'] = dataset_sources(
            bank.pop('dataset'),
            resolve_data_root(bank.pop('data_root', None)),
            bank.pop('split', None),
        )
    _generate_or_wait(out, prompts=prompts, **bank)


def _generate_or_wait(out, **bank):
    """Generate an image set, or wait while another run generates it."""
    waits = False
    while True:
        try:
            return generate_images(out, **bank)
        except OutputLockedError:
            if not waits:
                print_log(
                    f'Another process is making the image bank {out}: waiting',
                    logger='current',
                )
            waits = True
            time.sleep(1)


def generation_command(out: str, bank: dict) -> str:
    """Return the command that generates an image set.

    Args:
        out: Folder of the images.
        bank: Arguments of ``generate_images``.

    Returns:
        A shell command.
    """
    bank = dict(bank)
    number = bank.pop('num_prompts', 100)
    kind = bank.pop('prompt_kind', PROMPT_KIND)
    for key in ('source', 'labels', 'data_root'):
        if bank.get(key):
            bank[key] = resolve_data_root(bank[key])
    options = [w for key, value in bank.items() for w in _option(key, value)]
    if bank.get('backend') == 'photometric':
        return shlex.join(['clouds', 'generate', '--out', out, *options])
    prompts = f'{out}_prompts.txt'
    written = [
        'clouds', 'prompts', '--kind', kind, '--num', str(number), '--out',
        prompts,
    ]  # fmt: skip
    if bank.get('seed'):
        written += ['--seed', str(bank['seed'])]
    words = ['clouds', 'generate', '--prompts', prompts, '--out', out]
    return f'{shlex.join(written)} && {shlex.join([*words, *options])}'


def _option(key, value):
    """Return the words of an option; none where it is off."""
    name = f'--{key.replace("_", "-")}'
    if value is True:
        return [name]
    if value is None or value is False:
        return []
    if key == 'size' and isinstance(value, (list, tuple)):
        return [name, 'x'.join(map(str, value))]
    many = isinstance(value, (list, tuple))
    return [name, *map(str, value if many else [value])]
