"""How the time of a step divides among its parts."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple


class TimedMethod(NamedTuple):
    """A method whose time is a part of the whole.

    Args:
        owner (object): Whose method it is; not a class.
        method (str): Its name.
        part (str): What its time is counted as, less what the parts inside
            of it take.
        whole (bool): Count what is inside of it as this part too.
    """

    owner: Any
    method: str
    part: str
    whole: bool = False


class RegionTimer:
    """Adds up the time inside of watched methods.

    Args:
        synchronize: Waits until the device has done its work.
        now: Tells the time in seconds.

    Attributes:
        seconds (dict[str, float]): Of each part.
    """

    def __init__(self, synchronize: Callable, now: Callable):
        self.seconds = {}
        self._synchronize = synchronize
        self._now = now
        self._open = []  # [start, seconds of the parts inside]
        self._inside_whole = False

    @contextmanager
    def watching(
        self, watches: Sequence[TimedMethod]
    ) -> 'Iterator[RegionTimer]':
        """Replace the methods by ones that are timed, for a block.

        Args:
            watches: The methods.

        Yields:
            Itself.
        """
        replaced = []
        try:
            for watch in watches:
                original = getattr(watch.owner, watch.method)
                own = watch.method in vars(watch.owner)
                replaced.append((watch, original if own else None))
                setattr(
                    watch.owner, watch.method, self._timed(watch, original)
                )
            yield self
        finally:
            # Backwards: a method may be watched twice.
            for watch, original in reversed(replaced):
                if original is None:
                    delattr(watch.owner, watch.method)
                else:
                    setattr(watch.owner, watch.method, original)

    def _timed(self, watch, original):
        @functools.wraps(original)
        def timed(*args, **kwargs):
            if self._inside_whole:
                return original(*args, **kwargs)
            self._inside_whole = watch.whole
            self._synchronize()
            self._open.append([self._now(), 0.0])
            try:
                return original(*args, **kwargs)
            finally:
                self._synchronize()
                start, inside = self._open.pop()
                took = self._now() - start
                if self._open:
                    self._open[-1][1] += took
                known = self.seconds.get(watch.part, 0.0)
                self.seconds[watch.part] = known + took - inside
                if watch.whole:
                    self._inside_whole = False

        return timed
