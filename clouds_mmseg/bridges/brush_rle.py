"""Run-length code of the brush masks of Label Studio.

The format is ``rle-pack`` of thi.ng/umbrella, a stream of bits: the number of
values (32 bits), the size of a value minus one (5), four sizes of lengths
minus one (4 each). Then runs: one bit that tells a repeated value from a list
of values, two bits that choose the size of the length, the length minus one,
and the value or the values. The values are those of an RGBA image, row by
row; here all four channels of a pixel are 255 or 0.
"""

from collections.abc import Sequence

import numpy as np

from clouds_mmseg.utils.errors import UserError

_COUNT_BITS, _WORD_BITS, _SIZE_BITS = 32, 5, 4
_WORD = 8
_SIZES = (3, 4, 8, 16)
_CHANNELS = 4
# Of the alpha channel.
_PAINTED = 128


def encode_mask(mask: np.ndarray) -> list[int]:
    """Encode a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        Bytes.
    """
    flat = np.asarray(mask, bool).ravel()
    count = flat.size * _CHANNELS
    parts = [f'{count:0{_COUNT_BITS}b}', f'{_WORD - 1:0{_WORD_BITS}b}']
    parts += [f'{size - 1:0{_SIZE_BITS}b}' for size in _SIZES]
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    ends = np.append(starts[1:], flat.size)
    longest = 1 << _SIZES[-1]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value = '1' * _WORD if flat[start] else '0' * _WORD
        left = (end - start) * _CHANNELS
        while left:
            length = min(left, longest)
            choice = next(
                i for i, size in enumerate(_SIZES) if length <= 1 << size
            )
            parts.append(
                f'1{choice:02b}{length - 1:0{_SIZES[choice]}b}{value}'
            )
            left -= length
    text = ''.join(parts)
    bits = np.frombuffer(text.encode(), np.uint8) - ord('0')
    return np.packbits(bits).tolist()


def decode_mask(code: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode a mask.

    Args:
        code: Bytes of :func:`encode_mask` or of Label Studio.
        height: Of the image.
        width: Of the image.

    Returns:
        (height, width) bool: where the alpha channel is at least 128.

    Raises:
        UserError: The code is damaged, or of an image of another size.
    """
    try:
        data = np.array(code, np.uint8)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError('its rle is no list of bytes') from error
    text = (np.unpackbits(data) + ord('0')).astype(np.uint8).tobytes()
    bits = text.decode()
    place = 0

    def take(size):
        nonlocal place
        part = bits[place : place + size]
        if len(part) < size:
            raise UserError('its rle ends too early')
        place += size
        return int(part, 2)

    count = take(_COUNT_BITS)
    expected = height * width * _CHANNELS
    if count != expected:
        raise UserError(
            f'its rle has {count} values, and an image of {width}x{height} '
            f'has {expected}'
        )
    word = take(_WORD_BITS) + 1
    sizes = [take(_SIZE_BITS) + 1 for _ in range(4)]
    if word != _WORD:
        raise UserError(f'its rle has values of {word} bits, not of {_WORD}')
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        if done + length > count:
            raise UserError('its rle has more values than the image')
        if repeated:
            values[done : done + length] = take(_WORD)
        else:
            for index in range(done, done + length):
                values[index] = take(_WORD)
        done += length
    alpha = values.reshape(height, width, _CHANNELS)[..., -1]
    return alpha >= _PAINTED
