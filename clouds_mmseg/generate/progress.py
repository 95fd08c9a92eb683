"""How far a long run is, how fast, and when it will be done."""

import time

from mmengine.logging import print_log


class Progress:
    """Logs a line every few seconds.

    Args:
        total (int): Images of this process.
        there (int): How many of them were there before.
        interval (float): Seconds between two lines.
        clock (Callable[[], float]): Seconds that never go back.
    """

    def __init__(self, total, there, *, interval=10.0, clock=time.monotonic):
        self.total = total
        self.there = there
        self.made = 0
        self.interval = interval
        self.clock = clock
        self.start = self.last = clock()

    def step(self, count=1):
        """Count images, and log if it is time."""
        self.made += count
        now = self.clock()
        if now - self.last >= self.interval:
            self.last = now
            print_log(self.line(), logger='current')

    def rate(self):
        """Images a second in this run; None before there is a measurement."""
        seconds = self.clock() - self.start
        return self.made / seconds if self.made and seconds > 0 else None

    def line(self):
        """Return the line that is logged."""
        done = self.there + self.made
        text = f'{done}/{self.total} images'
        rate = self.rate()
        if rate is None:
            return text
        left = duration((self.total - done) / rate)
        return f'{text}, {rate:.2f} images/s, {left} left'


def duration(seconds):
    """Write seconds as ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}'
