"""Checkpoints that are safe to interrupt, and checks of their classes."""

import logging
import os.path as osp

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmseg.registry import HOOKS

from clouds_mmseg.conversion.diagnose import classes_of
from clouds_mmseg.engine.finite_weights import require_finite_weights
from clouds_mmseg.utils.atomic import atomic_path, leftovers
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.partial import LoadOptions, normalised_name


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend with atomic writes.

    mmengine writes a checkpoint by ``put`` of the chosen backend, so that
    ``backend_args=dict(backend='atomic_local')`` is all that a hook needs.
    """

    def put(self, obj, filepath):
        """Write bytes under a temporary name, then rename.

        Args:
            obj (bytes): What to write.
            filepath (str | Path): The final path.
        """
        with atomic_path(filepath) as temporary:
            super().put(obj, temporary)

    def put_text(self, obj, filepath, encoding='utf-8'):
        """Write text under a temporary name, then rename.

        Args:
            obj (str): What to write.
            filepath (str | Path): The final path.
            encoding (str): Encoding of the file.
        """
        with atomic_path(filepath) as temporary:
            super().put_text(obj, temporary, encoding)


# In the message hub: a run that was killed before it removed them knows.
_RETIRED = 'retired_ckpt_ids'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook in an order that a kill cannot break.

    mmengine removes the oldest checkpoint first, writes the new one in
    place and truncates ``last_checkpoint`` before it writes it. Killed
    between, a run is left with a half-written file or a pointer to a file
    that is gone. Here the new checkpoint is complete under its final name
    before ``last_checkpoint`` is replaced by one that names it, and the
    oldest goes later.

    Weights that are NaN or infinite are never saved: the run stops, and the
    newest checkpoint stays. Finite weights may be useless too, after a step
    that was far too large. So the oldest goes only after another step has
    been made from the newest, or the training has ended: until then
    there is one more than ``max_keep_ckpts``.

    Args:
        backend_args (dict, optional): File backend of mmengine, for stores
            that are not a local disk. Defaults to atomic local writes.
        **kwargs: Arguments of :class:`mmengine.hooks.CheckpointHook`.
    """

    def __init__(self, *args, backend_args=None, **kwargs):
        if backend_args is None:
            backend_args = dict(backend='atomic_local')
        super().__init__(*args, backend_args=backend_args, **kwargs)

    def before_train(self, runner):
        """Find the folder, and sweep what a killed run left unfinished.

        Args:
            runner (Runner): The runner of the training process.
        """
        super().before_train(runner)
        self._retired = list(runner.message_hub.get_info(_RETIRED) or [])
        local = isinstance(self.file_backend, AtomicLocalBackend)
        if local and is_main_process():
            names = self.filename_tmpl.format('*')
            checkpoints = osp.join(self.out_dir, names)
            pointer = osp.join(runner.work_dir, 'last_checkpoint')
            for path in leftovers(checkpoints) + leftovers(pointer):
                path.unlink(missing_ok=True)
                runner.logger.info(
                    f'Removed {path}, left by a run that was killed.'
                )

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        """Remove what a step has made superfluous, and save if it is time.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch.
            data_batch (dict): Not used.
            outputs (dict): Not used.
        """
        skipped = runner.message_hub.get_info('skipped_steps') or [None]
        if skipped[-1] != runner.iter + 1:
            self._remove_retired()
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_train(self, runner):
        """Remove what is superfluous now that the training has ended.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._remove_retired()
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner, step, meta):
        """Write, then point; what becomes superfluous is removed later.

        Args:
            runner (Runner): The runner of the training process.
            step (int): Iterations (or epochs) done.
            meta (dict): ``epoch`` and ``iter`` that a resumed run starts
                with.

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

    def _retire(self, step):
        """Note a new checkpoint; return the step of the one to remove.

        Args:
            step (int): Step of the checkpoint that is about to be written.

        Returns:
            int | None: Step of the checkpoint that exceeds
            ``max_keep_ckpts``, if any.
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
    """Compare the classes of checkpoint and test images, name by name.

    Their numbers may agree by chance: then every score would be wrong, and
    nothing would say so. Case and the kind of separator do not count.

    Raises:
        UserError: They differ; both lists are in the message.
    """

    def after_load_checkpoint(self, runner, checkpoint):
        """Compare them before any weight is loaded.

        Args:
            runner (Runner): Its test loop is built.
            checkpoint (dict): As loaded.
        """
        wanted = runner.test_loop.dataloader.dataset.metainfo.get('classes')
        found = classes_of(checkpoint.get('meta'))
        if found is None or wanted is None:
            print_log(
                'The checkpoint does not say for which classes it was '
                'trained: they are taken to be those of the test images.',
                logger='current',
                level=logging.WARNING,
            )
            return
        if [normalised_name(n) for n in found] == [
            normalised_name(n) for n in wanted
        ]:
            return
        how = LoadOptions.of(runner.cfg.get('load_cfg')).class_rows
        if how == 'by_position' and len(found) == len(wanted):
            return
        raise UserError(
            f'the checkpoint was trained for {len(found)} classes: '
            f'{", ".join(found)}; the test images are labelled with '
            f'{len(wanted)}: {", ".join(wanted)}. Test it on images of its '
            'own classes; if they are the same under other names, give '
            '--cfg-options load_cfg.class_rows=by_position'
        )
