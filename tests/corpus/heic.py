"""HEICs, for which pillow-heif has to be installed."""

from __future__ import annotations

import struct

from PIL import Image

from tests.corpus.drawing import drawing, saved


def grid(columns: int, rows: int, side: int) -> bytes:
    """Return the drawing as a grid of square tiles, as iPhones store photos (ISO/IEC 23008-12)."""
    image = drawing(columns * side, rows * side)
    tiles = [
        _coded(image.crop((x, y, x + side, y + side)))
        for y in range(0, image.height, side)
        for x in range(0, image.width, side)
    ]
    configuration = tiles[0][0]
    primary = len(tiles) + 1
    everything = range(1, primary + 1)
    form = b"\0\0" + bytes((rows - 1, columns - 1)) + struct.pack(">HH", *image.size)
    properties = configuration, _sides(side, side), _sides(*image.size)
    uses = [struct.pack(">HBBB", item, 2, 0x81, 2) for item in everything[:-1]]
    uses.append(struct.pack(">HBB", primary, 1, 3))
    kinds = [b"hvc1"] * len(tiles) + [b"grid"]
    entries = [
        _full(b"infe", struct.pack(">HH", item, 0) + kind + b"\0", version=2)
        for item, kind in zip(everything, kinds, strict=True)
    ]
    parts = struct.pack(f">HH{len(tiles)}H", primary, len(tiles), *everything[:-1])
    file_type = _box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(at: int) -> bytes:
        places = b""
        for item, data in zip(everything, [*(data for _, data in tiles), form], strict=True):
            places += struct.pack(">HHHII", item, 0, 1, at, len(data))
            at += len(data)
        return _full(
            b"meta",
            _full(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + _full(b"pitm", struct.pack(">H", primary))
            + _full(b"iinf", struct.pack(">H", primary) + b"".join(entries))
            + _full(b"iref", _box(b"dimg", parts))
            + _box(
                b"iprp",
                _box(b"ipco", b"".join(properties))
                + _full(b"ipma", struct.pack(">I", primary) + b"".join(uses)),
            )
            + _full(b"iloc", struct.pack(">BBH", 0x44, 0, primary) + places),
        )

    start = len(file_type) + len(meta(0)) + 8
    return file_type + meta(start) + _box(b"mdat", b"".join(data for _, data in tiles) + form)


def _coded(tile: Image.Image) -> tuple[bytes, bytes]:
    """Return the decoder's configuration, a box, and the coded bytes of a tile."""
    data = saved(tile, "HEIF", quality=90)
    at = data.index(b"hvcC") - 4
    configuration = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    at = data.index(b"mdat")
    return configuration, data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


def _full(name: bytes, body: bytes, *, version: int = 0) -> bytes:
    return _box(name, bytes((version, 0, 0, 0)) + body)


def _sides(width: int, height: int) -> bytes:
    return _full(b"ispe", struct.pack(">II", width, height))
