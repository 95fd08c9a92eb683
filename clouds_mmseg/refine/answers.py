"""What SAM answered to the prompts of an image, kept for the next time.

Shape letters: N prompts of P points each; H, W of the image.
"""

import io
from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """SAM's best mask for each prompt.

    Attributes:
        points (np.ndarray): (N, P, 2) float32, (x, y) in pixels.
        masks (np.ndarray): (N, H, W) bool.
        quality (np.ndarray): (N,) float32, as SAM predicts it.
    """

    points: np.ndarray
    masks: np.ndarray
    quality: np.ndarray

    def find(self, points):
        """Look up prompts.

        Args:
            points (np.ndarray): (M, P, 2) float32.

        Returns:
            np.ndarray: (M,) int64, which answer is that to each of them;
            -1 for none.
        """
        places = {p.tobytes(): i for i, p in enumerate(self.points)}
        return np.array(
            [places.get(p.tobytes(), -1) for p in points], np.int64
        )

    def take(self, index):
        """Select answers.

        Args:
            index (np.ndarray): (M,) int64 or bool.

        Returns:
            Answers: M of them.
        """
        return Answers(*(field[index] for field in self))

    def joined(self, other):
        """Append the answers to other prompts of the same image.

        Args:
            other (Answers): They.

        Returns:
            Answers: These, then those.
        """
        pairs = zip(self, other, strict=True)
        return Answers(*(np.concatenate(pair) for pair in pairs))


def none_of(num_points, size):
    """Make the answers to no prompts.

    Args:
        num_points (int): P.
        size (tuple[int, int]): (H, W).

    Returns:
        Answers: N is 0.
    """
    return Answers(
        np.zeros((0, num_points, 2), np.float32),
        np.zeros((0, *size), bool),
        np.zeros(0, np.float32),
    )


def pack(answers):
    """Write answers as one small array: a bit a pixel, then compressed.

    Args:
        answers (Answers): At least one.

    Returns:
        np.ndarray: (bytes,) uint8; 9 KB for 39 masks of 768 x 768 with
        smooth borders.
    """
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        points=answers.points,
        bits=np.packbits(answers.masks, axis=-1),
        quality=answers.quality,
    )
    return np.frombuffer(stream.getvalue(), np.uint8)


def unpack(array, width):
    """Read what :func:`pack` wrote.

    Args:
        array (np.ndarray): (bytes,) uint8.
        width (int): Of the image; bits are kept by eights.

    Returns:
        Answers: As they were.
    """
    with np.load(io.BytesIO(array.tobytes()), allow_pickle=False) as stored:
        return Answers(
            stored['points'],
            np.unpackbits(stored['bits'], axis=-1, count=width).view(bool),
            stored['quality'],
        )
