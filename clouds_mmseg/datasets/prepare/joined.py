"""Several files as one."""

import bisect
import io
import os


class JoinedFile(io.RawIOBase):
    """Reads files, and bytes after them, as if they were one file.

    Args:
        paths (Sequence[str]): The files in their order.
        tail (bytes): What follows the last of them.
    """

    def __init__(self, paths, tail=b''):
        super().__init__()
        self._files = [open(path, 'rb') for path in paths]
        self._files.append(io.BytesIO(tail))
        sizes = [f.seek(0, os.SEEK_END) for f in self._files]
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.size = sum(sizes)
        self._position = 0

    def readable(self):
        """Return True."""
        return True

    def seekable(self):
        """Return True."""
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        """Move, as in every file object."""
        base = {0: 0, 1: self._position, 2: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self):
        """Return the position."""
        return self._position

    def readinto(self, buffer):
        """Read into a buffer, up to the end of one of the files."""
        if self._position >= self.size:
            return 0
        # The last of several that begin here: those before it are empty.
        index = bisect.bisect_right(self.starts, self._position) - 1
        file = self._files[index]
        file.seek(self._position - self.starts[index])
        count = file.readinto(buffer)
        self._position += count
        return count

    def read(self, size=-1):
        """Read ``size`` bytes, fewer only at the end."""
        if size is None or size < 0:
            return self.readall()
        data = bytearray(size)
        view, count = memoryview(data), 0
        while count < size:
            step = self.readinto(view[count:])
            if not step:
                break
            count += step
        view.release()
        return bytes(data[:count])

    def close(self):
        """Close the files."""
        for file in self._files:
            file.close()
        super().close()
