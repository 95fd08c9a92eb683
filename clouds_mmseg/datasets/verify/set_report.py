"""What verification has found out about one set of images and labels."""

from dataclasses import asdict, dataclass, field

from clouds_mmseg.datasets.verify.findings import OPEN, Finding


@dataclass
class SetReport:
    """One dataset: a split of a benchmark, a condition, a folder.

    Attributes:
        name (str): For people: ``'cityscapes val'``.
        root (str): Folder that all paths are below; '' if it has none.
        key (str): See :func:`set_key`; '' if no report is kept.
        training (bool): Whether it is for training.
        images (int): Images that were read.
        expected (int | None): Images that there should be.
        set_aside (int): Images that were moved away or left out earlier.
        classes (list[str]): Names.
        pixels (list[int]): Pixels of each class.
        images_with (list[int]): Images in which each class occurs.
        ignored (int): Pixels that belong to no class.
        sizes (dict[str, int]): ``'1914x1052'`` (width x height) -> images.
        findings (list[Finding]): All that is wrong.
        stamps (dict[str, str]): Path -> stamp, of every file that was read.
        digests (dict[str, tuple[str, str]]): Image -> its hash, and its
            label. Not kept.
        when (str): Time of the verification.
        command (str): Which command made this.
        kept_at (str): File that this was written to or read from; '' if it
            was not written. Not kept.
    """

    name: str
    root: str = ''
    key: str = ''
    training: bool = False
    images: int = 0
    expected: int = None
    set_aside: int = 0
    classes: list = field(default_factory=list)
    pixels: list = field(default_factory=list)
    images_with: list = field(default_factory=list)
    ignored: int = 0
    sizes: dict = field(default_factory=dict)
    findings: list = field(default_factory=list)
    stamps: dict = field(default_factory=dict)
    digests: dict = field(default_factory=dict)
    when: str = ''
    command: str = ''
    kept_at: str = ''

    @property
    def errors(self):
        """list[Finding]: What is more than a warning."""
        return [f for f in self.findings if f.is_error]

    @property
    def open_errors(self):
        """list[Finding]: Errors that are neither accepted nor fixed."""
        return [f for f in self.errors if f.state == OPEN]

    @property
    def warnings(self):
        """list[Finding]: What training does not mind."""
        return [f for f in self.findings if not f.is_error]

    def to_json(self):
        """Return what is kept, as plain values."""
        kept = asdict(self)
        for name in ('root', 'key', 'digests', 'kept_at'):
            del kept[name]
        return kept

    @classmethod
    def from_json(cls, kept, root, key, path):
        """Read what :meth:`to_json` returned.

        Args:
            kept (dict): Plain values.
            root (str): Where the files are now.
            key (str): Of the set.
            path (str): The file.

        Raises:
            TypeError: It is something else.
        """
        found = [Finding(**finding) for finding in kept['findings']]
        return cls(
            **dict(kept, root=root, key=key, findings=found, kept_at=path)
        )
