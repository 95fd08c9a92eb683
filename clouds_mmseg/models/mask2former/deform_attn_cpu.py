"""Deformable attention on the CPU as sparse matrix products.

Letters as in ``deform_attn.py``: N images, S tokens, Q queries, H heads,
L levels, P sampling points, D channels of a head. B = 4 * L * P is the number
of pixels that a query reads with one head (four around each location), S' the
number of tokens with the zero border around each map.
"""

import itertools
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

# Queries whose indices are computed at a time: they stay in the cache.
_CHUNK = 2048


def ms_deform_attn_cpu(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Sample by sparse matrix products; see ``ms_deform_attn``.

    For one image and head, the output of all queries is the product of a
    sparse matrix (Q, S') with the tokens (S', D): a row holds the attention
    weight times the bilinear weight of each of the B pixels that the query
    reads. Both gradients are products with such a matrix too: ``grid_sample``
    and torch's own gradient of ``embedding_bag``, which sorts all indices,
    are several times slower. The tokens of one head are few enough for the
    cache.
    """
    value = value.to(locations.dtype)
    return _MSDeformAttnCPU.apply(value, locations, weights, shapes)


class _MSDeformAttnCPU(torch.autograd.Function):
    """Forward and backward, which share indices and coefficients."""

    @staticmethod
    def forward(ctx, value, locations, weights, shapes):
        """Return (N, Q, H * D)."""
        ctx.maps = maps = _PaddedMaps(shapes, locations.shape, locations.dtype)
        indices, coefficients = maps.sparse_rows(locations, weights)
        ctx.save_for_backward(value, locations, weights, indices, coefficients)
        padded = maps.pad(value)
        out = value.new_empty(*locations.shape[:3], value.shape[3])
        for image, head in maps.images_and_heads():
            out[image, :, head] = F.embedding_bag(
                indices[image, head],
                padded[image, head],
                mode='sum',
                per_sample_weights=coefficients[image, head],
            )
        return out.flatten(2)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradients of value, locations and weights."""
        value, locations, weights, indices, coefficients = ctx.saved_tensors
        maps = ctx.maps
        padded = maps.pad(value)
        grad = grad.unflatten(2, (maps.heads, -1)).transpose(1, 2)
        grad = grad.contiguous()  # (N, H, Q, D)
        grad_value = grad_locations = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_padded = torch.empty_like(padded)

            def sum_one(at):
                grad_padded[at] = _grad_of_tokens(
                    indices[at], coefficients[at], grad[at], padded.shape[2]
                )

            # scipy uses one core and releases the GIL meanwhile.
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(sum_one, maps.images_and_heads()))
            grad_value = maps.unpad(grad_padded)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_coefficients = torch.empty_like(coefficients)
            for at in maps.images_and_heads():
                grad_coefficients[at] = _grad_of_coefficients(
                    indices[at], grad[at], padded[at]
                )
            grad_locations, grad_weights = maps.backward(
                locations, weights, grad_coefficients
            )
        return grad_value, grad_locations, grad_weights, None


def _row_pointers(indices):
    """Row pointers of the CSR matrix with ``indices`` (Q, B): (Q + 1,)."""
    queries, length = indices.shape
    return torch.arange(0, (queries + 1) * length, length, dtype=indices.dtype)


def _grad_of_tokens(indices, coefficients, grad, num_tokens):
    """Sum the output gradients (Q, D) over the queries of a token: (S', D)."""
    matrix = csr_array(
        (
            coefficients.flatten().numpy(),
            indices.flatten().numpy(),
            _row_pointers(indices),
        ),
        shape=(len(indices), num_tokens),
    )
    return torch.from_numpy(matrix.T @ grad.numpy())


def _grad_of_coefficients(indices, grad, padded):
    """Dot products of each query's gradient with its tokens: (Q, B)."""
    with warnings.catch_warnings():
        # torch warns that its sparse matrices are a beta feature.
        warnings.simplefilter('ignore', UserWarning)
        zero = torch.sparse_csr_tensor(
            _row_pointers(indices),
            indices.flatten(),
            torch.zeros(indices.numel(), dtype=grad.dtype),
            (len(indices), len(padded)),
        )
    products = torch.sparse.sampled_addmm(zero, grad, padded.t())
    return products.values().view(indices.shape)


class _PaddedMaps:
    """Layout of flattened maps with a border of zeros around each.

    The border, one pixel wide, stands for everything outside of a map. In
    shapes below, K = H * L * P.

    Args:
        shapes: Height and width of each map.
        size: (N, Q, H, L, P, 2), shape of the locations.
        dtype: Of the locations.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        size: tuple[int, ...],
        dtype: torch.dtype,
    ):
        self.images, self.queries, self.heads, levels, points, _ = size
        self.points = levels * points  # of one head
        self.shapes = shapes
        self.starts, self.num_tokens = [], 0
        for h, w in shapes:
            self.starts.append(self.num_tokens)
            self.num_tokens += (h + 2) * (w + 2)
        # torch refuses a sparse matrix with more entries than elements.
        self.num_tokens = max(self.num_tokens, 4 * self.points)

        def per_location(numbers, dtype):
            """Repeat a number of each level for its locations: (chunk, K)."""
            numbers = torch.tensor(numbers, dtype=dtype)[:, None]
            numbers = numbers.expand(self.heads, levels, points).flatten()
            # Broadcasting rows this short costs more than the arithmetic.
            return numbers.repeat(min(_CHUNK, self.queries), 1)

        self.sides = [
            per_location([w for _, w in shapes], dtype),
            per_location([h for h, _ in shapes], dtype),
        ]
        self.row_length = per_location([w + 2 for _, w in shapes], torch.int32)
        # The first pixel inside of the border.
        self.first = per_location(
            [
                start + w + 3
                for start, (_, w) in zip(self.starts, shapes, strict=True)
            ],
            torch.int32,
        )

    def images_and_heads(self):
        """Yield each pair (image, head)."""
        return itertools.product(range(self.images), range(self.heads))

    def pad(self, value):
        """Add the borders of zeros: (N, S, H, D) to (N, H, S', D)."""
        padded = value.new_zeros(
            self.images, self.heads, self.num_tokens, value.shape[3]
        )
        maps = value.transpose(1, 2).split([h * w for h, w in self.shapes], 2)
        for interior, tokens, shape in zip(
            self._interiors(padded), maps, self.shapes, strict=True
        ):
            interior.copy_(tokens.unflatten(2, shape))
        return padded

    def unpad(self, padded):
        """Remove the borders: (N, H, S', D) to (N, S, H, D)."""
        maps = [
            x.flatten(2, 3).transpose(1, 2) for x in self._interiors(padded)
        ]
        return torch.cat(maps, dim=1)

    def _interiors(self, padded):
        """Views of the maps without borders, (N, H, h, w, D) each."""
        return [
            padded[:, :, start : start + (h + 2) * (w + 2)].unflatten(
                2, (h + 2, w + 2)
            )[:, :, 1:-1, 1:-1]
            for start, (h, w) in zip(self.starts, self.shapes, strict=True)
        ]

    def sparse_rows(self, locations, weights):
        """Compute the rows of the sparse matrices.

        Args:
            locations: (N, Q, H, L, P, 2).
            weights: (N, Q, H, L, P).

        Returns:
            Indices of tokens (N, H, Q, B) int32, and coefficients
            (N, H, Q, B) in the dtype of the locations.
        """
        size = (self.images, self.heads, self.queries, 4, self.points)
        indices = locations.new_empty(size, dtype=torch.int32)
        coefficients = locations.new_empty(size)
        for image, chunk in self._chunks():
            (x, dx), (y, dy) = self._corners(locations[image, chunk])
            weight = weights[image, chunk].flatten(1)
            count = len(weight)
            bottom = weight * dy
            top = weight - bottom
            bottom_right, top_right = bottom * dx, top * dx
            row_length = self.row_length[:count]
            above = (y * row_length).add_(x).add_(self.first[:count])
            below = above + row_length
            for corner, (index, coefficient) in enumerate(
                (
                    (above, top - top_right),
                    (above + 1, top_right),
                    (below, bottom - bottom_right),
                    (below + 1, bottom_right),
                )
            ):
                indices[image, :, chunk, corner] = self._by_head(index)
                coefficients[image, :, chunk, corner] = self._by_head(
                    coefficient
                )
        return indices.flatten(3), coefficients.flatten(3)

    def _by_head(self, numbers):
        """Reshape (chunk, K) to (H, chunk, L * P)."""
        return numbers.unflatten(1, (self.heads, self.points)).transpose(0, 1)

    def backward(self, locations, weights, grad_coefficients):
        """Propagate the coefficients' gradient to locations and weights.

        Args:
            locations: (N, Q, H, L, P, 2).
            weights: (N, Q, H, L, P).
            grad_coefficients: (N, H, Q, B).

        Returns:
            Two gradients, in the shapes of the first two arguments.
        """
        grad_locations = torch.empty_like(locations)
        grad_weights = torch.empty_like(weights)
        by_corner = grad_coefficients.unflatten(3, (4, -1)).transpose(1, 2)
        for at in self._chunks():
            (_, dx), (_, dy) = self._corners(locations[at])
            weight = weights[at].flatten(1)
            top_left, top_right, bottom_left, bottom_right = (
                corner.flatten(1) for corner in by_corner[at].unbind(2)
            )
            along_top = top_right - top_left
            along_bottom = bottom_right - bottom_left
            top = torch.addcmul(top_left, along_top, dx)
            bottom = torch.addcmul(bottom_left, along_bottom, dx)
            grad_x = torch.lerp(along_top, along_bottom, dy).mul_(weight)
            grad_y = (bottom - top).mul_(weight)
            for axis, grad in enumerate((grad_x, grad_y)):
                side = self.sides[axis][: len(weight)]
                pixel = self._to_pixels(locations[at], axis)
                # Further outside, all four pixels are zero: no gradient.
                grad.mul_((pixel >= -1) & (pixel < side)).mul_(side)
                out = grad_locations[at][..., axis]
                out.copy_(grad.view(out.shape))
            out = grad_weights[at]
            out.copy_(torch.lerp(top, bottom, dy).view(out.shape))
        return grad_locations, grad_weights

    def _chunks(self):
        """Yield indices (image, slice of queries)."""
        for image in range(self.images):
            for start in range(0, self.queries, _CHUNK):
                yield image, slice(start, start + _CHUNK)

    def _to_pixels(self, locations, axis):
        """Scale locations to pixels of x or y: (chunk, K)."""
        locations = locations[..., axis].flatten(1)
        return (locations * self.sides[axis][: len(locations)]).sub_(0.5)

    def _corners(self, locations):
        """Find the pixels around locations.

        Args:
            locations: (chunk, H, L, P, 2), in [0, 1] of a map.

        Yields:
            For x and for y: the pixel before each location, int32 in
            [-1, side), and the distance from it in [0, 1]; both (chunk, K).
        """
        for axis, side in enumerate(self.sides):
            side = side[: len(locations)]
            # Pixels of the border have the index -1 and ``side``; what lies
            # further outside is zero as well.
            pixel = self._to_pixels(locations, axis).clamp_(min=-1)
            pixel = torch.minimum(pixel, side)
            corner = torch.minimum(pixel.floor(), side - 1)
            distance = pixel.sub_(corner)
            # In a diverged run locations are NaN: the output then is NaN
            # too, but the indices must stay inside of the tokens.
            yield corner.nan_to_num_(nan=-1.0).int(), distance
