"""Atomic checkpoint writing, and checks of checkpoint classes."""

import logging
import os.path as osp
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from clouds_mmseg.conversion.diagnose import classes_of
from clouds_mmseg.engine.run_state import require_finite_weights
from clouds_mmseg.utils.atomic import (
    atomic_path,
    leftovers,
    leftovers_below,
    remove_abandoned,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.partial import LoadOptions, normalised_name

# Message hub key: checkpoints that a resumed run still has to remove.
_RETIRED = 'retired_ckpt_ids'


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend with atomic writes.

    mmengine writes checkpoints with ``put`` of the backend, so that a hook
    only needs ``backend_args=dict(backend='atomic_local')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a temporary file, then rename it.

        Args:
            obj: Content of the file.
            filepath: The final path.
        """
        with atomic_path(filepath) as temporary:
            super().put(obj, temporary)

    def put_text(
        self, obj: str, filepath: str | Path, encoding: str = 'utf-8'
    ) -> None:
        """Write text to a temporary file, then rename it.

        Args:
            obj: Content of the file.
            filepath: The final path.
            encoding: Encoding of the file.
        """
        with atomic_path(filepath) as temporary:
            super().put_text(obj, temporary, encoding)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Checkpoint hook that leaves a valid state whenever the run is killed.

    mmengine removes the oldest checkpoint first, writes the new one in
    place and truncates ``last_checkpoint`` before it writes it. A run
    killed in between is left with a truncated file or a pointer to a missing
    one. Here the new checkpoint is complete under its final name
    before ``last_checkpoint`` is replaced by one that names it, and the
    oldest is removed later.

    Weights that are NaN or infinite are never saved: the run stops, and the
    newest checkpoint stays. Finite weights may be useless too, after a step
    that was far too large. The oldest checkpoint is therefore removed only
    after another step from the newest, or at the end of training: until then
    there is one more than ``max_keep_ckpts``.

    Args:
        backend_args: File backend of mmengine, for stores that are not a local
            disk. Defaults to atomic local writes.
        **kwargs: Arguments of :class:`mmengine.hooks.CheckpointHook`.
    """

    def __init__(
        self, *args: Any, backend_args: dict | None = None, **kwargs: Any
    ):
        if backend_args is None:
            backend_args = dict(backend='atomic_local')
        super().__init__(*args, backend_args=backend_args, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Find the folder and remove unfinished files of a killed run."""
        super().before_train(runner)
        self._retired = list(runner.message_hub.get_info(_RETIRED) or [])
        local = isinstance(self.file_backend, AtomicLocalBackend)
        if local and is_main_process():
            names = self.filename_tmpl.format('*')
            # Below the work dir also pictures and results of earlier runs.
            for path in remove_abandoned(
                [
                    *leftovers(osp.join(self.out_dir, names)),
                    *leftovers(osp.join(runner.work_dir, 'last_checkpoint')),
                    *leftovers_below(Path(runner.work_dir)),
                ]
            ):
                runner.logger.info(
                    f'Removed {path}, left by a run that was killed.'
                )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Remove superseded checkpoints after a step, and save if due."""
        skipped = runner.message_hub.get_info('skipped_steps') or [None]
        if skipped[-1] != runner.iter + 1:
            self._remove_retired()
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_train(self, runner: Runner) -> None:
        """Remove superseded checkpoints at the end of training."""
        self._remove_retired()
        super().after_train(runner)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ):
        """Write a checkpoint, then update ``last_checkpoint``.

        Superseded checkpoints are removed later.

        Args:
            step: Iterations (or epochs) done.
            meta: ``epoch`` and ``iter`` that a resumed run starts with.

        Raises:
            NonFiniteError: A weight is NaN or infinite; nothing is written
                or removed.
        """
        require_finite_weights(
            runner, f'the weights to save after iteration {meta["iter"]}'
        )
        retired = self._retire(step) if self.max_keep_ckpts > 0 else None
        if retired is not None:
            self._retired.append(retired)
        if self.max_keep_ckpts > 0:
            # In the message hub before it is saved: a resumed run must
            # know which checkpoints exist.
            runner.message_hub.update_info(
                'keep_ckpt_ids', list(self.keep_ckpt_ids)
            )
            runner.message_hub.update_info(_RETIRED, list(self._retired))
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('last_ckpt_iter', meta['iter'])
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        AtomicLocalBackend().put_text(
            self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint')
        )

    def _remove_retired(self):
        """Remove the checkpoints beyond ``max_keep_ckpts``."""
        retired, self._retired = self._retired, []
        for step in retired if is_main_process() else ():
            path = self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(step)
            )
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _retire(self, step: int) -> int | None:
        """Register a new checkpoint; return the step of the one to remove.

        Args:
            step: Step of the checkpoint that is about to be written.

        Returns:
            Step of the checkpoint that exceeds ``max_keep_ckpts``, if any.
        """
        ids = self.keep_ckpt_ids
        # The best checkpoint's bookkeeping saves the same step twice.
        if ids and ids[-1] == step:
            return None
        retired = ids[0] if len(ids) == self.max_keep_ckpts else None
        ids.append(step)  # a deque of bounded length drops the oldest
        return retired


@HOOKS.register_module()
class CheckpointClassesHook(Hook):
    """Compare the class names of checkpoint and test dataset.

    Equal numbers of classes may be a coincidence, and all scores would be
    wrong without an error. Case and kind of separator are ignored.

    Raises:
        UserError: They differ; both lists are in the message.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the classes before weights are loaded.

        Args:
            runner: Its test loop is built.
            checkpoint: As loaded.
        """
        tested = runner.test_loop.dataloader.dataset.metainfo.get('classes')
        found = classes_of(checkpoint.get('meta'))
        if found is None or tested is None:
            print_log(
                'The checkpoint does not say for which classes it was '
                'trained: they are taken to be those of the test images.',
                logger='current',
                level=logging.WARNING,
            )
            return
        if [normalised_name(n) for n in found] == [
            normalised_name(n) for n in tested
        ]:
            return
        how = LoadOptions.of(runner.cfg.get('load_cfg')).class_rows
        if how == 'by_position' and len(found) == len(tested):
            return
        raise UserError(
            f'the checkpoint was trained for {len(found)} classes: '
            f'{", ".join(found)}; the test images are labelled with '
            f'{len(tested)}: {", ".join(tested)}. Test it on images of its '
            'own classes; if they are the same under other names, give '
            '--cfg-options load_cfg.class_rows=by_position'
        )
