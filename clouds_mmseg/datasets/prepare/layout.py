"""The layouts in which a set is published, and where its files go."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Files of one kind.

    Attributes:
        part (str): ``image`` or ``label``.
        pattern (str): Regular expression of the end of a path. Its named
            groups tell image and label of a pair (equal values) and, if one
            is named ``split``, the split.
        target (str): Path below the output folder; the groups fill it.
        source (str): What a label holds, for the manifest.
        convert (callable, optional): See
            :mod:`clouds_mmseg.datasets.prepare.convert`. None: the file is
            used as it is.
    """

    part: str
    pattern: str
    target: str
    source: str = 'train_ids'
    convert: object = None

    def match(self, name):
        """Return the groups of a path, or None."""
        return re.compile('(?:.*/)?' + self.pattern).fullmatch(name)

    def target_pattern(self):
        """Return the regular expression of all targets.

        Returns:
            str: With the target's groups.
        """
        # Odd parts are names in braces.
        parts = re.split(r'\{(\w+)\}', self.target)
        return ''.join(
            f'(?P<{part}>[^/]+)' if odd % 2 else re.escape(part)
            for odd, part in enumerate(parts)
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a set is published.

    Attributes:
        name (str): As on the command line.
        title (str): For people.
        rules (tuple[Rule]): In the order of preference: a label is made by
            the first that finds a file for it.
        official (dict[str, int]): Split -> images of the official release.
        examples (tuple[str]): Paths of an image and a label, for messages.
        split (str, optional): The split of sets that have only one.
        unlabelled (tuple[str]): Splits that may lack labels.
        labelled_only (bool): Whether images without label are left out
            without a word, in sets whose larger part has none.
        prepare (callable, optional): ``(files, options) -> rules``, for
            sets that describe their classes in a file of their own.
    """

    name: str
    title: str
    rules: tuple = ()
    official: dict = field(default_factory=dict)
    examples: tuple = ()
    split: str | None = None
    unlabelled: tuple = ()
    labelled_only: bool = False
    prepare: object = None


def prepared(part, pattern, target, **kwargs):
    """Make a rule that no prepared file matches.

    A folder may be prepared in place, and the second run must not take the
    labels of the first for published ones.

    Args:
        part (str): See :class:`Rule`.
        pattern (str): Of the file's end; ``{file}`` stands for a file name
            without suffix, in the group ``file``.
        target (str): See :class:`Rule`.
        **kwargs: Of :class:`Rule`.

    Returns:
        Rule: The rule.
    """
    stem = r'(?P<file>(?!\.)[^/]+?(?<!_labelTrainIds))'
    return Rule(
        part=part,
        pattern=pattern.replace('{file}', stem),
        target=target,
        **kwargs,
    )
