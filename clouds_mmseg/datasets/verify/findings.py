"""What can be wrong with a data set, and what was decided about it."""

from dataclasses import dataclass

# What each kind of error is called, in the order in which it is shown.
ERRORS = {
    'layout': 'not where the dataset looks',
    'count': 'another number of images than the release',
    'image': 'images that cannot be read',
    'label': 'labels that cannot be read',
    'size': 'labels of another size than their image',
    'ids': 'labels with ids that the dataset does not define',
    'no_image': 'images that a list names and that do not exist',
    'no_label': 'images without label',
    'orphan': 'labels without image',
    'same_label': 'images that have the label of another one',
    'leak': 'images of training that evaluation has too',
    'ignored': 'labels in which no class ever occurs',
    'depth': 'images that do not use the depth of their files',
    'mask_255': 'a class that may be the id 255, which is ignored',
}
WARNINGS = {
    'duplicate': 'images that occur twice',
    'absent': 'classes that no label of training shows',
    'one_class': 'the only class may be the id 255, which is background',
    'much_ignored': 'more than half of all pixels ignored',
    'all_ignored': 'images whose label is ignored as a whole',
    'orientation': 'images that are turned, and labels that are not',
    'dark': 'images that are black',
    'not_used': 'images that no suffix of the dataset fits',
}
# Those that moving a pair of files aside mends.
MOVABLE = ('image', 'label', 'size', 'ids', 'no_label', 'leak')

OPEN, ACCEPTED, FIXED = 'open', 'accepted', 'fixed'


@dataclass
class Finding:
    """One thing that is wrong.

    Attributes:
        kind (str): A key of :data:`ERRORS` or :data:`WARNINGS`.
        message (str): In words, with paths below the root.
        image (str): Path of the image below the root; empty if there is
            none.
        label (str): Path of the label below the root; empty likewise.
        state (str): ``'open'``, ``'accepted'`` or ``'fixed'``.
    """

    kind: str
    message: str
    image: str = ''
    label: str = ''
    state: str = OPEN

    @property
    def is_error(self):
        """Whether it is more than a warning."""
        return self.kind in ERRORS

    @property
    def file(self):
        """The file to look at; empty where it is none in particular."""
        bad_label = self.kind in ('label', 'size', 'ids', 'orphan')
        return self.label if bad_label and self.label else self.image

    @property
    def identity(self):
        """tuple: Equal if another verification found the very same."""
        return (self.kind, self.message, self.image, self.label)
