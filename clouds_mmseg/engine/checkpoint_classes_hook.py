"""Refuse a checkpoint whose classes are not those of the test images."""

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmseg.registry import HOOKS

from clouds_mmseg.checkpoints.explain import classes_of
from clouds_mmseg.checkpoints.partial import LoadOptions, plain_name
from clouds_mmseg.utils.errors import UserError


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
        if [plain_name(n) for n in found] == [plain_name(n) for n in wanted]:
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
