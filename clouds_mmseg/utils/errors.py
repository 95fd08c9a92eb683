"""User-facing exceptions for mistakes in the input.

The tools print their message without a traceback.
"""


class UserError(Exception):
    """A mistake in the input: a path, an option, a file, a config value.

    The tools print its message without a traceback, so the message has to
    say on its own which argument or file is meant, which value was found,
    which rule it breaks and what to do.
    """


class DataError(UserError):
    """Data on disk is missing, damaged or not what its dataset expects.

    The message names the file or folder, what was found, the rule, and what
    to do.

    Args:
        finding: The message, or its part before the advice.
        advice: What to do; given once where a report lists many findings.
        kind: ``'damaged'``, ``'size'`` or ``'ids'``: the fault of a single
            file.
    """

    def __init__(
        self, finding: str, advice: str = '', *, kind: str = 'damaged'
    ):
        super().__init__(f'{finding} {advice}' if advice else finding)
        self.finding = finding
        self.kind = kind


class GenerationError(UserError):
    """Prompts or images cannot be generated as requested.

    The message names the argument or file, what was found, the rule, and
    what to do.
    """


class OutputLockedError(GenerationError):
    """Another process is writing the same share of a generated image set."""
