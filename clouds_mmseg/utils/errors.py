"""Exceptions that a mistake in the input raises.

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
        finding (str): The message, or its part before the advice.
        advice (str): What to do, where a list of many findings says it once.
        kind (str): ``'damaged'``, ``'size'`` or ``'ids'``: what is wrong
            with a single file.
    """

    def __init__(self, finding, advice='', *, kind='damaged'):
        super().__init__(f'{finding} {advice}' if advice else finding)
        self.finding = finding
        self.kind = kind


class GenerationError(UserError):
    """Prompts or images cannot be made as asked.

    The message names the argument or file, what was found, the rule, and
    what to do.
    """


class OutputLockedError(GenerationError):
    """Another process is making the same share of the same bank."""
