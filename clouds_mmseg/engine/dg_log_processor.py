"""Log lines that a person can read."""

import re

from mmengine.runner import LogProcessor
from mmseg.registry import LOG_PROCESSORS

# `decode.d3.loss_mask: 0.5217`: a loss of a decoder layer before the last.
_LAYER_LOSS = re.compile(r'  \w+\.d\d+\.loss_\w+: \S+')


@LOG_PROCESSORS.register_module()
class DGLogProcessor(LogProcessor):
    """mmengine's log processor without what makes its lines too long.

    Six domains of 19 classes make a line of 130 values. The metric logs
    them as tables; the line after an evaluation keeps what is no
    ``<domain>/<name>``. The line of a training iteration leaves out the
    losses of all decoder layers but the last. All values still go to the
    visualizer's backends.
    """

    def get_log_after_iter(self, runner, batch_idx, mode):
        """Format the log line of an iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch.
            mode (str): ``'train'``, ``'val'`` or ``'test'``.

        Returns:
            tuple[dict, str]: All values, and the line.
        """
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        return tag, _LAYER_LOSS.sub('', line)

    def get_log_after_epoch(
        self, runner, batch_idx, mode, with_non_scalar=False
    ):
        """Format the log line after validation or test.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the last batch.
            mode (str): ``'val'`` or ``'test'``.
            with_non_scalar (bool): Whether the returned values include
                those that are no scalars.

        Returns:
            tuple[dict, str]: All values, and the line.
        """
        tag, _ = super().get_log_after_epoch(
            runner, batch_idx, mode, with_non_scalar
        )
        items = [
            f'{name}: {value:.{self.num_digits}f}'
            for name, value in tag.items()
            if isinstance(value, (int, float)) and '/' not in name
        ]
        total = self._get_dataloader_size(runner, mode)
        return tag, f'Iter({mode}) [{total}/{total}]  ' + '  '.join(items)
