"""What the layout of a set may ask about its source."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Files:
    """All files of the sources.

    Attributes:
        found (list): Pairs of a source and its members.
    """

    found: list

    def any(self, pattern):
        """Whether there is a file whose path ends as a pattern says.

        Args:
            pattern (str): As in a rule.

        Returns:
            bool: True if there is.
        """
        pattern = re.compile('(?:.*/)?' + pattern)
        return any(
            pattern.fullmatch(member.name)
            for _, members in self.found
            for member in members
        )

    def read(self, name):
        """Return the content of the first file with a name.

        Args:
            name (str): Without folders.

        Returns:
            bytes | None: None if there is none.
        """
        for source, members in self.found:
            for member in members:
                if member.name.rpartition('/')[2] != name:
                    continue
                if source.streamed:
                    return next(source.stream([member.place]))[1]
                return source.read(member)
        return None
