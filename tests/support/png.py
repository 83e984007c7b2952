"""Pictures in tests: as much of PNG as a browser's screenshot needs."""

from __future__ import annotations

import struct
import zlib

Pixel = tuple[int, int, int]


class Picture:
    """A picture of 8 bits a channel, RGB or RGBA, not interlaced.

    Args:
        data: The file.
    """

    def __init__(self, data: bytes) -> None:
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        place, packed, head = 8, b"", b""
        while place < len(data):
            length, kind = struct.unpack_from(">I4s", data, place)
            chunk = data[place + 8 : place + 8 + length]
            head = chunk if kind == b"IHDR" else head
            packed += chunk if kind == b"IDAT" else b""
            place += 12 + length
        self.width, self.height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", head)
        assert (depth, interlaced) == (8, 0)
        self._step = {2: 3, 6: 4}[colours]
        self._rows = self._unfiltered(zlib.decompress(packed))

    def _unfiltered(self, raw: bytes) -> list[bytes]:
        """The rows, with the prediction of each taken back (PNG 9.2)."""
        size, step = self.width * self._step, self._step
        above = bytes(size)
        rows = []
        for start in range(0, len(raw), size + 1):
            kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + size])
            for n in range(size):
                left = row[n - step] if n >= step else 0
                corner = above[n - step] if n >= step else 0
                row[n] = (row[n] + _guess(kind, left, above[n], corner)) & 255
            above = bytes(row)
            rows.append(above)
        return rows

    def at(self, x: int, y: int) -> Pixel:
        """Red, green and blue of a pixel."""
        red, green, blue = self._rows[y][x * self._step : x * self._step + 3]
        return red, green, blue

    def count(self, pixel: Pixel) -> int:
        """How many pixels are like this one."""
        return sum(self.at(x, y) == pixel for y in range(self.height) for x in range(self.width))


def _guess(kind: int, left: int, above: int, corner: int) -> int:
    if kind < 4:
        return (0, left, above, (left + above) // 2)[kind]
    first = left + above - corner
    return min((left, above, corner), key=lambda one: abs(first - one))
