"""A runner that has everything in place before self-training begins."""

import os.path as osp
import time

from mmengine.logging import print_log
from mmseg.registry import RUNNERS

from clouds_mmseg.engine.runner import DGRunner
from clouds_mmseg.generate.prompts import template_prompts, write_prompts
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import OutputLockedError, UserError
from clouds_mmseg.utils.image_set import MANIFEST_FILE


@RUNNERS.register_module()
class SelfTrainingRunner(DGRunner):
    """:class:`DGRunner` that knows what self-training needs.

    The config says in ``banks`` which banks of generated images the training
    reads::

        banks = [dict(out='data/bank', num=5000, make=False)]

    ``make=True`` makes a bank that is missing or unfinished, with the other
    entries as arguments of ``tools/generate_images.py``; ``num_prompts``
    prompts are written beside it first. That suits the embedded renderer;
    diffusion takes hours and its own command.
    """

    def _require(self):
        """Check or make what self-training needs.

        Raises:
            UserError: A bank or the warm-up checkpoint is missing.
        """
        require_warmup(self.cfg, self._load_from)
        for bank in self.cfg.get('banks', []):
            require_bank(dict(bank), self._launcher)


def require_warmup(cfg, checkpoint):
    """Refuse self-training that would begin with an untrained teacher.

    Args:
        cfg (Config): The config.
        checkpoint (str | None): What the run starts from or resumes.

    Raises:
        UserError: ``warmup_iters`` is 0 and there is no checkpoint.
    """
    if cfg.train_cfg.get('warmup_iters', 0) > 0:
        return
    if checkpoint is None:
        raise UserError(
            'train_cfg.warmup_iters is 0, so self-training starts from a '
            'finished warm-up, and load_from names none; make one with: '
            'python tools/train.py configs/warmup/NAME.py, then give '
            '--cfg-options load_from=work_dirs/NAME/iter_N.pth'
        )


def require_bank(bank, launcher):
    """See that a bank is there, or make it.

    Args:
        bank (dict): An entry of ``banks``; it is used up.
        launcher (str): Of the run.

    Raises:
        UserError: The bank is missing and not to be made here.
    """
    out = resolve_data_root(bank.pop('out'))
    make = bank.pop('make', False)
    finished = osp.isfile(osp.join(out, MANIFEST_FILE))
    if not make:
        if not finished:
            raise UserError(
                f'the bank {out} is missing or unfinished; make it with: '
                + bank_command(out, bank)
            )
        return
    if launcher != 'none':
        if not finished:
            raise UserError(
                f'the bank {out} is missing or unfinished, and a distributed '
                f'run does not make it; run first: {bank_command(out, bank)}'
            )
        return
    prompts = f'{out}_prompts.txt'
    number, seed = bank.pop('num_prompts', 100), bank.get('seed', 0)
    if not osp.isfile(prompts):
        texts, duplicates = template_prompts(number, seed=seed)
        write_prompts(
            prompts,
            texts,
            dict(backend='template', seed=seed, duplicates=duplicates),
        )
    print_log(f'Looking after the bank {out}', logger='current')
    if bank.get('source'):
        bank['source'] = resolve_data_root(bank['source'])
    _make_or_wait(out, prompts=prompts, **bank)


def _make_or_wait(out, **bank):
    """Make a bank; where another run is making it, let it finish first."""
    waits = False
    while True:
        try:
            return generate_images(out, **bank)
        except OutputLockedError:
            if not waits:
                print_log(
                    f'Another process is making the bank {out}: waiting',
                    logger='current',
                )
            waits = True
            time.sleep(1)


def bank_command(out, bank):
    """The command that makes a bank.

    Args:
        out (str): Folder of the bank.
        bank (dict): Arguments of ``generate_images``.

    Returns:
        str: For a terminal.
    """
    options = ' '.join(
        f'--{key.replace("_", "-")} {value}'
        for key, value in bank.items()
        if key != 'num_prompts'
    )
    prompts = f'{out}_prompts.txt'
    number = bank.get('num_prompts', 100)
    return (
        f'python tools/generate_prompts.py --num {number} --out {prompts} && '
        f'python tools/generate_images.py --prompts {prompts} --out {out} '
        + options
    )
