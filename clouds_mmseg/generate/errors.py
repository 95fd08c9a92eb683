"""The exceptions for mistakes in what is asked of generation."""

from clouds_mmseg.utils.errors import UserError


class GenerationError(UserError):
    """Prompts or images cannot be made as asked.

    The message names the argument or file, what was found, the rule, and
    what to do.
    """


class BankBusyError(GenerationError):
    """Another process is making the same share of the same bank."""
