"""The one exception that bad data raises."""

from clouds_mmseg.utils.errors import UserError


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
