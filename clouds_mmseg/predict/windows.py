"""Scores of large images: from windows to strips of rows.

Neither the scores of all classes at full size nor the activations of the
whole image are ever held: windows come row by row, the rows that no later
window covers are complete, and they are resized to the size of the image and
used strip by strip.

Letters: K classes, h and w of the input of the network, H and W of the image.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Bytes of a strip.
_STRIP = 64 << 20


def predict_bands(
    predict: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    window: int | None,
) -> Iterator[Tensor]:
    """Predict windows and average the scores where they overlap.

    Windows overlap by a third. The result is that of sliding window
    inference of MMSegmentation with the same windows.

    Args:
        predict: Called with the rows and columns of a window; returns its
            scores, (K, rows, columns) float.
        size: h and w.
        window: Side of a window, pixels; None for one that is the whole.

    Yields:
        Bands (K, rows, w) from top to bottom, together h rows.
    """
    if window is None:
        yield predict(slice(0, size[0]), slice(0, size[1]))
        return
    stride = window * 2 // 3
    rows_of, columns_of = (_spans(side, window, stride) for side in size)
    total, count = torch.empty(0), torch.empty(0)
    above = 0  # Rows that were yielded.
    for rows in rows_of:
        if rows.start > above:
            done = rows.start - above
            yield total[:, :done] / count[:done]
            total[:, :-done], count[:-done] = (
                total[:, done:].clone(),
                count[done:].clone(),
            )
            total[:, -done:], count[-done:] = 0, 0
            above = rows.start
        for columns in columns_of:
            part = predict(rows, columns).float()
            if not total.numel():
                height = rows.stop - rows.start
                total = part.new_zeros(len(part), height, size[1])
                count = part.new_zeros(height, size[1])
            total[:, :, columns] += part
            count[:, columns] += 1
    yield total.div_(count)


def _spans(side, window, stride):
    """Return the windows along one side as slices of equal length."""
    number = max(side - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, side) for i in range(number)]
    return [slice(max(end - window, 0), end) for end in ends]


class StripResizer:
    """Resizes scores that come in bands, bilinearly, strip by strip.

    The result is that of ``F.interpolate`` for the whole, up to rounding.

    Args:
        source: h and w.
        target: H and W.
        align_corners: As for ``F.interpolate``.
    """

    def __init__(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        align_corners: bool = False,
    ):
        self.source, self.target = source, target
        self.align_corners = align_corners
        rows = torch.arange(target[0], dtype=torch.float64)
        if source[0] == target[0]:
            place = rows
        elif align_corners:
            place = rows * ((source[0] - 1) / max(target[0] - 1, 1))
        else:
            place = (rows + 0.5) * (source[0] / target[0]) - 0.5
            place = place.clamp(min=0)
        # The two source rows of each row, and the weight of the second.
        self._upper = place.floor().long().clamp(max=source[0] - 1)
        same = source[0] == target[0]
        self._lower = self._upper if same else self._upper + 1
        self._lower = self._lower.clamp(max=source[0] - 1)
        self._weight = (place - self._upper).float()
        self._kept: Tensor | None = None
        self._offset = 0  # First source row that is kept.
        self._next = 0  # First row that was not yielded.

    def add(self, band: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Add the next rows of the source.

        Args:
            band: (K, rows, w) float.

        Yields:
            First row and scores (K, rows, W) of the strips that are complete,
            with which all bands together are H rows.
        """
        kept = band
        if self._kept is not None and self._kept.shape[1]:
            kept = torch.cat([self._kept, band], dim=1)
        self._kept = None
        stop = self._offset + kept.shape[1]
        # Rows whose source rows are there.
        ready = int(torch.searchsorted(self._lower, stop))
        most = max(1, _STRIP // (4 * len(kept) * self.target[1]))
        while self._next < ready:
            first, last = self._next, min(self._next + most, ready)
            yield first, self._strip(kept, first, last)
            self._next = last
        if self._next < self.target[0]:
            used = int(self._upper[self._next]) - self._offset
            # A smaller result skips rows, also those of the next band.
            used = min(used, kept.shape[1])
            self._kept = kept[:, used:].clone()
            self._offset += used

    def _strip(self, kept, first, last):
        if self.source[0] == self.target[0]:
            strip = kept[:, first - self._offset : last - self._offset]
        else:
            upper = (self._upper[first:last] - self._offset).to(kept.device)
            lower = (self._lower[first:last] - self._offset).to(kept.device)
            weight = self._weight[first:last, None].to(kept.device)
            strip = torch.lerp(kept[:, upper], kept[:, lower], weight)
        if self.source[1] == self.target[1]:
            return strip
        return F.interpolate(
            strip[None],
            size=(last - first, self.target[1]),
            mode='bilinear',
            align_corners=self.align_corners,
        )[0]
