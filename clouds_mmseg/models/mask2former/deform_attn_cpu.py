"""Deformable sampling on the CPU as sparse matrix products."""

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array

# Queries whose numbers are made at a time: they stay in the cache.
_STRIP = 2048


def ms_deform_attn_cpu(value, shapes, places, weights):
    """Read rows of tables; see ``ms_deform_attn``.

    A bag holds, for one query and head, the four cells around each place of
    every level, weighted. Sums of bags are products with a sparse matrix,
    and so are both gradients: ``grid_sample`` and torch's own gradient of
    ``embedding_bag``, which sorts all indices, are several times slower.
    Each head has a table of its own, which is small enough for the cache.
    """
    value = value.to(places.dtype)
    return _MSDeformAttnCPU.apply(value, places, weights, shapes)


class _MSDeformAttnCPU(torch.autograd.Function):
    """Both directions, with the rows and shares of one for the other."""

    @staticmethod
    def forward(ctx, value, places, weights, shapes):
        """Return (N, Q, H * D)."""
        ctx.grid = grid = _Grid(shapes, places.shape, places.dtype)
        rows, shares = grid.bags(places, weights)
        ctx.save_for_backward(value, places, weights, rows, shares)
        table = grid.table(value)
        out = value.new_empty(*places.shape[:3], value.shape[3])
        for image, head in grid.tables():
            out[image, :, head] = F.embedding_bag(
                rows[image, head],
                table[image, head],
                mode='sum',
                per_sample_weights=shares[image, head],
            )
        return out.flatten(2)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of value, places and weights."""
        value, places, weights, rows, shares = ctx.saved_tensors
        grid = ctx.grid
        table = grid.table(value)
        grad = grad.unflatten(2, (grid.heads, -1)).transpose(1, 2)
        grad = grad.contiguous()  # (N, H, Q, D)
        by_value = by_places = by_weights = None
        if ctx.needs_input_grad[0]:
            by_table = torch.empty_like(table)

            def collect(at):
                by_table[at] = _collect(rows[at], shares[at], grad[at], table)

            # scipy counts on one core, and lets others work meanwhile.
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(collect, grid.tables()))
            by_value = grid.inside(by_table)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            by_shares = torch.empty_like(shares)
            for at in grid.tables():
                by_shares[at] = _multiply(rows[at], grad[at], table[at])
            by_places, by_weights = grid.gradients(places, weights, by_shares)
        return by_value, by_places, by_weights, None


def _ends(rows):
    """Where the bags (Q, B) end in the flattened rows: (Q + 1,)."""
    bags, length = rows.shape
    return torch.arange(0, (bags + 1) * length, length, dtype=rows.dtype)


def _collect(rows, shares, grad, table):
    """Sum the gradients (Q, D) of the bags that read each row: (S', D)."""
    matrix = csr_array(
        (shares.flatten().numpy(), rows.flatten().numpy(), _ends(rows)),
        shape=(len(rows), table.shape[2]),
    )
    return torch.from_numpy(matrix.T @ grad.numpy())


def _multiply(rows, grad, table):
    """Multiply each bag's gradient (Q, D) with the rows it read: (Q, B)."""
    with warnings.catch_warnings():
        # Torch calls its sparse matrices a beta feature.
        warnings.simplefilter('ignore', UserWarning)
        zero = torch.sparse_csr_tensor(
            _ends(rows),
            rows.flatten(),
            torch.zeros(rows.numel(), dtype=grad.dtype),
            (len(rows), len(table)),
        )
    found = torch.sparse.sampled_addmm(zero, grad, table.t())
    return found.values().view(rows.shape)


class _Grid:
    """Where the cells lie in a table, and between which a place lies.

    A ring of zeros around each map stands for the outside.

    Args:
        shapes (list[tuple[int, int]]): Height and width of each map.
        size (tuple[int, ...]): (N, Q, H, L, P, 2), of the places.
        dtype (torch.dtype): Of the places.
    """

    def __init__(self, shapes, size, dtype):
        self.images, self.queries, self.heads, levels, points, _ = size
        self.points = levels * points  # of one head
        self.shapes = shapes
        self.starts, self.cells = [], 0
        for h, w in shapes:
            self.starts.append(self.cells)
            self.cells += (h + 2) * (w + 2)
        # A sparse matrix may not hold more numbers than it has places.
        self.cells = max(self.cells, 4 * self.points)

        def lay_out(numbers, dtype):
            """Numbers of each level, once for each place: (strip, K)."""
            numbers = torch.tensor(numbers, dtype=dtype)[:, None]
            numbers = numbers.expand(self.heads, levels, points).flatten()
            # Broadcasting rows this short costs more than the arithmetic.
            return numbers.repeat(min(_STRIP, self.queries), 1)

        self.sides = [
            lay_out([w for _, w in shapes], dtype),
            lay_out([h for h, _ in shapes], dtype),
        ]
        self.pitch = lay_out([w + 2 for _, w in shapes], torch.int32)
        # The first cell inside of the ring.
        self.first = lay_out(
            [
                start + w + 3
                for start, (_, w) in zip(self.starts, shapes, strict=True)
            ],
            torch.int32,
        )

    def tables(self):
        """Index the tables: (image, head) of each."""
        return itertools.product(range(self.images), range(self.heads))

    def table(self, value):
        """Put maps (N, S, H, D) into rings of zeros: (N, H, S', D)."""
        table = value.new_zeros(
            self.images, self.heads, self.cells, value.shape[3]
        )
        maps = value.transpose(1, 2).split([h * w for h, w in self.shapes], 2)
        for inner, cells, shape in zip(
            self._inner(table), maps, self.shapes, strict=True
        ):
            inner.copy_(cells.unflatten(2, shape))
        return table

    def inside(self, table):
        """Take the maps out of their rings: (N, S, H, D)."""
        maps = [x.flatten(2, 3).transpose(1, 2) for x in self._inner(table)]
        return torch.cat(maps, dim=1)

    def _inner(self, table):
        """The maps in a table, (N, H, h, w, D) each."""
        return [
            table[:, :, start : start + (h + 2) * (w + 2)].unflatten(
                2, (h + 2, w + 2)
            )[:, :, 1:-1, 1:-1]
            for start, (h, w) in zip(self.starts, self.shapes, strict=True)
        ]

    def bags(self, places, weights):
        """Find the rows that are read, and their shares.

        Args:
            places (Tensor): (N, Q, H, L, P, 2).
            weights (Tensor): (N, Q, H, L, P).

        Returns:
            tuple[Tensor, Tensor]: (N, H, Q, B) int32 and of the dtype of the
            places.
        """
        size = (self.images, self.heads, self.queries, 4, self.points)
        rows = places.new_empty(size, dtype=torch.int32)
        shares = places.new_empty(size)
        for image, strip in self._strips():
            (x, part_x), (y, part_y) = self._axes(places[image, strip])
            weight = weights[image, strip].flatten(1)
            count = len(weight)
            bottom = weight * part_y
            top = weight - bottom
            bottom_right, top_right = bottom * part_x, top * part_x
            pitch = self.pitch[:count]
            row = (y * pitch).add_(x).add_(self.first[:count])
            below = row + pitch
            for corner, (row_of, share) in enumerate(
                (
                    (row, top - top_right),
                    (row + 1, top_right),
                    (below, bottom - bottom_right),
                    (below + 1, bottom_right),
                )
            ):
                rows[image, :, strip, corner] = self._by_head(row_of)
                shares[image, :, strip, corner] = self._by_head(share)
        return rows.flatten(3), shares.flatten(3)

    def _by_head(self, numbers):
        """Bring (strip, K) to (H, strip, L * P)."""
        return numbers.unflatten(1, (self.heads, self.points)).transpose(0, 1)

    def gradients(self, places, weights, by_shares):
        """Bring the gradient of the shares to places and weights.

        Args:
            places (Tensor): (N, Q, H, L, P, 2).
            weights (Tensor): (N, Q, H, L, P).
            by_shares (Tensor): (N, H, Q, B).

        Returns:
            tuple[Tensor, Tensor]: Of the sizes of the first two.
        """
        by_places = torch.empty_like(places)
        by_weights = torch.empty_like(weights)
        by_shares = by_shares.unflatten(3, (4, -1)).transpose(1, 2)
        for at in self._strips():
            (_, part_x), (_, part_y) = self._axes(places[at])
            weight = weights[at].flatten(1)
            top_left, top_right, bottom_left, bottom_right = (
                part.flatten(1) for part in by_shares[at].unbind(2)
            )
            over_top = top_right - top_left
            over_bottom = bottom_right - bottom_left
            top = torch.addcmul(top_left, over_top, part_x)
            bottom = torch.addcmul(bottom_left, over_bottom, part_x)
            by_x = torch.lerp(over_top, over_bottom, part_y).mul_(weight)
            by_y = (bottom - top).mul_(weight)
            for axis, by_axis in enumerate((by_x, by_y)):
                side = self.sides[axis][: len(weight)]
                spot = self._spots(places[at], axis)
                # Further away, a move does not change what is read.
                by_axis.mul_((spot >= -1) & (spot < side)).mul_(side)
                like = by_places[at][..., axis]
                like.copy_(by_axis.view(like.shape))
            like = by_weights[at]
            like.copy_(torch.lerp(top, bottom, part_y).view(like.shape))
        return by_places, by_weights

    def _strips(self):
        """Index strips of queries, image by image."""
        for image in range(self.images):
            for start in range(0, self.queries, _STRIP):
                yield image, slice(start, start + _STRIP)

    def _spots(self, places, axis):
        """Places (strip, H, L, P, 2) in cells of x or y: (strip, K)."""
        places = places[..., axis].flatten(1)
        return (places * self.sides[axis][: len(places)]).sub_(0.5)

    def _axes(self, places):
        """Find the cells around places.

        Args:
            places (Tensor): (strip, H, L, P, 2), in [0, 1] of a map.

        Yields:
            tuple[Tensor, Tensor]: Of x and of y, the cell before each place,
            int32 in [-1, side), and how far from it in [0, 1]: (strip, K).
        """
        for axis, side in enumerate(self.sides):
            side = side[: len(places)]
            # Cells of the ring have the index -1 and ``side``: past them all
            # is zero.
            spot = self._spots(places, axis).clamp_(min=-1)
            spot = torch.minimum(spot, side)
            corner = torch.minimum(spot.floor(), side - 1)
            part = spot.sub_(corner)
            # A diverged run has places that are no numbers: its values then
            # are none either, but its rows must stay inside of the table.
            yield corner.nan_to_num_(nan=-1.0).int(), part
