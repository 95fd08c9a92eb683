"""One line that tells how far a run is."""

import sys

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from tqdm import tqdm

from clouds_mmseg.engine.terminal import (
    install_terminal_filter,
    is_interactive,
    terminal_handlers,
)

# Lines of LoggerHook that say the same as the progress line.
_REPLACED = ('Iter(train)', 'Iter(val)', 'Iter(test)', 'Saving checkpoint at')

# Iterations over which the loss is averaged.
_WINDOW = 20


class _AboveTheBar:
    """A stream that prints above the progress line instead of through it."""

    def write(self, text):
        tqdm.write(text, file=sys.stdout, end='')

    def flush(self):
        sys.stdout.flush()


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show a progress line with rate, remaining time and loss.

    Only where a person watches, that is on a terminal and in the first
    process. Elsewhere (a file, a pipe, a scheduler's log) nothing is drawn:
    the lines of ``LoggerHook`` have the same numbers and stay readable.

    Args:
        enabled (bool, optional): Draw in any case, or never. Defaults to
            drawing on a terminal.
    """

    priority = 'LOWEST'

    def __init__(self, enabled=None):
        self.enabled = enabled
        self._bars = []
        self._handlers = []

    def before_run(self, runner):
        """Let the log share the terminal with the line.

        Args:
            runner (Runner): The runner.
        """
        if self.enabled is None:
            self.enabled = is_interactive()
        self.enabled = self.enabled and is_main_process()
        if self.enabled and not self._handlers:
            install_terminal_filter(runner.logger).hidden.update(_REPLACED)
            for handler in terminal_handlers(runner.logger):
                self._handlers.append((handler, handler.stream))
                handler.setStream(_AboveTheBar())

    def after_run(self, runner):
        """Give the terminal back.

        Args:
            runner (Runner): The runner.
        """
        while self._bars:
            self._bars.pop().close()
        for handler, stream in self._handlers:
            handler.setStream(stream)
        if self._handlers:
            install_terminal_filter(runner.logger).hidden.difference_update(
                _REPLACED
            )
        self._handlers = []

    def before_train(self, runner):
        """Start the line of the training.

        Args:
            runner (Runner): The runner.
        """
        self._open('train', runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        """Advance by an iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (dict): Not used.
            outputs (dict): Not used.
        """
        if self._bars:
            scalars = runner.message_hub.log_scalars
            if 'train/loss' in scalars:
                loss = scalars['train/loss'].mean(_WINDOW)
                self._bars[-1].set_postfix(loss=f'{loss:.3f}', refresh=False)
            self._bars[-1].update()

    def after_train(self, runner):
        """End the line of the training.

        Args:
            runner (Runner): The runner.
        """
        self._close()

    def before_val(self, runner):
        """Start the line of a validation.

        Args:
            runner (Runner): The runner.
        """
        self._open('val', len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Advance by a batch.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (dict): Not used.
            outputs (Sequence): Not used.
        """
        if self._bars:
            self._bars[-1].update()

    def after_val(self, runner):
        """End the line of a validation.

        Args:
            runner (Runner): The runner.
        """
        self._close()
        if self._bars:
            # The rate of the training must not count the validation.
            self._bars[-1].unpause()

    def before_test(self, runner):
        """Start the line of a test.

        Args:
            runner (Runner): The runner.
        """
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
