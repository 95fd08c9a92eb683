"""A table of names that can be read in both directions."""

import re


class KeyTable:
    """Parts of names here and what they are called there.

    A part matches the beginning of a name, whole segments only; ``{}``
    stands for a number. The first part that matches counts, so that longer
    ones have to come before their beginnings. That must hold for both
    columns: :meth:`inverse` is the same table read from right to left.

    Args:
        parts (Mapping[str, str]): Name here -> name there, with as many
            ``{}`` on both sides, in the same order.
    """

    def __init__(self, parts):
        self.parts = dict(parts)
        self._rules = [
            (
                re.compile(
                    re.escape(here).replace(r'\{\}', r'(\d+)') + r'(?=\.|\Z)'
                ),
                there,
            )
            for here, there in self.parts.items()
        ]

    def __call__(self, key):
        """Rename one key.

        Args:
            key (str): A whole name.

        Returns:
            str | None: What it is called there; None if it has no name.
        """
        for pattern, there in self._rules:
            if match := pattern.match(key):
                return there.format(*match.groups()) + key[match.end() :]
        return None

    def inverse(self):
        """Read the table from right to left.

        Returns:
            KeyTable: Name there -> name here.
        """
        return KeyTable({there: here for here, there in self.parts.items()})

    def under(self, here, there):
        """Put a prefix before both columns.

        Args:
            here (str): With its dot.
            there (str): With its dot.

        Returns:
            KeyTable: The table of a submodule's whole names.
        """
        return KeyTable(
            {here + old: there + new for old, new in self.parts.items()}
        )

    def __or__(self, other):
        return KeyTable({**self.parts, **other.parts})
