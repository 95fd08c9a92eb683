"""What of the log a person sees on the terminal."""

import logging
import sys

# The log file keeps everything. On a terminal these openings of mmengine's
# messages would push the run's own lines off the screen.
_FILE_ONLY = (
    '-' * 60,  # the environment
    'Config:\n',
    'Hooks will be executed',
    'paramwise_options -- ',
    'Distributed training is not used',
    'Exp name:',
    'Checkpoints will be saved to',
    'Advance dataloader',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'The prefix is not set in metric class',
    'Stopped: ',  # The tool prints the error itself.
)
# Said once for every frozen parameter; the model's line counts them.
_FILE_ONLY_ENDINGS = ('is skipped since its requires_grad=False',)


class TerminalFilter(logging.Filter):
    """Keep the framework's long or repeated messages off the terminal.

    Attributes:
        hidden (set[str]): More openings of messages to hide, for a progress
            line that shows the same.
    """

    def __init__(self):
        super().__init__()
        self.hidden = set()

    def filter(self, record):
        """Decide about one record.

        Args:
            record (logging.LogRecord): A record of the run's logger.

        Returns:
            bool: Whether it is shown.
        """
        if record.levelno >= logging.ERROR:
            return True
        message = record.getMessage().strip()
        return not (
            message.startswith((*_FILE_ONLY, *self.hidden))
            or message.endswith(_FILE_ONLY_ENDINGS)
        )


def terminal_handlers(logger):
    """Handlers of a logger that write to a terminal or its redirection.

    Args:
        logger (logging.Logger): The run's logger.

    Returns:
        list[logging.StreamHandler]: Without handlers that write to files.
    """
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]


def install_terminal_filter(logger):
    """Filter what a logger shows on the terminal.

    Args:
        logger (logging.Logger): The run's logger.

    Returns:
        TerminalFilter: The filter, installed once however often called.
    """
    terminal = next(
        (
            f
            for handler in terminal_handlers(logger)
            for f in handler.filters
            if isinstance(f, TerminalFilter)
        ),
        None,
    )
    if terminal is None:
        terminal = TerminalFilter()
        for handler in terminal_handlers(logger):
            handler.addFilter(terminal)
    return terminal


def is_interactive():
    """Whether a person watches: a progress line makes sense.

    Returns:
        bool: True where standard error is a terminal.
    """
    return sys.stderr.isatty()
