"""Time of the parts of a step."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple


class TimedMethod(NamedTuple):
    """Method that is timed as a part of the whole.

    Attributes:
        owner: Object that has the method; not a class.
        method: Name of the method.
        part: Name of the part; nested parts are subtracted from its time.
        whole: Whether nested parts are counted as this part instead.
    """

    owner: Any
    method: str
    part: str
    whole: bool = False


class RegionTimer:
    """Sums the time spent in timed methods.

    Args:
        synchronize: Waits for the device.
        now: Clock in seconds.

    Attributes:
        seconds (dict[str, float]): Seconds of each part.
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
        """Time the methods within a block.

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
            # In reverse order: a method may be timed twice.
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
