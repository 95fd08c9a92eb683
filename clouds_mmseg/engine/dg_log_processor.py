"""One readable line after an evaluation over many domains."""

from mmengine.runner import LogProcessor
from mmseg.registry import LOG_PROCESSORS


@LOG_PROCESSORS.register_module()
class DGLogProcessor(LogProcessor):
    """mmengine's log processor without the values of single domains.

    Six domains of 19 classes make a line of 130 values. The metric logs
    them as tables; the line after an evaluation keeps what is no
    ``<domain>/<name>``. All values still go to the visualizer's backends.
    """

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
