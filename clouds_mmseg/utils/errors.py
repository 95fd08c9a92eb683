"""What went wrong in words, for the mistakes a user can mend."""


class UserError(Exception):
    """A mistake in the input: a path, an option, a file, a config value.

    The tools print its message without a traceback, so the message has to
    say on its own which argument or file is meant, which value was found,
    which rule it breaks and what to do.
    """
