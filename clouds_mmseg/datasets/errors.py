"""The one exception that bad data raises."""

from clouds_mmseg.utils.errors import UserError


class DataError(UserError):
    """Data on disk is missing, damaged or not what its dataset expects.

    The message names the file or folder, what was found, the rule, and what
    to do.
    """
