"""Progress of a run on the terminal and in the log."""

import re
import sys
from collections.abc import Sequence

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import LogProcessor, Runner
from mmseg.registry import HOOKS, LOG_PROCESSORS
from tqdm import tqdm

from clouds_mmseg.engine.portable_runner import (
    install_terminal_filter,
    terminal_handlers,
)

# Prefixes of LoggerHook's lines that the progress line replaces.
_REPLACED = ('Iter(train)', 'Iter(val)', 'Iter(test)', 'Saving checkpoint at')
# Iterations over which the displayed loss is averaged.
_WINDOW = 20


def is_interactive() -> bool:
    """Return whether standard error is a terminal."""
    return sys.stderr.isatty()


class _AboveTheBar:
    """Stream that prints above the progress line."""

    def write(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout, end='')

    def flush(self) -> None:
        sys.stdout.flush()


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show a progress line with rate, remaining time and loss.

    On a terminal and in the first process only. Elsewhere (a file, a pipe, a
    scheduler's log) nothing is drawn: the lines of ``LoggerHook`` have the
    same values.

    Args:
        enabled: Always or never draw. Defaults to drawing on a terminal.
    """

    priority = 'LOWEST'

    def __init__(self, enabled: bool | None = None):
        self.enabled = enabled
        self._bars = []
        self._handlers = []

    def before_run(self, runner: Runner) -> None:
        """Redirect terminal log messages above the progress line."""
        if self.enabled is None:
            self.enabled = is_interactive()
        self.enabled = self.enabled and is_main_process()
        if self.enabled and not self._handlers:
            install_terminal_filter(runner.logger).hidden.update(_REPLACED)
            for handler in terminal_handlers(runner.logger):
                self._handlers.append((handler, handler.stream))
                handler.setStream(_AboveTheBar())

    def after_run(self, runner: Runner) -> None:
        """Close progress lines and restore the log handlers."""
        while self._bars:
            self._bars.pop().close()
        for handler, stream in self._handlers:
            handler.setStream(stream)
        if self._handlers:
            install_terminal_filter(runner.logger).hidden.difference_update(
                _REPLACED
            )
        self._handlers = []

    def before_train(self, runner: Runner) -> None:
        """Start the progress line of training."""
        self._open('train', runner.max_iters, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Advance by an iteration."""
        if self._bars:
            scalars = runner.message_hub.log_scalars
            if 'train/loss' in scalars:
                loss = scalars['train/loss'].mean(_WINDOW)
                self._bars[-1].set_postfix(loss=f'{loss:.3f}', refresh=False)
            self._bars[-1].update()

    def after_train(self, runner: Runner) -> None:
        """End the progress line of training."""
        self._close()

    def before_val(self, runner: Runner) -> None:
        """Start the progress line of a validation."""
        self._open('val', len(runner.val_dataloader))

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Advance by a batch."""
        if self._bars:
            self._bars[-1].update()

    def after_val(self, runner: Runner) -> None:
        """End the progress line of a validation."""
        self._close()
        if self._bars:
            # Exclude the validation from the training speed.
            self._bars[-1].unpause()

    def before_test(self, runner: Runner) -> None:
        """Start the progress line of a test."""
        self._open('test', len(runner.test_dataloader))

    after_test_iter = after_val_iter
    after_test = after_train

    def _open(self, name, total, initial=0):
        if self.enabled:
            self._bars.append(
                tqdm(
                    total=total,
                    initial=initial,
                    desc=name,
                    unit='it',
                    dynamic_ncols=True,
                    # Validation is drawn below the training and vanishes.
                    position=len(self._bars),
                    leave=not self._bars,
                )
            )

    def _close(self):
        if self._bars:
            self._bars.pop().close()


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

    def get_log_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> tuple[dict, str]:
        """Format the log line of an iteration.

        Args:
            mode: ``'train'``, ``'val'`` or ``'test'``.

        Returns:
            All values, and the line.
        """
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        return tag, _LAYER_LOSS.sub('', line)

    def get_log_after_epoch(
        self,
        runner: Runner,
        batch_idx: int,
        mode: str,
        with_non_scalar: bool = False,
    ) -> tuple[dict, str]:
        """Format the log line after validation or test.

        Args:
            batch_idx: Index of the last batch.
            mode: ``'val'`` or ``'test'``.
            with_non_scalar: Whether the returned values include those that are
                no scalars.

        Returns:
            All values, and the line.
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
