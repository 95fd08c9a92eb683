"""What became of every tensor when weights were renamed."""

from dataclasses import dataclass, field

from clouds_mmseg.checkpoints.strict import CheckpointMismatchError
from clouds_mmseg.utils.errors import UserError

_COUNTER = '.num_batches_tracked'
_COUNTER_ABSENT = 'counts batches; changes no output'


@dataclass
class Conversion:
    """Weights under their new names, and what became of every tensor.

    Attributes:
        weights (dict[str, Tensor]): New name -> value.
        moved (list[tuple[str, str]]): Old and new name of what was taken
            from the source.
        unused (dict[str, str]): Old name -> why it was not taken.
        made (dict[str, str]): New name -> how it was made without the
            source.
        absent (dict[str, str]): New name that the result should have and
            has not -> why it may be absent.
        wanted (dict[str, tuple]): New name -> shape, of all that the result
            should have.
    """

    weights: dict = field(default_factory=dict)
    moved: list = field(default_factory=list)
    unused: dict = field(default_factory=dict)
    made: dict = field(default_factory=dict)
    absent: dict = field(default_factory=dict)
    wanted: dict = field(default_factory=dict)

    def take(self, old, new, value):
        """Note that a tensor of the source becomes one of the result.

        Raises:
            UserError: Another one became it already.
        """
        if new in self.weights:
            first = next((a for a, b in self.moved if b == new), new)
            raise UserError(f'both {first} and {old} are called {new} there.')
        self.weights[new] = value
        self.moved.append((old, new))

    def check(self, wanted, source, target, may_lack=()):
        """Compare with the names and shapes that the result should have.

        Args:
            wanted (dict[str, tuple]): Name -> shape.
            source (str): Where the weights come from, for the message.
            target (str): What they are for, for the message.
            may_lack (dict[str, str]): Name that may be absent -> why.

        Raises:
            CheckpointMismatchError: Names or shapes differ.
        """
        self.wanted = {key: tuple(shape) for key, shape in wanted.items()}
        found = {key: tuple(v.shape) for key, v in self.weights.items()}
        missing = {}
        for key, shape in self.wanted.items():
            if key in found:
                continue
            if key in may_lack:
                self.absent[key] = may_lack[key]
            elif key.endswith(_COUNTER):
                self.absent[key] = _COUNTER_ABSENT
            else:
                missing[key] = shape
        unexpected = {k: s for k, s in found.items() if k not in self.wanted}
        misshapen = {
            key: (shape, self.wanted[key])
            for key, shape in found.items()
            if key in self.wanted and shape != self.wanted[key]
        }
        if missing or unexpected or misshapen:
            raise CheckpointMismatchError.listing(
                source,
                target,
                missing=missing,
                unexpected=unexpected,
                misshapen=misshapen,
            )
